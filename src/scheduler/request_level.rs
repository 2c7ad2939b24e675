//! Request-level batches: rows start together, every row's pages are reserved up front, so that a
//! running batch never fails, and finished rows idle until the slowest ends.

use std::time::Duration;

use super::sequence::{Phase, kv_positions};
use super::{Admitted, Key, Padding, Scheduler};
use crate::batching::{CloseReason, Decision, Queue};
use crate::request::Request;

impl Scheduler {
    /// Starts a batch with what was decided on, or with as many as the pool and the runner hold, or
    /// goes on with the one that runs.
    pub(super) fn reserve_batch(
        &mut self,
        queue: &mut Queue,
        decision: Decision,
        now: Duration,
    ) -> Option<Admitted> {
        let Decision::Take { count, reason } = decision else {
            for &key in &self.rows {
                self.sequences[key].query_len = 1;
            }
            return None;
        };
        let (size, reason) = self.fitting(queue, count, reason);
        let longest = queue.iter().take(size).map(|r| r.prompt.len()).max()?;
        let oldest_arrival = queue.iter().next()?.arrival;
        let mut requests = Vec::with_capacity(size);
        for _ in 0..size {
            let request = queue.pop()?;
            requests.push(request.id);
            let pad = self.pad(&request, longest);
            let pages = self.layout.pages_for(kv_positions(&request, pad));
            let lease = self.pool.lease(pages)?;
            let key = self.start(request, pad, lease, now);
            let row = &mut self.sequences[key];
            row.query_len = row.left();
            self.rows.push(key);
        }
        Some(Admitted {
            requests,
            reason,
            oldest_arrival,
        })
    }

    /// The longest prefix of the queue, up to `count`, that fits.
    fn fitting(&self, queue: &Queue, count: usize, reason: CloseReason) -> (usize, CloseReason) {
        let (mut longest, mut prompt_tokens) = (0, 0);
        for size in 1..=count {
            let Some(last) = queue.iter().nth(size - 1) else {
                return (size - 1, reason);
            };
            longest = longest.max(last.prompt.len());
            prompt_tokens += last.prompt.len();
            let tokens = match self.padding {
                Padding::Padded => longest * size,
                Padding::Ragged => prompt_tokens,
            };
            let kv_lens = || {
                let rows = queue.iter().take(size);
                rows.map(|r| kv_positions(r, self.pad(r, longest)))
            };
            let pages: usize = kv_lens().map(|len| self.layout.pages_for(len)).sum();
            let step_is_full = size > self.capacity.max_rows
                || tokens > self.capacity.max_tokens
                || kv_lens().any(|len| len > self.capacity.max_kv_len);
            if pages > self.pool.free() {
                return (size - 1, CloseReason::KvFull);
            }
            if step_is_full {
                return (size - 1, CloseReason::Full);
            }
        }
        (count, reason)
    }

    fn pad(&self, request: &Request, longest: usize) -> usize {
        match self.padding {
            Padding::Padded => longest - request.prompt.len(),
            Padding::Ragged => 0,
        }
    }

    /// Drops the batch once all of its rows have ended.
    pub(super) fn retire_batch(&mut self) {
        let sequences = &mut self.sequences;
        let ended = |&key: &Key| sequences[key].phase == Phase::Ended;
        if self.rows.iter().all(ended) {
            for key in self.rows.drain(..) {
                sequences[key].lease.release();
            }
        }
    }
}
