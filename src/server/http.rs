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
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_io_timeout::TimeoutStream;
use tower_service::Service;
use tracing::warn;

use super::app::App;
use super::patience::{Patience, Progress, patience};
use super::socket::Socket;

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
pub async fn accept(
    app: Arc<App>,
    listener: TcpListener,
    places: Arc<Semaphore>,
    router: Router,
    open: &GracefulShutdown,
) {
    loop {
        let (place, stream) = next(&listener, &places).await;
        let (connection, patience) = connection(stream, router.clone());
        let connection = open.watch(connection);
        let app = Arc::clone(&app);
        tokio::spawn(async move {
            let _place = place;
            app.metrics.connected();
            // A task of its own, so that a token on its way wakes nothing else.
            let mut connection = tokio::spawn(connection);
            tokio::select! {
                // However it ended: what became of its requests is in the log.
                _ = &mut connection => {}
                () = patience.end(app.closing()) => connection.abort(),
            }
            app.metrics.disconnected();
        });
    }
}

/// The next connection, once there is a place for it; more wait in the system's own queue.
pub async fn next(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> (Option<OwnedSemaphorePermit>, TcpStream) {
    // None: the places are closed, which nobody does.
    let place = Arc::clone(places).acquire_owned().await.ok();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return (place, stream),
            Err(error) => warn!(%error, "a connection was not accepted"),
        }
        tokio::time::sleep(BREATH).await;
    }
}

type Io = TokioIo<Pin<Box<TimeoutStream<Socket>>>>;

fn connection(
    stream: TcpStream,
    router: Router,
) -> (http1::Connection<Io, RouterService>, Patience) {
    // Tokens leave when they are there; where that cannot be had, a little later.
    let _ = stream.set_nodelay(true);
    let (socket, peer) = Socket::new(stream);
    let mut stream = TimeoutStream::new(socket);
    stream.set_write_timeout(Some(WRITE_TIMEOUT));
    let (progress, patience) = patience(peer);
    let service = RouterService { router, progress };
    let connection = http1().serve_connection(TokioIo::new(Box::pin(stream)), service);
    (connection, patience)
}

/// Connections as bounded as all are.
pub fn http1() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS_TIMEOUT)
        .max_headers(MOST_HEADERS)
        .max_buf_size(MOST_BUFFERED);
    builder
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

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        self.progress.asked();
        request.extensions_mut().insert(self.progress.clone());
        // A router is always ready.
        Box::pin(self.router.clone().call(request.map(Body::new)))
    }
}
