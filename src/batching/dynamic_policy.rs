//! Dynamic batching (Triton's rule): a batch leaves when it is full, when a preferred size is
//! reached, or when the oldest request has waited for the window, whichever is first.

use std::time::Duration;

use super::{CloseReason, Decision, Policy, QueueState};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dynamic {
    pub max_batch_size: usize,
    /// `--max-queue-delay-ms`, from the arrival of the oldest queued request; 0 takes what is there.
    pub window: Duration,
    /// `--preferred-batch-size`: sizes below the maximum that leave at once.
    pub preferred_sizes: Vec<usize>,
}

impl Policy for Dynamic {
    fn decide(&self, queue: &QueueState) -> Decision {
        let Some(oldest) = queue.oldest_arrival else {
            return Decision::Hold;
        };
        let preferred = self.preferred_sizes.iter().copied();
        let deadline = oldest.saturating_add(self.window);
        if queue.queued >= self.max_batch_size {
            Decision::Take {
                count: self.max_batch_size,
                reason: CloseReason::Full,
            }
        } else if let Some(count) = preferred.filter(|&n| n > 0 && n <= queue.queued).max() {
            Decision::Take {
                count,
                reason: CloseReason::PreferredSize,
            }
        } else if queue.now >= deadline {
            Decision::Take {
                count: queue.queued,
                reason: CloseReason::Window,
            }
        } else {
            Decision::WaitUntil(deadline)
        }
    }

    fn max_batch_size(&self) -> usize {
        self.max_batch_size
    }
}
