//! What crosses the runner seam: one step's work as host integers.
//!
//! Letters, here and in the kernels: B rows, T tokens of the step (all rows packed one after
//! another), S KV length of a row, P positions in a KV page.
//!
//! A plan says nothing of policies or padding modes. Padding is data: a left-padded row simply has
//! `kv_start > 0`, and its padded positions are tokens like any other, computed and masked.

use std::time::Duration;

use crate::sampling::Sampling;

/// One row (sequence) of a step.
#[derive(Debug, Clone, PartialEq)]
pub struct RowPlan {
    /// Tokens of this row in this step (≥ 1): the prompt or a part of it at prefill, 1 at decode.
    pub query_len: usize,
    /// First visible KV index: the row's left padding. Keys before it are masked for every query.
    pub kv_start: usize,
    /// KV length once this step's tokens are appended; they take the last `query_len` indices.
    pub kv_len: usize,
    /// The row's page table: KV index `i` lives in page `pages[i / P]` at position `i % P`.
    pub pages: Vec<u32>,
    /// How the token after the row's last query is chosen.
    pub sampling: Sampling,
    /// The tokens that `sampling.repetition_penalty` applies to, each once; empty without a penalty.
    pub penalised: Vec<u32>,
    /// Counter of the sampling generator: tokens this request has generated so far.
    pub sample_index: u32,
    /// The row of the step before that this one goes on from: its only token is the one that was
    /// chosen there. While that is not on the host yet, `token_ids` has 0 in its place; a runner
    /// meets this only with several steps under way.
    pub follows: Option<u32>,
}

impl RowPlan {
    /// Position ids of its tokens in this step: KV indices without the left padding, where they are 0.
    pub fn positions(&self) -> impl Iterator<Item = u32> {
        let first = self.kv_start;
        (self.kv_len - self.query_len..self.kv_len).map(move |i| i.saturating_sub(first) as u32)
    }

    /// Pairs of a query and a key that it sees: the last query sees all n visible positions, each
    /// one before it one less.
    pub fn query_key_pairs(&self) -> usize {
        let visible = self.kv_len - self.kv_start;
        let queries = self.query_len.min(visible);
        queries * visible - queries * queries.saturating_sub(1) / 2
    }
}

/// One step: every row's tokens packed in row order, and the rows.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct StepPlan {
    /// `[T]` token ids, T = Σ `query_len`.
    pub token_ids: Vec<u32>,
    /// `[B]` rows.
    pub rows: Vec<RowPlan>,
}

impl StepPlan {
    /// T, the tokens computed in this step, padding included.
    pub fn tokens(&self) -> usize {
        self.token_ids.len()
    }

    /// True when every row adds exactly one token, so that the decode kernels apply.
    pub fn is_decode(&self) -> bool {
        self.rows.iter().all(|r| r.query_len == 1)
    }
}

/// What a runner gives back for one step.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct StepOutput {
    /// `[B]` the next token of every row.
    pub tokens: Vec<u32>,
    /// Time that the caller waited for this step: for the device, or the CPU runner's own
    /// arithmetic. The rest is the host's work.
    pub compute: Duration,
    /// What the device's own clock says, from a runner that was asked to
    /// [`time_steps`](crate::runner::Runner::time_steps).
    pub device: Option<DeviceTime>,
}

/// One step by the device's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceTime {
    /// From the first of the step's work to the last.
    pub busy: Duration,
    /// From the end of the step before; none for the first.
    pub idle: Option<Duration>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_those_under_the_causal_mask() {
        // (query_len, kv_start, kv_len) → each query's keys, counted one by one.
        for (query_len, kv_start, kv_len) in [
            (1, 0, 1),
            (1, 0, 9),
            (4, 0, 4),
            (3, 0, 7),
            (5, 2, 5),
            (5, 5, 5),
        ] {
            let row = RowPlan {
                query_len,
                kv_start,
                kv_len,
                pages: Vec::new(),
                sampling: Sampling::GREEDY,
                penalised: Vec::new(),
                sample_index: 0,
                follows: None,
            };
            let queries = kv_len - query_len..kv_len;
            let keys = queries.flat_map(|q| (kv_start..kv_len).filter(move |&k| k <= q));
            assert_eq!(row.query_key_pairs(), keys.count(), "{row:?}");
        }
    }

    #[test]
    fn positions_begin_after_the_padding() {
        let row = RowPlan {
            query_len: 4,
            kv_start: 3,
            kv_len: 6,
            pages: Vec::new(),
            sampling: Sampling::GREEDY,
            penalised: Vec::new(),
            sample_index: 0,
            follows: None,
        };
        assert_eq!(row.positions().collect::<Vec<_>>(), [0, 0, 1, 2]);
    }
}
