//! What crosses the runner seam: one step's work as host integers.
//!
//! Letters, here and in the kernels: B rows, T tokens of the step (all rows packed one after
//! another), S KV length of a row, P positions in a KV page.
//!
//! A plan says nothing of policies or padding modes. Padding is data: a left-padded row simply has
//! `kv_start > 0`, and its padded positions are tokens like any other, computed and masked.

use crate::sampling::Sampling;

/// One row (sequence) of a step.
#[derive(Debug, Clone, PartialEq)]
pub struct RowPlan {
    /// Tokens of this row in this step (≥ 1): the prompt at prefill, 1 at decode.
    pub query_len: usize,
    /// First visible KV index: the row's left padding. Keys before it are masked for every query.
    pub kv_start: usize,
    /// KV length once this step's tokens are appended; they take the last `query_len` indices.
    pub kv_len: usize,
    /// The row's page table: KV index `i` lives in page `pages[i / P]` at position `i % P`.
    pub pages: Vec<u32>,
    /// How the token after the row's last query is chosen.
    pub sampling: Sampling,
    /// Counter of the sampling generator: tokens this request has generated so far.
    pub sample_index: u32,
}

/// One step: every row's tokens packed in row order, and the rows.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct StepPlan {
    /// `[T]` token ids, T = Σ `query_len`.
    pub token_ids: Vec<u32>,
    /// `[T]` position ids: the index into the position embedding (0 on padding).
    pub positions: Vec<u32>,
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
    /// Time of this step spent computing: waiting for the device, or the CPU runner's own
    /// arithmetic. The rest of the step is the host's work.
    pub compute: std::time::Duration,
}
