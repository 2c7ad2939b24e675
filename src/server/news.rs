//! What an engine did since it was last heard of.

use std::time::Duration;

use crate::metrics::{BatchRecord, StepRecord};
use crate::request::{Finished, RequestId};

/// Times are since the start of the engine's clock.
#[derive(Debug, Clone, Default)]
pub struct StepNews {
    pub now: Duration,
    /// Those that joined a batch, in the order of `batches`.
    pub started: Vec<RequestId>,
    pub tokens: Vec<(RequestId, u32)>,
    pub finished: Vec<Finished>,
    /// Those that started or ended; a request-level batch that ended has its `end`.
    pub batches: Vec<BatchRecord>,
    pub steps: Vec<StepRecord>,
    /// When the batch being formed leaves at the latest.
    pub deadline: Option<Duration>,
}
