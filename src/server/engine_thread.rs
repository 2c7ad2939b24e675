//! The engine on a thread of its own: commands in, news out.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;

use super::news::{Arrived, News, StepNews};
use crate::Error;
use crate::batching::Batching;
use crate::clock::{Clock, WallClock};
use crate::engine::{Engine, EngineConfig, Next, Progress};
use crate::kv::KvLayout;
use crate::request::{FinishReason, Finished, Request, RequestId};
use crate::runner::{Limits, Runner, RunnerError};

/// What a server asks of its engine.
#[derive(Debug)]
pub enum Command {
    Submit(Request),
    /// Ends a request for this reason.
    Cancel(RequestId, FinishReason),
    /// Nothing waits for more to come from now on.
    Drain,
    /// End, whatever still runs.
    End,
}

/// A runner and how the engine batches on it. Made on the engine's thread, which a runner never leaves.
pub struct EngineSetup {
    pub runner: Box<dyn Runner>,
    pub config: EngineConfig,
}

/// What is known of a runner once it is there.
#[derive(Debug, Clone)]
pub struct Engaged {
    pub runner: String,
    pub pci_bus_id: Option<String>,
    pub limits: Limits,
    pub layout: KvLayout,
    pub kv_pages: usize,
    /// A batch runs until its slowest row ends.
    pub request_level: bool,
}

/// A running engine.
pub struct EngineThread {
    pub about: Engaged,
    pub commands: Sender<Command>,
    pub news: UnboundedReceiver<News>,
}

impl EngineThread {
    /// Runs `set_up` on a new thread and returns when the engine is ready. Errors are those of
    /// `set_up`, or the thread could not be started.
    pub async fn start(
        clock: WallClock,
        set_up: impl FnOnce() -> Result<EngineSetup, Error> + Send + 'static,
    ) -> Result<Self, Error> {
        let (commands, inbox) = channel();
        let (outbox, news) = unbounded_channel();
        let (ready, is_ready) = oneshot::channel();
        std::thread::Builder::new()
            .name("engine".into())
            .spawn(move || {
                let setup = match set_up() {
                    Ok(setup) => setup,
                    Err(error) => return drop(ready.send(Err(error))),
                };
                let about = Engaged::of(&setup);
                if ready.send(Ok(about)).is_ok() {
                    let ended = contained(|| serve(setup, &clock, &inbox, &outbox));
                    // Nobody listens any more where the server has ended first.
                    let _ = outbox.send(News::Ended(ended));
                }
            })
            .map_err(|e| Error::Server(format!("the engine's thread cannot be started: {e}")))?;
        let gone = |_| Error::Server("the engine ended while it was set up".into());
        let about = is_ready.await.map_err(gone)??;
        Ok(Self {
            about,
            commands,
            news,
        })
    }
}

impl Engaged {
    fn of(setup: &EngineSetup) -> Self {
        let EngineSetup { runner, config } = setup;
        Self {
            request_level: config.policy.batching() == Batching::RequestLevel,
            runner: runner.describe(),
            pci_bus_id: runner.pci_bus_id(),
            limits: runner.limits(),
            layout: runner.kv_layout(),
            kv_pages: runner.kv_pages(),
        }
    }
}

/// A failure, or a panic, as its cause.
fn contained(run: impl FnOnce() -> Result<(), RunnerError>) -> Result<(), String> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(ended) => ended.map_err(|e| e.to_string()),
        Err(panic) => Err(format!("the engine panicked: {}", words(panic.as_ref()))),
    }
}

fn words(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("of unknown cause")
}

/// Steps for as long as there is work, waits for commands otherwise.
fn serve(
    mut setup: EngineSetup,
    clock: &WallClock,
    inbox: &Receiver<Command>,
    outbox: &UnboundedSender<News>,
) -> Result<(), RunnerError> {
    let mut engine = Engine::new(setup.runner.as_mut(), clock, setup.config);
    let (mut next, mut draining) = (Next::WaitForArrival, false);
    loop {
        let Ok(first) = wait(inbox, next, clock) else {
            return Ok(());
        };
        let (mut arrived, mut cancelled) = (Vec::new(), Vec::new());
        for command in first.into_iter().chain(inbox.try_iter()) {
            match command {
                Command::Submit(request) => {
                    let came = Arrived::of(&request);
                    match engine.submit(request) {
                        Ok(()) => arrived.push(came),
                        Err(error) => drop(outbox.send(News::Refused(came.id, error))),
                    }
                }
                Command::Cancel(id, reason) => {
                    let ended = engine.cancel(id);
                    cancelled.extend(ended.map(|ended| Finished { reason, ..ended }));
                }
                Command::Drain => draining = true,
                Command::End => return Ok(()),
            }
        }
        if draining {
            engine.flush();
        }
        let mut progress = engine.step()?;
        progress.finished.extend(cancelled);
        next = progress.next;
        let news = tell(&mut engine, arrived, progress);
        let _ = outbox.send(News::Step(news));
    }
}

struct Gone;

/// A command, if one comes before there is work to do.
fn wait(inbox: &Receiver<Command>, next: Next, clock: &WallClock) -> Result<Option<Command>, Gone> {
    let left = match next {
        Next::Step => Duration::ZERO,
        Next::WaitUntil(at) => at.saturating_sub(clock.now()),
        Next::WaitForArrival => return inbox.recv().map(Some).map_err(|_| Gone),
    };
    match inbox.recv_timeout(left) {
        Ok(command) => Ok(Some(command)),
        Err(RecvTimeoutError::Timeout) => Ok(None),
        Err(RecvTimeoutError::Disconnected) => Err(Gone),
    }
}

fn tell(engine: &mut Engine<'_>, arrived: Vec<Arrived>, progress: Progress) -> StepNews {
    let records = engine.take_records();
    let (mut started, mut batches) = (Vec::new(), Vec::new());
    for start in progress.started {
        started.extend(start.requests);
        batches.push(start.batch);
    }
    batches.extend(records.batches.into_iter().filter(|b| b.end.is_some()));
    // One that a cancelled request ended is over before the next begins in the same step.
    batches.sort_by_key(|batch| batch.start);
    StepNews {
        now: engine.clock().now(),
        arrived,
        started,
        tokens: progress.tokens,
        finished: progress.finished,
        batches,
        steps: records.steps,
        queued: engine.queued(),
        kv_pages_used: engine.kv_pages_used(),
        deadline: match progress.next {
            Next::WaitUntil(at) => Some(at),
            Next::Step | Next::WaitForArrival => None,
        },
    }
}
