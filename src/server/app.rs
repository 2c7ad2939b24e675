//! What every request's task shares.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, broadcast, watch};
use tokio::time::Instant;

use super::admission::Admission;
use super::dispatch::{Event, Listeners};
use super::engine_thread::{Command, Engaged};
use super::generation::Submitted;
use super::metrics::Metrics;
use super::options::ServeOptions;
use super::turns::Turns;
use crate::clock::{Clock, WallClock};
use crate::model::{ChatTemplate, Model, ModelError};
use crate::request::{FinishReason, Request, RequestId};
use crate::sampling::Sampling;

/// A request but for what the server gives it.
#[derive(Debug, Clone)]
pub struct Ask {
    pub prompt: Vec<u32>,
    pub max_new_tokens: usize,
    pub stop_tokens: Vec<u32>,
    pub sampling: Sampling,
    pub logprobs: Option<usize>,
}

/// A running server's state.
#[derive(Debug)]
pub struct App {
    pub options: ServeOptions,
    pub model: Arc<Model>,
    /// Why a conversation cannot be written, where there is no template.
    pub chat_template: Result<ChatTemplate, ModelError>,
    pub engine: Engaged,
    pub admission: Admission,
    pub listeners: Listeners,
    pub metrics: Metrics,
    /// Snapshots for live pages, as events.
    pub live: broadcast::Sender<Bytes>,
    pub clock: WallClock,
    pub turns: Turns,
    /// Seconds since 1970.
    pub created: u64,
    commands: Sender<Command>,
    next_id: AtomicU64,
    /// Why no request is accepted any more.
    closed: watch::Sender<Option<Arc<str>>>,
}

impl App {
    pub(super) fn new(
        options: ServeOptions,
        model: Arc<Model>,
        chat_template: Result<ChatTemplate, ModelError>,
        engine: Engaged,
        clock: WallClock,
        commands: Sender<Command>,
    ) -> Self {
        Self {
            admission: Admission::new(engine.limits.max_rows, options.max_queue_size),
            metrics: Metrics::new(&engine, &options),
            options,
            model,
            chat_template,
            engine,
            listeners: Listeners::default(),
            live: broadcast::channel(4).0,
            clock,
            turns: Turns::new(),
            created: unix_seconds(),
            commands,
            next_id: AtomicU64::new(0),
            closed: watch::Sender::new(None),
        }
    }

    /// Gives the requests of an answer to the engine, one for each place; it has until `deadline`.
    pub fn submit(
        self: &Arc<Self>,
        asks: Vec<(Ask, OwnedSemaphorePermit)>,
        deadline: Instant,
    ) -> Submitted {
        let count = asks.len() as u64;
        let first = self.next_id.fetch_add(count, Ordering::Relaxed);
        let events = self.listeners.listen(first..first + count);
        let arrival = self.clock.now();
        let mut places = Vec::with_capacity(asks.len());
        for (id, (ask, place)) in (first..).zip(asks) {
            places.push(Some(place));
            self.command(Command::Submit(Request {
                id,
                prompt: ask.prompt,
                max_new_tokens: ask.max_new_tokens,
                stop_tokens: ask.stop_tokens,
                sampling: ask.sampling,
                logprobs: ask.logprobs,
                arrival,
                timeout: None,
            }));
        }
        Submitted::new(Arc::clone(self), first, events, places, deadline)
    }

    /// Ends those that have not ended, as requests of one answer whose time is over.
    pub(super) fn time_out(&self, ids: Range<RequestId>) {
        let late = self.listeners.take(ids);
        for &(id, _) in &late {
            self.command(Command::Cancel(id, FinishReason::TimedOut));
        }
        // Told last: an answer that is dropped then has nothing left to cancel for another reason.
        if let Some((_, listener)) = late.first() {
            let _ = listener.send(Event::TimedOut);
        }
    }

    /// Tokens of prompt and output, at most.
    pub fn context(&self) -> usize {
        self.engine
            .limits
            .max_kv_len
            .min(self.model.spec.max_positions)
    }

    /// An engine that has ended tells so itself: its last news ends every request.
    pub(super) fn command(&self, command: Command) {
        let _ = self.commands.send(command);
    }

    /// Accepts no request from now on.
    pub(super) fn close(&self, cause: Arc<str>) {
        self.closed.send_replace(Some(cause));
    }

    /// Why no request is accepted, if so.
    pub fn closed(&self) -> Option<Arc<str>> {
        self.closed.borrow().clone()
    }

    /// Waits until no request is accepted any more.
    pub fn closing(&self) -> impl Future<Output = ()> + use<> {
        let mut closed = self.closed.subscribe();
        async move {
            // An error: the server is gone.
            let _ = closed.wait_for(Option::is_some).await;
        }
    }
}

pub(super) fn unix_seconds() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or(Duration::ZERO).as_secs()
}
