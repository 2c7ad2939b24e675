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

    /// Checks everything that a runner indexes with, so that a wrong plan is an error and never
    /// an access outside of a buffer.
    pub fn validate(&self, bounds: &PlanBounds) -> Result<(), PlanError> {
        let wanted = self.rows.iter().map(|r| r.query_len).sum();
        if self.rows.is_empty() {
            return Err(PlanError::NoRows);
        }
        at_most("rows", self.rows.len(), bounds.max_rows)?;
        at_most("tokens", wanted, bounds.max_tokens)?;
        if self.token_ids.len() != wanted || self.positions.len() != wanted {
            return Err(PlanError::TokenCount {
                wanted,
                token_ids: self.token_ids.len(),
                positions: self.positions.len(),
            });
        }
        below("token id", &self.token_ids, bounds.vocab)?;
        below("position", &self.positions, bounds.max_positions)?;
        for (row, r) in self.rows.iter().enumerate() {
            if r.query_len == 0 || r.query_len > r.kv_len || r.kv_start > r.kv_len {
                return Err(PlanError::RowLengths {
                    row,
                    query_len: r.query_len,
                    kv_start: r.kv_start,
                    kv_len: r.kv_len,
                });
            }
            at_most("KV positions in a row", r.kv_len, bounds.max_kv_len)?;
            let needed = r.kv_len.div_ceil(bounds.page_size);
            if r.pages.len() < needed {
                return Err(PlanError::TooFewPages {
                    row,
                    kv_len: r.kv_len,
                    needed,
                    pages: r.pages.len(),
                });
            }
            below("KV page", &r.pages, bounds.kv_pages)?;
        }
        Ok(())
    }
}

fn at_most(what: &'static str, count: usize, limit: usize) -> Result<(), PlanError> {
    if count > limit {
        return Err(PlanError::TooMany { what, count, limit });
    }
    Ok(())
}

fn below(what: &'static str, values: &[u32], limit: usize) -> Result<(), PlanError> {
    match values.iter().find(|&&v| v as usize >= limit) {
        Some(&value) => Err(PlanError::OutOfRange { what, value, limit }),
        None => Ok(()),
    }
}

/// What a runner can address: its limits, its model and its slab.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlanBounds {
    pub max_rows: usize,
    pub max_tokens: usize,
    pub max_kv_len: usize,
    pub vocab: usize,
    pub max_positions: usize,
    /// P
    pub page_size: usize,
    /// Pages in the slab.
    pub kv_pages: usize,
}

/// Why a runner refuses a plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    #[error("the step has no rows")]
    NoRows,
    #[error("the step has {count} {what}, but the runner was opened for {limit}")]
    TooMany {
        what: &'static str,
        count: usize,
        limit: usize,
    },
    #[error(
        "the rows have {wanted} tokens, but the step has {token_ids} token ids and {positions} positions"
    )]
    TokenCount {
        wanted: usize,
        token_ids: usize,
        positions: usize,
    },
    #[error("{what} {value} is out of range: it must be below {limit}")]
    OutOfRange {
        what: &'static str,
        value: u32,
        limit: usize,
    },
    #[error(
        "row {row}: 1 <= query_len {query_len} <= kv_len {kv_len} and kv_start {kv_start} <= kv_len do not hold"
    )]
    RowLengths {
        row: usize,
        query_len: usize,
        kv_start: usize,
        kv_len: usize,
    },
    #[error("row {row} has {pages} KV pages, but {kv_len} positions need {needed}")]
    TooFewPages {
        row: usize,
        kv_len: usize,
        needed: usize,
        pages: usize,
    },
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

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: PlanBounds = PlanBounds {
        max_rows: 2,
        max_tokens: 6,
        max_kv_len: 8,
        vocab: 10,
        max_positions: 8,
        page_size: 4,
        kv_pages: 3,
    };

    fn row(query_len: usize, kv_len: usize, pages: &[u32]) -> RowPlan {
        RowPlan {
            query_len,
            kv_start: 0,
            kv_len,
            pages: pages.to_vec(),
            sampling: Sampling::GREEDY,
            sample_index: 0,
        }
    }

    fn plan() -> StepPlan {
        StepPlan {
            token_ids: vec![9, 0, 1],
            positions: vec![3, 4, 7],
            rows: vec![row(2, 5, &[2, 0]), row(1, 4, &[1])],
        }
    }

    fn error(change: impl Fn(&mut StepPlan)) -> String {
        let mut plan = plan();
        change(&mut plan);
        plan.validate(&BOUNDS).unwrap_err().to_string()
    }

    #[test]
    fn each_wrong_plan_is_named() {
        assert_eq!(plan().validate(&BOUNDS), Ok(()));
        assert!(error(|p| p.rows.clear()).contains("no rows"));
        assert!(error(|p| p.rows.push(row(1, 1, &[0]))).contains("3 rows"));
        assert!(error(|p| p.rows[0].query_len = 20).contains("21 tokens"));
        assert!(error(|p| p.rows[0].query_len = 3).contains("4 tokens"));
        assert!(error(|p| p.positions.truncate(2)).contains("2 positions"));
        assert!(error(|p| p.token_ids[2] = 10).contains("token id 10"));
        assert!(error(|p| p.positions[0] = 8).contains("position 8"));
        assert!(error(|p| p.rows[1].kv_len = 0).contains("row 1"));
        assert!(error(|p| p.rows[1].kv_start = 5).contains("kv_start 5"));
        assert!(error(|p| p.rows[0].kv_len = 9).contains("9 KV positions"));
        assert!(error(|p| p.rows[1].kv_len = 5).contains("need 2"));
        assert!(error(|p| p.rows[0].pages[1] = 3).contains("KV page 3"));
    }
}
