//! What the engine thread tells after a step.

use std::time::Duration;

use crate::engine::SubmitError;
use crate::metrics::{BatchRecord, StepRecord};
use crate::request::{Finished, Request, RequestId, Token};

/// What came of one step, and how things stand after it.
#[derive(Debug, Default)]
pub struct StepNews {
    pub now: Duration,
    /// Requests that came to the queue.
    pub arrived: Vec<Arrived>,
    /// Requests that joined a batch, the oldest first.
    pub started: Vec<RequestId>,
    pub tokens: Vec<Token>,
    pub finished: Vec<Finished>,
    /// Batches that started, and request-level ones, once more, that have ended.
    pub batches: Vec<BatchRecord>,
    pub steps: Vec<StepRecord>,
    pub queued: usize,
    pub kv_pages_used: usize,
    /// When the batch that is being formed leaves at the latest.
    pub deadline: Option<Duration>,
}

/// A request as it came.
#[derive(Debug, Clone, Copy)]
pub struct Arrived {
    pub id: RequestId,
    pub at: Duration,
    pub prompt_len: usize,
    pub max_new_tokens: usize,
}

impl Arrived {
    pub fn of(request: &Request) -> Self {
        Self {
            id: request.id,
            at: request.arrival,
            prompt_len: request.prompt.len(),
            max_new_tokens: request.max_new_tokens,
        }
    }
}

/// A message of the engine thread.
#[derive(Debug)]
pub enum News {
    Step(StepNews),
    /// A request could never run, or the queue was full.
    Refused(RequestId, SubmitError),
    /// The last message: all is done, or the engine has failed for this cause.
    Ended(Result<(), String>),
}
