//! Writing a step's plan, and counting what it computes.

use crate::plan::{RowPlan, StepPlan};
use crate::sampling::Sampling;

/// What one step computed, for the records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StepShape {
    pub rows: usize,
    /// Rows that decode, one token each, idle ones among them; the others prefill.
    pub decode_rows: usize,
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
    /// Rows that lost their pages to make room for this step.
    pub preemptions: usize,
}

impl StepShape {
    /// Some row prefills.
    pub fn prefills(&self) -> bool {
        self.decode_rows < self.rows
    }

    /// Some rows prefill while others decode.
    pub fn is_mixed(&self) -> bool {
        self.prefills() && self.decode_rows > 0
    }
}

/// Writes a plan over an older one, whose memory it uses again: at hundreds of rows, allocating a
/// page table for each of them in every step would take longer than everything else here.
pub(super) struct StepWriter<'a> {
    plan: &'a mut StepPlan,
    pub shape: StepShape,
}

impl<'a> StepWriter<'a> {
    pub fn over(plan: &'a mut StepPlan) -> Self {
        plan.token_ids.clear();
        Self {
            plan,
            shape: StepShape::default(),
        }
    }

    /// Appends token ids.
    pub fn tokens(&mut self, tokens: impl Iterator<Item = u32>) {
        self.plan.token_ids.extend(tokens);
    }

    /// The next row; `write` sees what an older plan left in its place.
    pub fn row(&mut self, write: impl FnOnce(&mut RowPlan)) {
        let place = self.shape.rows;
        if place == self.plan.rows.len() {
            self.plan.rows.push(RowPlan {
                query_len: 0,
                kv_start: 0,
                kv_len: 0,
                pages: Vec::new(),
                sampling: Sampling::GREEDY,
                penalised: Vec::new(),
                sample_index: 0,
                follows: None,
            });
        }
        let row = &mut self.plan.rows[place];
        write(row);
        self.shape.rows += 1;
        self.shape.kv_positions += row.kv_len - row.kv_start;
        self.shape.query_key_pairs += row.query_key_pairs();
    }

    pub fn finish(mut self) -> StepShape {
        self.plan.rows.truncate(self.shape.rows);
        self.shape.tokens = self.plan.tokens();
        self.shape
    }
}
