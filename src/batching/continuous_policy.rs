//! Continuous batching: requests join whenever a row is free. Optionally prefills are held back
//! (SGLang's prefill delayer) so that several share a step: decoding rows are disturbed less often, and
//! some rows stay free for a while.

use std::time::Duration;

use super::{Batching, CloseReason, Decision, Policy, QueueState};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Continuous {
    pub max_num_seqs: usize,
    /// Tokens of a step, those of decoding rows first.
    pub max_num_batched_tokens: usize,
    /// While rows run: from the arrival of the oldest queued request or from the last start, whichever
    /// is later. 0 takes what is there.
    pub prefill_window: Duration,
}

/// A budget of tokens with which rows would stall.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BudgetError {
    #[error(
        "--max-num-batched-tokens {budget} is less than the {rows} rows that may run, each of which \
         takes a token of every step; raise it or lower the number of rows"
    )]
    Rows { budget: usize, rows: usize },
    #[error(
        "--max-num-batched-tokens {budget} is less than a KV page of {page_size} tokens; raise it \
         or lower --kv-block-size"
    )]
    Page { budget: usize, page_size: usize },
}

impl Continuous {
    /// vLLM's default on GPUs with less than 70 GB: large enough that most prompts take one step,
    /// small enough that decoding rows do not wait long for it.
    pub const MAX_NUM_BATCHED_TOKENS: usize = 2048;

    /// Refuses a budget of tokens with which rows would stall, or prompts go on by less than a page.
    pub fn check(&self, page_size: usize) -> Result<(), BudgetError> {
        let (budget, rows) = (self.max_num_batched_tokens, self.max_num_seqs);
        if budget < rows {
            return Err(BudgetError::Rows { budget, rows });
        }
        if budget < page_size {
            return Err(BudgetError::Page { budget, page_size });
        }
        Ok(())
    }
}

impl Policy for Continuous {
    fn decide(&self, queue: &QueueState) -> Decision {
        let free = self.max_num_seqs.saturating_sub(queue.started);
        let Some(oldest) = queue.oldest_arrival.filter(|_| free > 0) else {
            return Decision::Hold;
        };
        let from = queue.last_start.map_or(oldest, |start| start.max(oldest));
        let deadline = from.saturating_add(self.prefill_window);
        // Where no row runs, none is disturbed.
        if queue.now < deadline && queue.started > 0 {
            return Decision::WaitUntil(deadline);
        }
        Decision::Take {
            count: queue.queued.min(free),
            reason: if queue.queued >= free {
                CloseReason::Full
            } else if self.prefill_window.is_zero() || queue.now < deadline {
                CloseReason::QueueEmpty
            } else {
                CloseReason::Window
            },
        }
    }

    fn batching(&self) -> Batching {
        Batching::IterationLevel {
            max_num_batched_tokens: self.max_num_batched_tokens,
        }
    }

    fn max_batch_size(&self) -> usize {
        self.max_num_seqs
    }
}
