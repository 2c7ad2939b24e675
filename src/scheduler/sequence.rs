//! One row's state: what it has, what it gets in the next step, and when what happened.

use std::collections::HashSet;
use std::time::Duration;

use super::step::StepWriter;
use crate::kv::{KvLayout, Lease};
use crate::request::{FinishReason, Finished, Request, Stretch};

/// Where a request that has started stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Some of its known tokens are not in the KV cache yet.
    Prefill,
    /// All but its newest token are, which may still be on its way.
    Decode,
    /// Its last token is on its way; no further step has it.
    Leaving,
    /// It has ended, and was told so.
    Ended,
    /// It lost its pages and waits to be computed again.
    Preempted,
}

/// A request that has started.
#[derive(Debug)]
pub(super) struct Sequence {
    pub request: Request,
    pub lease: Lease,
    pub phase: Phase,
    /// Smaller in those that started earlier.
    pub order: u64,
    /// Left padding.
    pub pad: usize,
    /// KV positions filled, padding included.
    pub kv_len: usize,
    /// Tokens of the next step; 0 leaves the row out.
    pub query_len: usize,
    /// Steps under way that give it a token.
    pub expected: usize,
    /// Its row in the last step that had it.
    place: usize,
    output: Vec<u32>,
    penalised: Penalised,
    scheduled: Duration,
    token_times: Vec<Duration>,
    preempted: Vec<Stretch>,
}

/// The distinct tokens of a row so far, kept only for rows with a repetition penalty.
#[derive(Debug, Default)]
struct Penalised {
    tokens: Vec<u32>,
    seen: HashSet<u32>,
}

/// KV positions a request fills: its last token is returned but never appended.
pub(super) fn kv_positions(request: &Request, pad: usize) -> usize {
    pad + request.prompt.len() + request.max_new_tokens - 1
}

impl Sequence {
    pub fn start(request: Request, order: u64, pad: usize, lease: Lease, now: Duration) -> Self {
        let mut sequence = Self {
            lease,
            phase: Phase::Prefill,
            order,
            pad,
            kv_len: 0,
            query_len: 0,
            expected: 0,
            place: 0,
            // At once: rows that start together would otherwise all grow in the same steps.
            output: Vec::with_capacity(request.max_new_tokens),
            penalised: Penalised::default(),
            scheduled: now,
            token_times: Vec::with_capacity(request.max_new_tokens),
            preempted: Vec::new(),
            request,
        };
        if sequence.is_penalised() {
            sequence.penalised.extend(&sequence.request.prompt);
        }
        sequence
    }

    pub fn is_penalised(&self) -> bool {
        self.request.sampling.repetition_penalty != 1.0
    }

    /// Output tokens, those on their way included.
    fn generated(&self) -> usize {
        self.output.len() + self.expected
    }

    /// KV positions of padding, prompt and output, with the tokens on their way.
    pub fn known_len(&self) -> usize {
        self.pad + self.request.prompt.len() + self.generated()
    }

    /// Tokens of these that are not in the KV cache: 1 while decoding.
    pub fn left(&self) -> usize {
        self.known_len() - self.kv_len
    }

    /// Its pages do not hold them all.
    pub fn lacks_page(&self, layout: &KvLayout) -> bool {
        self.lease.pages().len() * layout.page_size < self.known_len()
    }

