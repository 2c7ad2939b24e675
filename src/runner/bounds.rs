//! Refusing a plan that would reach outside a runner's memory, before anything of it runs.

use super::{Limits, RunnerError};
use crate::plan::{RowPlan, StepPlan};
use crate::sampling::Sampling;

/// Everything that a plan's numbers must stay below.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    pub limits: Limits,
    /// P, positions in a KV page.
    pub page_size: usize,
    /// Pages in the KV slab.
    pub kv_pages: usize,
    /// V, token ids.
    pub vocab: usize,
    /// Position ids.
    pub max_positions: usize,
}

impl Bounds {
    /// Names the first number of `plan` that is out of bounds; the step before had `last_rows`.
    pub fn check(&self, plan: &StepPlan, last_rows: usize) -> Result<(), RunnerError> {
        let tokens: usize = plan.rows.iter().map(|row| row.query_len).sum();
        within("rows", plan.rows.len(), self.limits.max_rows)?;
        within("tokens", tokens, self.limits.max_tokens)?;
        if plan.rows.is_empty() {
            return refuse("it has no rows".into());
        }
        if plan.token_ids.len() != tokens {
            return refuse(format!(
                "its rows have {tokens} tokens, but it lists {} token ids",
                plan.token_ids.len()
            ));
        }
        if let Some(id) = plan.token_ids.iter().find(|&&id| id as usize >= self.vocab) {
            return refuse(format!("token id {id}, vocabulary {}", self.vocab));
        }
        for (index, row) in plan.rows.iter().enumerate() {
            self.check_row(row, last_rows)
                .or_else(|cause| refuse(format!("row {index}: {cause}")))?;
        }
        Ok(())
    }

    fn check_row(&self, row: &RowPlan, last_rows: usize) -> Result<(), String> {
        let (query, start, len) = (row.query_len, row.kv_start, row.kv_len);
        if query == 0 || query > len || len > self.limits.max_kv_len || start > len {
            return Err(format!(
                "query length {query} and KV range {start}..{len}, of at most {}",
                self.limits.max_kv_len
            ));
        }
        if len - start > self.max_positions {
            return Err(format!(
                "position {} of {}",
                len - start - 1,
                self.max_positions
            ));
        }
        let needed = len.div_ceil(self.page_size);
        let Some(pages) = row.pages.get(..needed) else {
            return Err(format!(
                "{} pages of {} positions for KV length {len}",
                row.pages.len(),
                self.page_size
            ));
        };
        if let Some(page) = pages.iter().find(|&&page| page as usize >= self.kv_pages) {
            return Err(format!("KV page {page} of {}", self.kv_pages));
        }
        if let Some(id) = row.penalised.iter().find(|&&id| id as usize >= self.vocab) {
            return Err(format!(
                "penalised token id {id}, vocabulary {}",
                self.vocab
            ));
        }
        if let Some(place) = row.follows
            && (query > 1 || place as usize >= last_rows)
        {
            return Err(format!(
                "{query} tokens follow row {place} of the {last_rows} before"
            ));
        }
        let s = &row.sampling;
        if !(s.repetition_penalty.is_finite() && s.repetition_penalty > 0.0) {
            return Err(format!("repetition penalty {} (> 0)", s.repetition_penalty));
        }
        if !(Sampling::is_temperature(s.temperature) && s.top_p > 0.0 && s.top_p <= 1.0) {
            return Err(format!(
                "temperature {:?} (0 or ≥ {:?}) and top-p {} (in (0, 1])",
                s.temperature,
                Sampling::LOWEST_TEMPERATURE,
                s.top_p
            ));
        }
        Ok(())
    }
}

fn within(what: &str, count: usize, limit: usize) -> Result<(), RunnerError> {
    if count > limit {
        return refuse(format!("{count} {what}, opened for at most {limit}"));
    }
    Ok(())
}

fn refuse(cause: String) -> Result<(), RunnerError> {
    Err(RunnerError::Plan(cause))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds {
        limits: Limits {
            max_rows: 2,
            max_tokens: 8,
            max_kv_len: 32,
        },
        page_size: 8,
        kv_pages: 6,
        vocab: 100,
        max_positions: 16,
    };

    fn plan() -> StepPlan {
        let row = |query_len, kv_len, pages: &[u32]| RowPlan {
            query_len,
            kv_start: 0,
            kv_len,
            pages: pages.to_vec(),
            sampling: Sampling::GREEDY,
            penalised: Vec::new(),
            sample_index: 0,
            follows: None,
        };
        StepPlan {
            token_ids: vec![99, 0, 5],
            rows: vec![
                row(2, 2, &[5]),
                RowPlan {
                    follows: Some(1),
                    ..row(1, 9, &[0, 1])
                },
            ],
        }
    }

    #[test]
    fn the_largest_legal_values_pass() {
        BOUNDS.check(&plan(), 2).unwrap();
    }

    #[test]
    fn each_number_out_of_bounds_is_refused_and_named() {
        type Spoil = fn(&mut StepPlan);
        let cases: [(&str, Spoil); 18] = [
            ("no rows", |p| *p = StepPlan::default()),
            ("3 rows", |p| p.rows.push(p.rows[0].clone())),
            ("9 tokens", |p| p.rows[0].query_len = 8),
            ("lists 2 token ids", |p| p.token_ids.truncate(2)),
            ("token id 100", |p| p.token_ids[1] = 100),
            ("position 16", |p| {
                p.rows[1].kv_len = 17;
                p.rows[1].pages.push(2);
            }),
            ("query length 2", |p| p.rows[0].kv_len = 1),
            ("0..33", |p| p.rows[1].kv_len = 33),
            ("3..2", |p| p.rows[0].kv_start = 3),
            ("1 pages", |p| p.rows[1].pages.truncate(1)),
            ("KV page 6", |p| p.rows[1].pages[1] = 6),
            ("temperature NaN", |p| {
                p.rows[0].sampling.temperature = f32::NAN
            }),
            ("temperature 1e-7", |p| {
                p.rows[0].sampling.temperature = 1e-7;
            }),
            ("top-p 0", |p| p.rows[0].sampling.top_p = 0.0),
            ("penalty 0", |p| {
                p.rows[0].sampling.repetition_penalty = 0.0;
            }),
            ("penalised token id 100", |p| p.rows[1].penalised.push(100)),
            ("follow row 2 of the 2", |p| p.rows[1].follows = Some(2)),
            ("2 tokens follow", |p| p.rows[0].follows = Some(0)),
        ];
        for (named, spoil) in cases {
            let mut plan = plan();
            spoil(&mut plan);
            let error = BOUNDS.check(&plan, 2).unwrap_err().to_string();
            assert!(error.contains(named), "{error:?} does not name {named:?}");
        }
    }
}
