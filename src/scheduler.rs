//! Turns queued requests into steps: reserves KV pages, builds each `StepPlan`, applies its tokens.
//!
//! Batches here are request-level: a batch runs until its slowest row ends, finished rows idle
//! beside it, and every row's pages are reserved up front, so that a running batch never fails.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::batching::{CloseReason, Queue};
use crate::kv::{KvLayout, Lease, PagePool};
use crate::plan::{RowPlan, StepPlan};
use crate::request::{FinishReason, Finished, Request, RequestId};

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

/// What one step and one row may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    pub max_rows: usize,
    pub max_tokens: usize,
    pub max_kv_len: usize,
    /// The longest context of the model.
    pub max_positions: usize,
}

/// Why a request can never run here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the prompt is empty; give at least one token")]
    EmptyPrompt,
    #[error("max_new_tokens is 0; ask for at least one token")]
    NoOutput,
    #[error(
        "prompt {prompt} + output {output} tokens exceed the model's context of {max_positions}; \
         shorten the prompt or the output"
    )]
    Context {
        prompt: usize,
        output: usize,
        max_positions: usize,
    },
    #[error(
        "the request needs {needed} KV pages, the whole pool has {total} (pages of {page_size} \
         tokens); raise --kv-cache-memory or --gpu-memory-utilization"
    )]
    KvPool {
        needed: usize,
        total: usize,
        page_size: usize,
    },
    #[error("the request needs {needed} {what}, the runner was opened for {limit}")]
    Runner {
        what: &'static str,
        needed: usize,
        limit: usize,
    },
}

/// One row of the running batch.
#[derive(Debug)]
struct Sequence {
    request: Request,
    lease: Lease,
    /// Left padding.
    pad: usize,
    /// KV positions filled, padding included.
    kv_len: usize,
    output: Vec<u32>,
    scheduled: Duration,
    token_times: Vec<Duration>,
    finished: bool,
}

/// A batch as it closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admitted {
    pub size: usize,
    pub reason: CloseReason,
    /// Arrival of its oldest request.
    pub oldest_arrival: Duration,
}

/// What one step computed, for the records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StepShape {
    pub prefill: bool,
    pub rows: usize,
    /// Rows that had finished and idled.
    pub idle_rows: usize,
    /// Positions computed, padding included.
    pub tokens: usize,
    pub padded_tokens: usize,
    /// KV positions that attention sees, of all rows.
    pub kv_positions: usize,
    /// Pairs of a query and a key that it sees.
    pub query_key_pairs: usize,
    /// Pages leased, and pages in the pool.
    pub kv_pages_used: usize,
    pub kv_pages_total: usize,
}

#[derive(Debug)]
pub struct Scheduler {
    pool: PagePool,
    layout: KvLayout,
    capacity: Capacity,
    padding: Padding,
    batch: Vec<Sequence>,
}

impl Scheduler {
    pub fn new(pages: usize, layout: KvLayout, capacity: Capacity, padding: Padding) -> Self {
        Self {
            pool: PagePool::new(pages),
            layout,
            capacity,
            padding,
            batch: Vec::new(),
        }
    }

    pub fn is_running(&self) -> bool {
        !self.batch.is_empty()
    }

    pub fn pool(&self) -> &PagePool {
        &self.pool
    }

    /// Refuses what could not run even alone.
    pub fn check(&self, request: &Request) -> Result<(), Refusal> {
        let (prompt, output) = (request.prompt.len(), request.max_new_tokens);
        if prompt == 0 {
            return Err(Refusal::EmptyPrompt);
        }
        if output == 0 {
            return Err(Refusal::NoOutput);
        }
        // Compared without adding: max_new_tokens may be anything.
        if prompt > self.capacity.max_positions || output > self.capacity.max_positions - prompt {
            return Err(Refusal::Context {
                prompt,
                output,
                max_positions: self.capacity.max_positions,
            });
        }
        let kv_len = kv_positions(request, 0);
        let over = |what, needed, limit| match needed > limit {
            true => Err(Refusal::Runner {
                what,
                needed,
                limit,
            }),
            false => Ok(()),
        };
        over("prompt tokens in a step", prompt, self.capacity.max_tokens)?;
        over("KV positions", kv_len, self.capacity.max_kv_len)?;
        match self.layout.pages_for(kv_len) {
            needed if needed > self.pool.total() => Err(Refusal::KvPool {
                needed,
                total: self.pool.total(),
                page_size: self.layout.page_size,
            }),
            _ => Ok(()),
        }
    }

