//! When a batch leaves: the queue, and the policies that watch it.
//!
//! A policy decides from plain data and reserves nothing; the scheduler then takes what fits.

mod dynamic_policy;
mod queue;
mod static_policy;

use std::time::Duration;

use serde::{Deserialize, Serialize};

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
    /// False once it is known that nothing more arrives before something completes.
    pub more_expected: bool,
}

/// What to do with the queue now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// The batch closes with the `count` oldest requests.
    Take { count: usize, reason: CloseReason },
    /// Nothing leaves before this time unless a request arrives.
    WaitUntil(Duration),
    /// Nothing leaves before a request arrives.
    Hold,
}

/// Why a batch closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CloseReason {
    /// It reached the maximum batch size, or all that a step of the runner holds.
    Full,
    /// The oldest request had waited for the whole window.
    Window,
    PreferredSize,
    NoMoreRequests,
    /// The KV pool had no pages for one row more.
    KvFull,
}

/// Decides when a batch leaves.
pub trait Policy {
    fn decide(&self, queue: &QueueState) -> Decision;
    fn max_batch_size(&self) -> usize;
}
