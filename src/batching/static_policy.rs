//! Static batching: a batch leaves when exactly N requests are there (day2 §3.1).

use super::{CloseReason, Decision, Policy, QueueState};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Static {
    pub batch_size: usize,
}

impl Policy for Static {
    fn decide(&self, queue: &QueueState) -> Decision {
        if queue.queued >= self.batch_size {
            Decision::Take {
                count: self.batch_size,
                reason: CloseReason::Full,
            }
        } else if queue.queued > 0 && !queue.more_expected {
            // Without this the last, incomplete batch of a load would wait for ever.
            Decision::Take {
                count: queue.queued,
                reason: CloseReason::NoMoreRequests,
            }
        } else {
            Decision::Hold
        }
    }

    fn max_batch_size(&self) -> usize {
        self.batch_size
    }
}
