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
    /// The last one: the engine has failed for this cause.
    Lost(Arc<str>),
    /// The last one: the engine was told to end.
    CutOff,
}

type ById = HashMap<RequestId, UnboundedSender<Event>>;

/// Where each request's answer listens. It holds at most as many events as it may have tokens.
#[derive(Debug, Clone, Default)]
pub struct Listeners {
    by_id: Arc<Mutex<ById>>,
}

impl Listeners {
    fn lock(&self) -> MutexGuard<'_, ById> {
        self.by_id.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One channel for all requests of an answer.
    pub fn listen(&self, ids: Range<RequestId>) -> UnboundedReceiver<Event> {
        let (sender, receiver) = unbounded_channel();
        self.lock().extend(ids.map(|id| (id, sender.clone())));
        receiver
    }

    pub fn forget(&self, id: RequestId) {
        self.lock().remove(&id);
    }

    /// Tells each answer its part. One that no longer listens has cancelled.
    pub fn deliver(&self, news: News) {
        let mut listeners = self.lock();
        match news {
            News::Step(step) => deliver_step(&mut listeners, step),
            News::Refused(id, error) => {
                if let Some(listener) = listeners.remove(&id) {
                    let _ = listener.send(Event::Refused(id, error));
                }
            }
            News::Ended(ended) => {
                let cause: Option<Arc<str>> = ended.err().map(Into::into);
                for (_, listener) in listeners.drain() {
                    let lost = cause.clone().map_or(Event::CutOff, Event::Lost);
                    let _ = listener.send(lost);
                }
            }
        }
    }
}

fn deliver_step(listeners: &mut ById, step: StepNews) {
    for token in step.tokens {
        if let Some(listener) = listeners.get(&token.request) {
            let _ = listener.send(Event::Token(token));
        }
    }
    for finished in step.finished {
        if let Some(listener) = listeners.remove(&finished.id) {
            let _ = listener.send(Event::Finished(Box::new(finished)));
        }
    }
}