    /// It needs no step more, at most it idles in some.
    pub fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Leaving | Phase::Ended)
    }

    /// Gives its pages back if it is over; says whether it is. A later step may fill them: it comes
    /// after all that are under way.
    pub fn leaves(&mut self) -> bool {
        let over = self.is_over();
        if over {
            self.lease.release();
        }
        over
    }

    /// It has ended and nothing for it is on its way.
    pub fn is_gone(&self) -> bool {
        self.phase == Phase::Ended && self.expected == 0
    }

    /// Takes what is left of it from the next step's budget, or all of the budget; says how much.
    pub fn share(&mut self, budget: usize) -> usize {
        self.query_len = self.left().min(budget);
        self.query_len
    }

    /// Writes the row of the next step.
    pub fn put(&mut self, step: &mut StepWriter<'_>) {
        // A row that idles repeats its last position: it costs what a row costs, and no further page.
        let idle = self.is_over();
        let first = self.kv_len - usize::from(idle);
        step.tokens((first..first + self.query_len).map(|index| self.token(index)));
        self.kv_len = first + self.query_len;
        let shape = &mut step.shape;
        shape.decode_rows += usize::from(self.phase != Phase::Prefill);
        shape.idle_rows += usize::from(idle);
        shape.padded_tokens += self.pad.saturating_sub(first);
        let follows = (self.phase == Phase::Decode).then_some(self.place as u32);
        self.place = step.shape.rows;
        step.row(|row| {
            row.query_len = self.query_len;
            row.kv_start = self.pad;
            row.kv_len = self.kv_len;
            row.pages.clear();
            row.pages.extend_from_slice(self.lease.pages());
            row.sampling = self.request.sampling;
            row.penalised.clear();
            row.penalised.extend_from_slice(&self.penalised.tokens);
            row.sample_index = self.generated() as u32;
            row.follows = follows;
        });
    }

    /// The token id at a KV index.
    fn token(&self, index: usize) -> u32 {
        // Any valid id may stand on a masked position.
        let Some(position) = index.checked_sub(self.pad) else {
            return 0;
        };
        let prompt = &self.request.prompt;
        match position.checked_sub(prompt.len()) {
            None => prompt[position],
            // An idle row has handed its output over, and a token on its way is known by its place;
            // any valid id will do.
            Some(i) => self.output.get(i).copied().unwrap_or(0),
        }
    }

    /// Moves on to after the step just written. Says whether that gives it a token: a part of a prompt
    /// does not, nor does a step in which it idles.
    pub fn expect_token(&mut self) -> bool {
        if self.is_over() || self.left() > 0 {
            return false;
        }
        self.expected += 1;
        self.phase = match self.generated() == self.request.max_new_tokens {
            true => Phase::Leaving,
            false => Phase::Decode,
        };
        true
    }

    /// The token of a step that came; the end, if it was the last.
    pub fn take(&mut self, token: u32, now: Duration) -> Option<Finished> {
        self.output.push(token);
        self.token_times.push(now);
        if self.is_penalised() {
            self.penalised.extend(&[token]);
        }
        // It may have lost its pages while this token was on its way.
        if self.phase != Phase::Preempted {
            self.recovered(now);
        }
        if self.request.stop_tokens.contains(&token) {
            Some(self.end(FinishReason::Stop, now))
        } else if self.output.len() == self.request.max_new_tokens {
            Some(self.end(FinishReason::Length, now))
        } else {
            None
        }
    }

    pub fn end(&mut self, reason: FinishReason, now: Duration) -> Finished {
        self.phase = Phase::Ended;
        self.recovered(now);
        Finished {
            id: self.request.id,
            prompt_len: self.request.prompt.len(),
            output: std::mem::take(&mut self.output),
            reason,
            arrival: self.request.arrival,
            scheduled: Some(self.scheduled),
            token_times: std::mem::take(&mut self.token_times),
            preempted: std::mem::take(&mut self.preempted),
            finished: now,
        }
    }

    /// Gives its pages back; its tokens and their times stay.
    pub fn preempt(&mut self, now: Duration) {
        self.phase = Phase::Preempted;
        self.lease.release();
        self.kv_len = 0;
        // One that had not recovered yet is still in the same stretch.
        if self.preempted.last().is_none_or(|s| s.until.is_some()) {
            self.preempted.push(Stretch {
                from: now,
                until: None,
            });
        }
    }

    /// Begins again, with pages for all known tokens.
    pub fn resume(&mut self, lease: Lease) {
        self.phase = Phase::Prefill;
        self.lease = lease;
    }

    fn recovered(&mut self, now: Duration) {
        if let Some(last) = self.preempted.last_mut() {
            last.until.get_or_insert(now);
        }
    }
}

impl Penalised {
    fn extend(&mut self, tokens: &[u32]) {
        let new = tokens.iter().filter(|&&token| self.seen.insert(token));
        self.tokens.extend(new);
    }
}
