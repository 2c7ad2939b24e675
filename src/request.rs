//! A request's journey: what was asked, which phase it is in, and when each thing happened.

use std::time::Duration;

use crate::sampling::{Logprobs, Sampling};

pub type RequestId = u64;

/// What a user asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    pub id: RequestId,
    /// Prompt token ids, at least one.
    pub prompt: Vec<u32>,
    /// Output tokens at most, at least one.
    pub max_new_tokens: usize,
    /// Tokens that end the request early; empty ignores the end-of-sequence token.
    pub stop_tokens: Vec<u32>,
    pub sampling: Sampling,
    /// Give every token's log-probability, and those of so many most probable tokens.
    pub logprobs: Option<usize>,
    /// When the load generator meant to send it.
    pub arrival: Duration,
    /// Rejected when it has waited in the queue for this long.
    pub timeout: Option<Duration>,
}

/// A token of a request, delivered.
#[derive(Debug, Clone, PartialEq)]
pub struct Token {
    pub request: RequestId,
    pub id: u32,
    /// Where the request asked for them.
    pub logprobs: Option<Box<Logprobs>>,
}

/// Why a request ended.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// `max_new_tokens` were generated.
    Length,
    /// A stop token was generated (it is the last token of the output).
    Stop,
    Cancelled,
    /// Its timeout passed while it was queued.
    TimedOut,
    /// The queue was full, or a server said that it has too much to do.
    Rejected,
    /// A server gave an error, or its answer broke off.
    Failed,
}

impl FinishReason {
    /// The request got the output it asked for.
    pub fn is_complete(self) -> bool {
        matches!(self, Self::Length | Self::Stop)
    }
}

/// A request that ended, with its timestamps (since the clock's start).
#[derive(Debug, Clone, PartialEq)]
pub struct Finished {
    pub id: RequestId,
    pub prompt_len: usize,
    /// Generated tokens, the stop token included; empty where a server tells text and counts alone.
    pub output: Vec<u32>,
    pub reason: FinishReason,
    pub arrival: Duration,
    /// When its prompt was first in a step; none if it never ran, or a server keeps it to itself.
    pub scheduled: Option<Duration>,
    /// When each output token was delivered.
    pub token_times: Vec<Duration>,
    /// When it stood still because its KV pages were given to older requests.
    pub preempted: Vec<Stretch>,
    pub finished: Duration,
}

/// From losing its pages to the token after all that was lost was computed again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretch {
    pub from: Duration,
    /// None: not over yet.
    pub until: Option<Duration>,
}
