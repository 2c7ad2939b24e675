//! When requests start: the queue, and the policies that watch it.
//!
//! A policy decides from plain data and reserves nothing; the scheduler then takes what fits.

mod continuous_policy;
mod dynamic_policy;
mod queue;
mod static_policy;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use continuous_policy::{BudgetError, Continuous};
pub use dynamic_policy::Dynamic;
pub use queue::{Queue, QueueFull};
pub use static_policy::Static;

/// What a policy may look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueState {
    pub now: Duration,
    pub queued: usize,
    /// Arrival of the oldest queued request.
    pub oldest_arrival: Option<Duration>,
    /// Requests that have started and not ended, preempted ones among them.
    pub started: usize,
    /// When a request started last.
    pub last_start: Option<Duration>,
    /// False once it is known that nothing more arrives before something completes.
    pub more_expected: bool,
}

/// What to do with the queue now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// The `count` oldest requests start.
    Take { count: usize, reason: CloseReason },
    /// Nothing starts before this time unless a request arrives or ends.
    WaitUntil(Duration),
    /// Nothing starts before a request arrives or ends.
    Hold,
}

/// When rows join and leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Batching {
    /// Together: a batch starts when nothing runs, and runs until its slowest row ends.
    RequestLevel,
    /// Between any two steps, each on its own; prompts are computed in parts.
    IterationLevel {
        /// Tokens of a step, at most.
        max_num_batched_tokens: usize,
    },
}

/// Why so many requests started and no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CloseReason {
    /// They reached the maximum batch size, or all that a step holds.
    Full,
    /// The oldest request had waited for the whole window.
    Window,
    PreferredSize,
    NoMoreRequests,
    /// All that were queued, without a window to wait for.
    QueueEmpty,
    /// The KV pool had no pages for one row more.
    KvFull,
}

/// Decides when requests start.
pub trait Policy: Send {
    /// Asked before a step: always between iteration-level ones, else while nothing runs.
    fn decide(&self, queue: &QueueState) -> Decision;
    fn batching(&self) -> Batching {
        Batching::RequestLevel
    }
    /// Rows that run together, at most.
    fn max_batch_size(&self) -> usize;
}
