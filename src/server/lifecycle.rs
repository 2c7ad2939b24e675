//! From the first connection to the last: start, serve, drain, end.

use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::{error, info};

use super::api::router;
use super::app::App;
use super::engine_thread::{Command, EngineSetup, EngineThread};
use super::follow::Follower;
use super::http;
use super::loading;
use super::news::News;
use super::options::ServeOptions;
use crate::Error;
use crate::clock::WallClock;
use crate::model::{ChatTemplate, Model};

/// For last words to reach their clients.
const FAREWELL: Duration = Duration::from_secs(1);
/// For the step that is under way when the engine is told to end.
const LAST_STEP: Duration = Duration::from_secs(5);

const SHUTTING_DOWN: &str = "the server is shutting down";

/// An address that is this server's, before there is a model to serve.
pub struct Bound {
    listener: TcpListener,
    address: SocketAddr,
}

/// A server that is ready.
pub struct Server {
    app: Arc<App>,
    listener: TcpListener,
    /// Of connections.
    places: Arc<Semaphore>,
    follower: Follower,
}

impl Bound {
    /// Port 0 is any free one. Errors: the address is not to be had.
    pub async fn to(host: &str, port: u16) -> Result<Self, Error> {
        let listener = TcpListener::bind((host, port)).await;
        let listener = listener.map_err(|e| {
            Error::Server(format!(
                "{host}:{port} cannot be listened on ({e}); give another --port or --host"
            ))
        })?;
        let address = listener.local_addr();
        let address =
            address.map_err(|e| Error::Server(format!("the address is not known: {e}")))?;
        Ok(Self { listener, address })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Runs `set_up` on the engine's own thread; who comes before it is done is told that the model loads.
    /// Errors: the chat template cannot be read, or those of `set_up`.
    pub async fn start(
        self,
        model: Arc<Model>,
        options: ServeOptions,
        set_up: impl FnOnce() -> Result<EngineSetup, Error> + Send + 'static,
    ) -> Result<Server, Error> {
        let listener = self.listener;
        let places = Arc::new(Semaphore::new(options.max_connections));
        let chat_template = match &options.chat_template {
            Some(file) => Ok(ChatTemplate::from_file(file)?),
            None => model.chat_template(),
        };
        let clock = WallClock::start();
        let EngineThread {
            about,
            commands,
            news,
        } = tokio::select! {
            engine = EngineThread::start(clock, set_up) => engine?,
            never = loading::answer(&listener, &places) => match never {},
        };
        let app = App::new(options, model, chat_template, about, clock, commands);
        let app = Arc::new(app);
        Ok(Server {
            follower: Follower::new(Arc::clone(&app), news),
            app,
            listener,
            places,
        })
    }
}

impl Server {
    /// Serves until `stop`, then lets what runs end. Errors: the engine failed, or answers were cut off.
    pub async fn run(self, stop: impl Future<Output = ()>) -> Result<(), Error> {
        let Self {
            app,
            listener,
            places,
            follower,
        } = self;
        let router = router(Arc::clone(&app));
        let open = GracefulShutdown::new();
        let mut engine = pin!(end(tokio::spawn(follower.follow())));
        let failed = tokio::select! {
            () = http::accept(Arc::clone(&app), listener, places, router, &open) => None,
            () = stop => None,
            ended = &mut engine => Some(failure(ended)),
        };
        let connections = tokio::spawn(open.shutdown());
        let by = Instant::now() + app.options.drain_timeout;
        let drained = match failed {
            None => drain(&app, engine, by).await,
            Some(cause) => Err(cause),
        };
        // Who still waits for the engine hears why it is in vain.
        let ended = drained.as_ref().map(|_| ()).map_err(String::clone);
        app.listeners.deliver(News::Ended(ended));
        match drained {
            Ok(drained) => {
                let by = by.max(Instant::now() + FAREWELL);
                let read = timeout_at(by, connections).await.is_ok();
                complete(drained, read, app.options.drain_timeout)
            }
            Err(cause) => {
                error!(cause, "the engine failed");
                app.close(cause.as_str().into());
                let _ = timeout(FAREWELL, connections).await;
                Err(Error::Server(cause))
            }
        }
    }
}

/// How the engine ended, as its follower knows.
async fn end(follower: JoinHandle<Result<(), String>>) -> Result<(), String> {
    let panicked = |panic| Err(format!("the engine's follower failed: {panic}"));
    follower.await.unwrap_or_else(panicked)
}

/// Of an engine that nobody told to end.
fn failure(ended: Result<(), String>) -> String {
    ended
        .err()
        .unwrap_or_else(|| "the engine has ended".to_owned())
}

/// Accepts no more requests, and ends the engine when the last one has ended, at the latest at `by`; says
/// whether all had. Errors: the engine failed.
async fn drain(
    app: &App,
    mut engine: Pin<&mut impl Future<Output = Result<(), String>>>,
    by: Instant,
) -> Result<bool, String> {
    info!("shutting down");
    app.close(SHUTTING_DOWN.into());
    app.command(Command::Drain);
    let drained = tokio::select! {
        biased;
        ended = &mut engine => return Err(failure(ended)),
        drained = timeout_at(by, app.admission.close()) => drained.is_ok(),
    };
    app.command(Command::End);
    let ended = timeout(LAST_STEP, engine).await;
    ended.unwrap_or_else(|_| {
        let seconds = LAST_STEP.as_secs();
        Err(format!(
            "the engine was told to end and has not come back from its step for {seconds} s"
        ))
    })?;
    Ok(drained)
}

/// Errors: what was cut off.
fn complete(drained: bool, read: bool, limit: Duration) -> Result<(), Error> {
    let what = match (drained, read) {
        (true, true) => return Ok(()),
        (true, false) => "all requests ended, but not all of their answers were read",
        (false, _) => "not all requests ended",
    };
    let seconds = limit.as_secs_f64();
    Err(Error::Server(format!(
        "{what} within {seconds} s (--drain-timeout); the rest was cut off"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_follower_that_panics_is_an_engine_that_failed() {
        let cause = end(tokio::spawn(async { panic!("a bug") })).await;
        let cause = cause.unwrap_err();
        assert!(
            cause.contains("follower") && cause.contains("a bug"),
            "{cause}"
        );
    }
}
