//! Turns queued requests into steps: reserves KV pages, builds each `StepPlan`, delivers its tokens.
//!
//! How rows join, share a step and leave is the policy's [`Batching`]: `request_level.rs` or
//! `continuous.rs`. What a row is, writing a plan and delivering its tokens is the same for both.
//!
//! Once a step is planned its rows are what they will be after it, all but the tokens that it gives:
//! they are longer by one, and those leave whose last token it is. So the next step can be planned
//! before the tokens of this one are delivered, and its plan is the same. Only a token that turns out to
//! end its request comes too late: the row is in the next step once more, and that token is dropped.

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
use crate::request::{FinishReason, Finished, Request, RequestId, Token};
use crate::sampling::Logprobs;

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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admitted {
    pub requests: Vec<RequestId>,
    pub reason: CloseReason,
    /// Arrival of the oldest of them.
    pub oldest_arrival: Duration,
}

/// The tokens of one step, delivered.
#[derive(Debug, PartialEq)]
pub struct Delivered {
    /// In row order.
    pub tokens: Vec<Token>,
    /// Tokens of requests that had ended when they came.
    pub dropped: usize,
}

/// Where a sequence lies from its start until nobody will ask for it again.
type Key = usize;

#[derive(Debug)]
pub struct Scheduler {
    pool: PagePool,
    layout: KvLayout,
    capacity: Capacity,
    batching: Batching,
    padding: Padding,
    /// All that have started, by key.
    sequences: Vec<Sequence>,
    /// Keys of sequences that have ended and are in no step under way; the next to start overwrite
    /// them.
    vacant: Vec<Key>,
    /// A whole request-level batch; of continuous batching the rows that decode, in no order of age.
    rows: Vec<Key>,
    /// Rows whose prompt is under way, after the others in a step; the oldest first.
    prefilling: Vec<Key>,
    /// Those that wait to be computed again, the oldest first.
    preempted: VecDeque<Key>,
    /// Of every step planned and not yet delivered, the oldest first: whose token each row's is; none
    /// where it is nobody's.
    under_way: VecDeque<Vec<Option<Key>>>,
    /// A token of the last of them must be here before the next step can be planned.
    awaits_token: bool,
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
            sequences: Vec::new(),
            vacant: Vec::new(),
            rows: Vec::new(),
            prefilling: Vec::new(),
            preempted: VecDeque::new(),
            under_way: VecDeque::new(),
            awaits_token: false,
            next_order: 0,
            preemptions: 0,
        }
    }

    /// There are rows for a step.
    pub fn is_running(&self) -> bool {
        self.in_turn().any(|row| !row.is_over())
    }

    /// Whether the next step depends on no token that is still to come: a repetition penalty applies to
    /// it, and log-probabilities are read from the logits of the last step submitted.
    pub fn can_plan(&self) -> bool {
        self.under_way.is_empty() || !self.awaits_token
    }

    /// Requests may join now.
    pub fn admits(&self) -> bool {
        self.batching != Batching::RequestLevel || self.rows.is_empty()
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

    fn start(&mut self, request: Request, pad: usize, lease: Lease, now: Duration) -> Key {
        self.next_order += 1;
        let sequence = Sequence::start(request, self.next_order, pad, lease, now);
        match self.vacant.pop() {
            Some(key) => {
                self.sequences[key] = sequence;
                key
            }
            None => {
                self.sequences.push(sequence);
                self.sequences.len() - 1
            }
        }
    }

    /// Those that decode, then those that prefill.
    fn in_turn(&self) -> impl Iterator<Item = &Sequence> {
        let keys = self.rows.iter().chain(&self.prefilling);
        keys.map(|&key| &self.sequences[key])
    }

    /// Writes the next step over `plan`, and moves its rows on to where they are after it.
    pub fn plan(&mut self, plan: &mut StepPlan) -> StepShape {
        let mut step = StepWriter::over(plan);
        let mut takers = Vec::with_capacity(self.rows.len() + self.prefilling.len());
        let mut moved = false;
        self.awaits_token = false;
        for &key in self.rows.iter().chain(&self.prefilling) {
            let row = &mut self.sequences[key];
            if row.query_len > 0 {
                let phase = row.phase;
                row.put(&mut step);
                let expects = row.expect_token();
                takers.push(expects.then_some(key));
                moved |= row.phase != phase;
                self.awaits_token |=
                    expects && (row.is_penalised() || row.request.logprobs.is_some());
            }
        }
        let shape = StepShape {
            kv_pages_used: self.pool.used(),
            kv_pages_total: self.pool.total(),
            preemptions: std::mem::take(&mut self.preemptions),
            ..step.finish()
        };
        self.under_way.push_back(takers);
        if moved {
            self.retire();
        }
        shape
    }

    /// For each row of the oldest step under way: how many log-probabilities its token comes with.
    /// Empty where no row asked for any.
    pub fn logprobs(&self) -> Vec<Option<usize>> {
        let takers = self.under_way.front().into_iter().flatten();
        let asked =
            |taker: &Option<Key>| taker.and_then(|key| self.sequences[key].request.logprobs);
        let asked: Vec<_> = takers.map(asked).collect();
        match asked.iter().any(Option::is_some) {
            true => asked,
            false => Vec::new(),
        }
    }

    /// Gives the rows of the oldest step under way their tokens, and ends those whose last it is.
    /// `logprobs` are those of each row, or none at all.
    pub fn deliver(
        &mut self,
        tokens: &[u32],
        logprobs: Vec<Option<Logprobs>>,
        now: Duration,
        finished: &mut Vec<Finished>,
    ) -> Delivered {
        let mut logprobs = logprobs.into_iter();
        let mut delivered = Vec::with_capacity(tokens.len());
        let mut dropped = 0;
        let takers = self.under_way.pop_front().unwrap_or_default();
        let ended_before = finished.len();
        for (taker, &token) in takers.into_iter().zip(tokens) {
            let logprobs = logprobs.next().flatten().map(Box::new);
            let Some(key) = taker else { continue };
            let row = &mut self.sequences[key];
            row.expected -= 1;
            if row.phase == Phase::Ended {
                dropped += 1;
            } else {
                delivered.push(Token {
                    request: row.request.id,
                    id: token,
                    logprobs,
                });
                finished.extend(row.take(token, now));
            }
            if row.is_gone() {
                self.vacant.push(key);
            }
        }
        if finished.len() > ended_before {
            self.retire();
        }
        Delivered {
            tokens: delivered,
            dropped,
        }
    }

    /// Ends a request that has started.
    pub fn cancel(&mut self, id: RequestId, now: Duration) -> Option<Finished> {
        let asked = |row: &Sequence| row.request.id == id && row.phase != Phase::Ended;
        let key = self.sequences.iter().position(asked)?;
        let row = &mut self.sequences[key];
        let ended = row.end(FinishReason::Cancelled, now);
        if row.is_gone() {
            self.vacant.push(key);
        }
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
