//! Turns queued requests into steps: reserves KV pages, builds each `StepPlan`, applies its tokens.
//!
//! How rows join, share a step and leave is the policy's [`Batching`]: `request_level.rs` or
//! `continuous.rs`. What a row is, writing a plan and applying its tokens is the same for both.

mod capacity;
mod continuous;
mod request_level;
mod sequence;
mod step;

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use self::sequence::{Phase, Sequence};
use self::step::StepWriter;
use crate::batching::{Batching, CloseReason, Decision, Queue};
use crate::kv::{KvLayout, Lease, PagePool};
use crate::plan::StepPlan;
use crate::request::{FinishReason, Finished, Request, RequestId};

pub use capacity::{Capacity, Refusal};
pub use step::StepShape;

/// How rows of different lengths share a prefill.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Padding {
    /// Left-padded to the longest; padded positions are computed and masked, and take KV memory,
    /// as in HF `generate`.
    Padded,
    /// Packed one after another; nothing is wasted.
    Ragged,
}

impl fmt::Display for Padding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Padded => "padded",
            Self::Ragged => "ragged",
        })
    }
}

/// Requests that started together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admitted {
    pub size: usize,
    pub reason: CloseReason,
    /// Arrival of the oldest of them.
    pub oldest_arrival: Duration,
}

#[derive(Debug)]
pub struct Scheduler {
    pool: PagePool,
    layout: KvLayout,
    capacity: Capacity,
    batching: Batching,
    padding: Padding,
    /// A whole request-level batch; of continuous batching the rows that decode, in no order of age.
    rows: Vec<Sequence>,
    /// Rows whose prompt is under way, after the others in a step; the oldest first.
    prefilling: Vec<Sequence>,
    /// Those that wait to be computed again, the oldest first.
    preempted: VecDeque<Sequence>,
    /// Of the next request that starts.
    next_order: u64,
    /// Since the last plan.
    preemptions: usize,
}

impl Scheduler {
    /// `padding` is that of request-level batches; there is none between steps.
    pub fn new(
        pages: usize,
        layout: KvLayout,
        capacity: Capacity,
        batching: Batching,
        padding: Padding,
    ) -> Self {
        Self {
            pool: PagePool::new(pages),
            layout,
            capacity,
            batching,
            padding,
            rows: Vec::new(),
            prefilling: Vec::new(),
            preempted: VecDeque::new(),
            next_order: 0,
            preemptions: 0,
        }
    }

    /// There are rows for a step.
    pub fn is_running(&self) -> bool {
        !(self.rows.is_empty() && self.prefilling.is_empty())
    }

    /// Requests may join now.
    pub fn admits(&self) -> bool {
        self.batching != Batching::RequestLevel || !self.is_running()
    }

    /// Requests that have started and not left.
    pub fn started(&self) -> usize {
        self.rows.len() + self.prefilling.len() + self.preempted.len()
    }

    pub fn pool(&self) -> &PagePool {
        &self.pool
    }

    /// Reserves what the next step needs, for the rows that run and for those that start with what
    /// was decided on, or with as many as the pool and the step hold; the reason says which.
    pub fn reserve(
        &mut self,
        queue: &mut Queue,
        decision: Decision,
        now: Duration,
    ) -> Option<Admitted> {
        match self.batching {
            Batching::RequestLevel => self.reserve_batch(queue, decision, now),
            Batching::IterationLevel {
                max_num_batched_tokens,
            } => self.reserve_step(queue, decision, max_num_batched_tokens, now),
        }
    }

    fn start(&mut self, request: Request, pad: usize, lease: Lease, now: Duration) -> Sequence {
        self.next_order += 1;
        Sequence::start(request, self.next_order, pad, lease, now)
    }

    /// Rows of the next step, in its order: those that decode first.
    fn in_step(&mut self) -> impl Iterator<Item = &mut Sequence> {
        let rows = self.rows.iter_mut().chain(&mut self.prefilling);
        rows.filter(|row| row.query_len > 0)
    }

    /// Writes the next step over `plan`.
    pub fn plan(&mut self, plan: &mut StepPlan) -> StepShape {
        let mut step = StepWriter::over(plan);
        for row in self.in_step() {
            row.put(&mut step);
        }
        StepShape {
            kv_pages_used: self.pool.used(),
            kv_pages_total: self.pool.total(),
            preemptions: std::mem::take(&mut self.preemptions),
            ..step.finish()
        }
    }

    /// Gives every row of the step its token, and lets those go that may leave. Returns the tokens
    /// delivered.
    pub fn apply(
        &mut self,
        tokens: &[u32],
        now: Duration,
        finished: &mut Vec<Finished>,
    ) -> Vec<(RequestId, u32)> {
        let mut delivered = Vec::with_capacity(tokens.len());
        for (row, &token) in self.in_step().zip(tokens) {
            if row.takes_token() {
                delivered.push((row.request.id, token));
                finished.extend(row.take(token, now));
            }
        }
        self.retire();
        delivered
    }

    /// Ends a request that has started.
    pub fn cancel(&mut self, id: RequestId, now: Duration) -> Option<Finished> {
        let rows = self.rows.iter_mut().chain(&mut self.prefilling);
        let mut all = rows.chain(&mut self.preempted);
        let row = all.find(|row| row.request.id == id && row.phase != Phase::Ended)?;
        let ended = row.end(FinishReason::Cancelled, now);
        self.retire();
        Some(ended)
    }

    fn retire(&mut self) {
        match self.batching {
            Batching::RequestLevel => self.retire_batch(),
            Batching::IterationLevel { .. } => self.retire_rows(),
        }
    }
}
