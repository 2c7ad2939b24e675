//! From the engine's news to the answers that wait for it.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::news::{News, StepNews};
use crate::engine::SubmitError;
use crate::request::{Finished, RequestId, Token};

/// What an answer hears of one of its requests.
#[derive(Debug)]
pub enum Event {
    Token(Token),
    /// The last one, of a request that got what it asked for.
    Finished(Box<Finished>),
    /// The last one.
    Refused(RequestId, SubmitError),
    /// The last one: its time is over.
    TimedOut,
    /// The last one: the engine has failed for this cause.
    Lost(Arc<str>),
    /// The last one: the engine was told to end.
    CutOff,
}

type ById = HashMap<RequestId, UnboundedSender<Event>>;

/// Where each request's answer listens. It holds at most as many events as it may have tokens.
#[derive(Debug, Default)]
pub struct Listeners {
    all: Mutex<All>,
}

#[derive(Debug, Default)]
struct All {
    by_id: ById,
    /// How the engine ended.
    ended: Option<Result<(), Arc<str>>>,
}

impl Listeners {
    fn lock(&self) -> MutexGuard<'_, All> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One channel for all requests of an answer. Who comes after the engine's end hears of it.
    pub fn listen(&self, ids: Range<RequestId>) -> UnboundedReceiver<Event> {
        let (sender, receiver) = unbounded_channel();
        let mut all = self.lock();
        match &all.ended {
            Some(ended) => drop(sender.send(farewell(ended))),
            None => all.by_id.extend(ids.map(|id| (id, sender.clone()))),
        }
        receiver
    }

    pub fn forget(&self, id: RequestId) {
        self.lock().by_id.remove(&id);
    }

    /// Those that have not ended; they hear no more of the engine.
    pub fn take(&self, ids: Range<RequestId>) -> Vec<(RequestId, UnboundedSender<Event>)> {
        let mut all = self.lock();
        let taken = ids.filter_map(|id| all.by_id.remove_entry(&id));
        taken.collect()
    }

    /// Tells each answer its part. Gives the ends of requests that no answer listens to any more.
    pub fn deliver(&self, news: News) -> Vec<Finished> {
        let mut all = self.lock();
        match news {
            News::Step(step) => return deliver_step(&mut all.by_id, step),
            News::Refused(id, error) => {
                if let Some(listener) = all.by_id.remove(&id) {
                    let _ = listener.send(Event::Refused(id, error));
                }
            }
            News::Ended(ended) => {
                let ended = ended.map_err(Into::into);
                for (_, listener) in all.by_id.drain() {
                    let _ = listener.send(farewell(&ended));
                }
                all.ended = Some(ended);
            }
        }
        Vec::new()
    }
}

fn farewell(ended: &Result<(), Arc<str>>) -> Event {
    match ended {
        Ok(()) => Event::CutOff,
        Err(cause) => Event::Lost(Arc::clone(cause)),
    }
}

fn deliver_step(listeners: &mut ById, step: StepNews) -> Vec<Finished> {
    for token in step.tokens {
        if let Some(listener) = listeners.get(&token.request) {
            let _ = listener.send(Event::Token(token));
        }
    }
    let mut unheard = Vec::new();
    for finished in step.finished {
        match listeners.remove(&finished.id) {
            Some(listener) => drop(listener.send(Event::Finished(Box::new(finished)))),
            None => unheard.push(finished),
        }
    }
    unheard
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_after_the_end_hears_of_it() {
        let listeners = Listeners::default();
        let mut before = listeners.listen(0..1);
        listeners.deliver(News::Ended(Err("a cause".into())));
        let mut after = listeners.listen(1..3);
        for events in [&mut before, &mut after] {
            let heard = events.try_recv().unwrap();
            assert!(matches!(heard, Event::Lost(cause) if &*cause == "a cause"));
        }
    }
}
