//! Connections: how many there are, how long a client may dally on one, and how they end.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_io_timeout::TimeoutStream;
use tower_service::Service;
use tracing::{debug, warn};

use super::app::App;
use super::patience::{Patience, Progress, patience};

/// A client that has not sent its headers by then is let go, as is one that keeps a connection and asks
/// nothing.
const HEADERS_TIMEOUT: Duration = Duration::from_secs(30);
/// A client that has read nothing for so long, while something waits for it.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
const MOST_HEADERS: usize = 100;
/// Of a request's head, and of what waits to be written.
const MOST_BUFFERED: usize = 64 << 10;
/// After the system had no room for one more connection.
const BREATH: Duration = Duration::from_millis(50);

/// Accepts connections until it is dropped; those that are open go on.
pub async fn accept(app: Arc<App>, listener: TcpListener, router: Router, open: &GracefulShutdown) {
    let places = Arc::new(Semaphore::new(app.options.max_connections));
    loop {
        // More wait in the system's own queue.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                warn!(%error, "a connection was not accepted");
                tokio::time::sleep(BREATH).await;
                continue;
            }
        };
        let (connection, patience) = connection(stream, router.clone());
        let connection = open.watch(connection);
        let app = Arc::clone(&app);
        tokio::spawn(async move {
            let _place = place;
            app.metrics.connected();
            // A task of its own, so that a token on its way wakes nothing else.
            let mut connection = tokio::spawn(connection);
            tokio::select! {
                ended = &mut connection => if let Ok(Err(error)) = ended {
                    debug!(%error, "a connection ended early");
                },
                () = patience.end(app.closing()) => {
                    debug!("a client was waited for no longer");
                    connection.abort();
                }
            }
            app.metrics.disconnected();
        });
    }
}

type Io = TokioIo<Pin<Box<TimeoutStream<TcpStream>>>>;

fn connection(
    stream: TcpStream,
    router: Router,
) -> (http1::Connection<Io, RouterService>, Patience) {
    // Tokens leave when they are there.
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%error, "TCP_NODELAY");
    }
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(WRITE_TIMEOUT));
    let (progress, patience) = patience();
    // A client that closes its half of the connection is taken to have left (hyper's `half_close` is off):
    // that is how one that goes away in the middle of an answer is noticed.
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS_TIMEOUT)
        .max_headers(MOST_HEADERS)
        .max_buf_size(MOST_BUFFERED)
        .serve_connection(
            TokioIo::new(Box::pin(stream)),
            RouterService { router, progress },
        );
    (connection, patience)
}

/// The router as hyper calls it.
struct RouterService {
    router: Router,
    progress: Progress,
}

impl hyper::service::Service<Request<Incoming>> for RouterService {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        self.progress.asked();
        let progress = self.progress.clone();
        // A router is always ready.
        let answered = self.router.clone().call(request.map(Body::new));
        Box::pin(async move {
            let response = answered.await?;
            progress.answered(&response);
            Ok(response)
        })
    }
}
