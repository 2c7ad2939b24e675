//! Continuous batching (Orca, OSDI 2022; vLLM, SOSP 2023): rows join and leave between steps.
//!
//! A step holds one token of every decoding row, then parts of prompts (Sarathi-Serve, OSDI 2024)
//! for as long as its budget of tokens lasts, oldest first. A row that starts leases the pages of all
//! its known tokens, so that a prompt under way never lacks any; a decoding row leases one more page
//! at a time. Where none is free, the youngest row gives all of its pages back and waits at the front
//! of the line, to be computed again from prompt and output. The oldest row therefore goes on in every
//! step, and everybody's wait is bounded by the work of those who came earlier.

use std::collections::VecDeque;
use std::time::Duration;

use super::sequence::{Phase, Sequence, kv_positions};
use super::{Admitted, Key, Scheduler};
use crate::batching::{CloseReason, Decision, Queue};
use crate::kv::Lease;
use crate::request::Request;

/// A hundredth of the pool, as in vLLM, stays free when a row starts beside others: their next pages
/// would otherwise preempt it at once.
const WATERMARK: usize = 100;

impl Scheduler {
    /// Shares the next step out: one token to every row that decodes, then prompts under way, rows
    /// that were preempted, and as many of the queue as decided on, or as fit.
    pub(super) fn reserve_step(
        &mut self,
        queue: &mut Queue,
        decision: Decision,
        budget: usize,
        now: Duration,
    ) -> Option<Admitted> {
        let mut budget = budget.min(self.capacity.max_tokens);
        // So that a prompt beside decoding rows gets at least one token.
        let most_rows = self.capacity.max_rows.min(budget);
        self.grow(now);
        budget -= self.rows.len();
        for &key in &self.prefilling {
            budget -= self.sequences[key].share(budget);
        }
        while budget > 0
            && let Some(row) = self.resume()
        {
            budget -= row.share(budget);
        }
        let Decision::Take { count, mut reason } = decision else {
            return None;
        };
        let oldest_arrival = queue.iter().next()?.arrival;
        let mut requests = Vec::new();
        // Who was preempted came before all who are queued.
        while requests.len() < count && self.preempted.is_empty() {
            let Some(next) = queue.iter().next() else {
                break;
            };
            if budget == 0 || self.started() == most_rows {
                reason = CloseReason::Full;
                break;
            }
            let Some(lease) = self.lease_to_start(next.prompt.len(), self.most_pages(next)) else {
                reason = CloseReason::KvFull;
                break;
            };
            let request = queue.pop()?;
            requests.push(request.id);
            let key = self.start(request, 0, lease, now);
            budget -= self.sequences[key].share(budget);
            self.prefilling.push(key);
        }
        (!requests.is_empty()).then_some(Admitted {
            requests,
            reason,
            oldest_arrival,
        })
    }

    /// Pages at its longest.
    fn most_pages(&self, request: &Request) -> usize {
        self.layout.pages_for(kv_positions(request, 0))
    }

    fn most_pages_of_started(&self) -> usize {
        let started = self.rows.iter().chain(&self.prefilling);
        let started = started.chain(&self.preempted);
        let pages = |&key: &Key| self.most_pages(&self.sequences[key].request);
        started.map(pages).sum()
    }

    /// Gives every decoding row a token, and the page for it where its last one is full.
    fn grow(&mut self, now: Duration) {
        // Counted only where they may be too few.
        while self.rows.len() > self.pool.free() && self.lacking_pages() > self.pool.free() {
            self.preempt_youngest(now);
        }
        for &key in &self.rows {
            let row = &mut self.sequences[key];
            row.query_len = 1;
            if row.lacks_page(&self.layout) {
                row.lease.grow(1);
            }
        }
    }

    /// Decoding rows whose next token needs a page more.
    fn lacking_pages(&self) -> usize {
        let rows = self.rows.iter().map(|&key| &self.sequences[key]);
        rows.filter(|row| row.lacks_page(&self.layout)).count()
    }

    fn preempt_youngest(&mut self, now: Duration) {
        let order = |&key: &Key| self.sequences[key].order;
        let decoding = self.rows.iter().map(order).enumerate();
        let decoding = decoding.max_by_key(|&(_, order)| order);
        let prefilling = self.prefilling.last().map(order);
        let key = match decoding {
            Some((place, order)) if Some(order) > prefilling => Some(self.rows.swap_remove(place)),
            _ => self.prefilling.pop(),
        };
        if let Some(key) = key {
            let of_row = order(&key);
            let at = self.preempted.partition_point(|key| order(key) < of_row);
            self.preempted.insert(at, key);
            self.sequences[key].preempt(now);
            self.preemptions += 1;
        }
    }

    /// The oldest preempted row prefills again, if there are pages for it and its tokens are all here.
    fn resume(&mut self) -> Option<&mut Sequence> {
        let &key = self.preempted.front()?;
        let row = &self.sequences[key];
        if row.expected > 0 {
            return None;
        }
        // It is one of those that have started.
        let lease = self.lease_to_start(row.known_len(), 0)?;
        self.preempted.pop_front();
        self.prefilling.push(key);
        let row = &mut self.sequences[key];
        row.resume(lease);
        Some(row)
    }

    /// The pages of so many tokens, if that leaves the watermark to the rows that run. One that is
    /// alone may take all, and so may one whose `most` pages fit beside the most of all others: nobody
    /// will ever lack one.
    fn lease_to_start(&self, tokens: usize, most: usize) -> Option<Lease> {
        let pages = self.layout.pages_for(tokens);
        let suffices = self.most_pages_of_started() + most <= self.pool.total();
        let kept = match self.is_running() && !suffices {
            true => self.pool.total().div_ceil(WATERMARK),
            false => 0,
        };
        match pages + kept <= self.pool.free() {
            true => self.pool.lease(pages),
            false => None,
        }
    }

    /// Rows that ended leave. Their places go to rows whose prompt has just been computed, else to
    /// the last row, so that most rows keep theirs from step to step.
    pub(super) fn retire_rows(&mut self) {
        let sequences = &mut self.sequences;
        let decodes = |&mut key: &mut Key| sequences[key].phase == Phase::Decode;
        let mut joining: VecDeque<Key> = self.prefilling.extract_if(.., decodes).collect();
        let mut leaves = |key: Key| sequences[key].leaves();
        self.prefilling.retain(|&key| !leaves(key));
        self.preempted.retain(|&key| !leaves(key));
        let mut place = 0;
        while place < self.rows.len() {
            if leaves(self.rows[place]) {
                let Some(key) = joining.pop_front() else {
                    self.rows.swap_remove(place);
                    continue;
                };
                self.rows[place] = key;
            }
            place += 1;
        }
        self.rows.extend(joining);
    }
}