    /// Starts a batch with the `count` oldest requests, or with as many as the pool and the runner
    /// hold; the reason says which. `None` if nothing was queued.
    pub fn admit(
        &mut self,
        queue: &mut Queue,
        count: usize,
        reason: CloseReason,
        now: Duration,
    ) -> Option<Admitted> {
        let (size, reason) = self.fitting(queue, count, reason);
        let longest = queue.iter().take(size).map(|r| r.prompt.len()).max()?;
        let oldest_arrival = queue.iter().next()?.arrival;
        for _ in 0..size {
            let request = queue.pop()?;
            let pad = self.pad(&request, longest);
            let lease = self
                .pool
                .lease(self.layout.pages_for(kv_positions(&request, pad)))?;
            self.batch.push(Sequence {
                pad,
                lease,
                kv_len: 0,
                output: Vec::new(),
                scheduled: now,
                token_times: Vec::new(),
                finished: false,
                request,
            });
        }
        Some(Admitted {
            size,
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

    /// The next step of the running batch: its prefill, then one token a row.
    pub fn plan(&mut self) -> (StepPlan, StepShape) {
        let mut plan = StepPlan::default();
        let mut shape = StepShape {
            rows: self.batch.len(),
            kv_pages_used: self.pool.used(),
            kv_pages_total: self.pool.total(),
            ..StepShape::default()
        };
        for sequence in &mut self.batch {
            let tokens_before = plan.token_ids.len();
            if sequence.kv_len == 0 {
                shape.prefill = true;
                shape.padded_tokens += sequence.pad;
                sequence.prefill(&mut plan);
            } else {
                shape.idle_rows += usize::from(sequence.finished);
                sequence.decode(&mut plan);
            }
            let row = RowPlan {
                query_len: plan.token_ids.len() - tokens_before,
                kv_start: sequence.pad,
                kv_len: sequence.kv_len,
                pages: sequence.lease.pages().to_vec(),
                sampling: sequence.request.sampling,
                penalised: Vec::new(),
                sample_index: sequence.output.len() as u32,
            };
            shape.kv_positions += row.kv_len - row.kv_start;
            shape.query_key_pairs += row.query_key_pairs();
            plan.rows.push(row);
        }
        shape.tokens = plan.tokens();
        (plan, shape)
    }

    /// Gives every unfinished row its token. Returns the tokens delivered and, once all rows have
    /// ended, drops the batch and frees its pages.
    pub fn apply(
        &mut self,
        tokens: &[u32],
        now: Duration,
        finished: &mut Vec<Finished>,
    ) -> Vec<(RequestId, u32)> {
        let mut delivered = Vec::with_capacity(tokens.len());
        for (sequence, &token) in self.batch.iter_mut().zip(tokens) {
            if sequence.finished {
                continue;
            }
            sequence.output.push(token);
            sequence.token_times.push(now);
            delivered.push((sequence.request.id, token));
            if sequence.request.stop_tokens.contains(&token) {
                finished.push(sequence.end(FinishReason::Stop, now));
            } else if sequence.output.len() == sequence.request.max_new_tokens {
                finished.push(sequence.end(FinishReason::Length, now));
            }
        }
        self.retire();
        delivered
    }

    /// Ends a running request early; its row idles until the batch ends.
    pub fn cancel(&mut self, id: RequestId, now: Duration) -> Option<Finished> {
        let mut rows = self.batch.iter_mut();
        let sequence = rows.find(|s| s.request.id == id && !s.finished)?;
        let ended = sequence.end(FinishReason::Cancelled, now);
        self.retire();
        Some(ended)
    }

    fn retire(&mut self) {
        if self.batch.iter().all(|s| s.finished) {
            self.batch.clear();
        }
    }
}

/// KV positions a request fills: its last token is returned but never appended.
fn kv_positions(request: &Request, pad: usize) -> usize {
    pad + request.prompt.len() + request.max_new_tokens - 1
}

impl Sequence {
    fn prefill(&mut self, plan: &mut StepPlan) {
        // Any valid id may stand on a masked position; position 0 as on any masked token in HF.
        let padding = std::iter::repeat_n((0, 0), self.pad);
        let prompt = self.request.prompt.iter().copied().zip(0u32..);
        for (id, position) in padding.chain(prompt) {
            plan.token_ids.push(id);
            plan.positions.push(position);
        }
        self.kv_len = self.pad + self.request.prompt.len();
    }

    /// One token more; a finished row repeats its last position, so that it costs what an idle row
    /// costs and needs no further page.
    fn decode(&mut self, plan: &mut StepPlan) {
        let last = self.output.last().or(self.request.prompt.last());
        plan.token_ids.push(last.copied().unwrap_or(0));
        if !self.finished {
            self.kv_len += 1;
        }
        plan.positions.push((self.kv_len - 1 - self.pad) as u32);
    }

    fn end(&mut self, reason: FinishReason, now: Duration) -> Finished {
        self.finished = true;
        Finished {
            id: self.request.id,
            prompt_len: self.request.prompt.len(),
            output: std::mem::take(&mut self.output),
            reason,
            arrival: self.request.arrival,
            scheduled: Some(self.scheduled),
            token_times: std::mem::take(&mut self.token_times),
            finished: now,
        }
    }
}
