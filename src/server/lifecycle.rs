//! From the first connection to the last: start, serve, drain, end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::TcpListener;
use tokio::time::timeout;
use tracing::{error, info};

use super::api::router;
use super::app::App;
use super::engine_thread::{Command, EngineSetup, EngineThread};
use super::follow::Follower;
use super::http;
use super::options::ServeOptions;
use crate::Error;
use crate::clock::WallClock;
use crate::model::{ChatTemplate, Model};

/// For last words to reach their clients.
const FAREWELL: Duration = Duration::from_secs(1);

const SHUTTING_DOWN: &str = "the server is shutting down";

/// A server that is ready.
pub struct Server {
    app: Arc<App>,
    listener: TcpListener,
    address: SocketAddr,
    follower: Follower,
}

impl Server {
    /// Takes the address, then runs `set_up` on the engine's own thread. Errors: the address is not to be
    /// had, the chat template cannot be read, or those of `set_up`.
    pub async fn start(
        address: (&str, u16),
        model: Arc<Model>,
        options: ServeOptions,
        set_up: impl FnOnce() -> Result<EngineSetup, Error> + Send + 'static,
    ) -> Result<Self, Error> {
        let listener = TcpListener::bind(address).await;
        let listener = listener.map_err(|e| {
            let (host, port) = address;
            Error::Server(format!(
                "{host}:{port} cannot be listened on ({e}); give another --port or --host"
            ))
        })?;
        let bound = listener.local_addr();
        let bound = bound.map_err(|e| Error::Server(format!("the address is not known: {e}")))?;
        let chat_template = match &options.chat_template {
            Some(file) => Ok(ChatTemplate::from_file(file)?),
            None => model.chat_template(),
        };
        let clock = WallClock::start();
        let EngineThread {
            about,
            commands,
            news,
        } = EngineThread::start(clock, set_up).await?;
        let app = App::new(options, model, chat_template, about, clock, commands);
        let app = Arc::new(app);
        Ok(Self {
            follower: Follower::new(Arc::clone(&app), news),
            app,
            listener,
            address: bound,
        })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop`, then lets what runs end. Errors: the engine failed, or requests were cut off.
    pub async fn run(self, stop: impl Future<Output = ()>) -> Result<(), Error> {
        let Self {
            app,
            listener,
            follower,
            ..
        } = self;
        let open = GracefulShutdown::new();
        let mut engine = tokio::spawn(follower.follow());
        let failed = tokio::select! {
            () = http::accept(Arc::clone(&app), listener, router(Arc::clone(&app)), &open) => None,
            () = stop => None,
            ended = &mut engine => Some(ended),
        };
        if let Some(ended) = failed {
            let cause = match ended {
                Ok(Ok(())) => "the engine has ended".to_owned(),
                Ok(Err(cause)) => cause,
                Err(panic) => format!("the engine's follower failed: {panic}"),
            };
            error!(cause, "the engine failed");
            app.close(cause.as_str().into());
            // Whoever waits for a connection to end has been told.
            let _ = timeout(FAREWELL, open.shutdown()).await;
            return Err(Error::Server(cause));
        }
        info!("shutting down");
        app.close(SHUTTING_DOWN.into());
        app.command(Command::Drain);
        let connections = tokio::spawn(open.shutdown());
        let drained = timeout(app.options.drain_timeout, app.admission.close()).await;
        app.command(Command::End);
        let ended = engine.await;
        // A client that dallies over its request holds nothing up.
        let _ = timeout(FAREWELL, connections).await;
        if drained.is_err() {
            let seconds = app.options.drain_timeout.as_secs_f64();
            return Err(Error::Server(format!(
                "not all requests ended within {seconds} s (--drain-timeout); the rest was cut off"
            )));
        }
        match ended {
            Ok(Err(cause)) => Err(Error::Server(cause)),
            _ => Ok(()),
        }
    }
}
