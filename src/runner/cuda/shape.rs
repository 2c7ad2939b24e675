//! The sizes of a step that its launches depend on, rounded up to buckets so that few exist.

use crate::plan::{RowPlan, StepPlan};
use crate::runner::Limits;

/// Rounds a count of rows or tokens up: 1, 2, 4, 8, 16, 24, 32, … in steps of 8, and from 128 on in
/// steps of an eighth of the power of two below, so that at most an eighth is added.
pub fn bucket(count: usize) -> usize {
    match count {
        0..=8 => count.next_power_of_two(),
        _ => count
            .next_multiple_of((1 << count.ilog2()) / 8)
            .next_multiple_of(8),
    }
}

/// Shortest KV bucket: below it a step's time hardly depends on the length.
const SHORTEST_KV: usize = 128;

fn kv_bucket(len: usize, limits: &Limits) -> usize {
    len.next_power_of_two()
        .max(SHORTEST_KV)
        .min(limits.max_kv_len)
}

/// Everything about a step that a captured graph fixes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StepShape {
    /// T, tokens computed. A decode step has one for every row of its bucket.
    pub tokens: usize,
    /// B, rows computed. In a decode step the rows after the plan's are padding.
    pub rows: usize,
    /// The rows up to the first that has several tokens; all rows of a decode step.
    pub decoding: usize,
    /// 1 in a decode step.
    pub max_query_len: usize,
    /// A bound of the KV length of every decoding row.
    pub max_kv_len: usize,
    /// The longest KV of the other rows; 0 in a decode step.
    pub max_prompt_kv_len: usize,
    /// Some row is not greedy.
    pub sampled: bool,
    /// Some row has a repetition penalty.
    pub penalised: bool,
}

impl StepShape {
    pub fn of(plan: &StepPlan, limits: &Limits) -> Self {
        let several = plan.rows.iter().position(|row| row.query_len != 1);
        let (decoding, others) = plan.rows.split_at(several.unwrap_or(plan.rows.len()));
        let longest = |rows: &[RowPlan]| rows.iter().map(|row| row.kv_len).max().unwrap_or(0);
        let decode = Self::decode(decoding.len(), kv_bucket(longest(decoding), limits));
        let shape = match others.iter().map(|row| row.query_len).max() {
            None => decode,
            Some(max_query_len) => Self {
                tokens: plan.tokens(),
                rows: plan.rows.len(),
                decoding: decoding.len(),
                max_query_len,
                max_prompt_kv_len: longest(others),
                ..decode
            },
        };
        Self {
            sampled: plan.rows.iter().any(|row| !row.sampling.is_greedy()),
            penalised: plan.rows.iter().any(|row| !row.penalised.is_empty()),
            ..shape
        }
    }

    /// A greedy step without penalties.
    fn decode(rows: usize, max_kv_len: usize) -> Self {
        Self {
            tokens: bucket(rows),
            rows: bucket(rows),
            decoding: bucket(rows),
            max_query_len: 1,
            max_kv_len,
            max_prompt_kv_len: 0,
            sampled: false,
            penalised: false,
        }
    }

    /// The largest step that `limits` allow.
    pub fn largest(limits: &Limits) -> Self {
        Self {
            tokens: bucket(limits.max_tokens.max(limits.max_rows)),
            rows: bucket(limits.max_rows),
            decoding: bucket(limits.max_rows),
            max_query_len: limits.max_tokens,
            max_kv_len: limits.max_kv_len,
            max_prompt_kv_len: limits.max_kv_len,
            sampled: true,
            penalised: true,
        }
    }

    /// Every greedy decode shape, the smallest first.
    pub fn decode_shapes(limits: &Limits) -> Vec<Self> {
        let largest = limits.max_rows;
        let smaller = std::iter::successors(Some(1), |&rows| Some(bucket(rows + 1)));
        let all: Vec<usize> = smaller
            .take_while(|&rows| rows < largest)
            .chain([largest])
            .collect();
        let mut shapes = Vec::new();
        for len in (0..).map(|i| SHORTEST_KV << i) {
            for &rows in &all {
                shapes.push(Self::decode(rows, len.min(limits.max_kv_len)));
            }
            if len >= limits.max_kv_len {
                return shapes;
            }
        }
        shapes
    }

    pub fn is_decode(&self) -> bool {
        self.max_query_len == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampling::Sampling;
    use std::collections::HashSet;

    #[test]
    fn buckets_cover_waste_little_and_are_fixed_points() {
        let mut first: Vec<usize> = (1..=34).map(bucket).collect();
        first.dedup();
        assert_eq!(first, [1, 2, 4, 8, 16, 24, 32, 40]);
        for n in 1..20_000 {
            let b = bucket(n);
            assert!(b >= n && bucket(b) == b && b >= bucket(n - 1), "{n} → {b}");
            assert!(b - n < 8 || (b - n) * 8 < b, "{n} → {b}");
        }
    }

    /// Rows of these queries, and of these KV lengths.
    fn plan(rows: &[(usize, usize)]) -> StepPlan {
        let row = |&(query_len, kv_len): &(usize, usize)| RowPlan {
            query_len,
            kv_start: 0,
            kv_len,
            pages: Vec::new(),
            sampling: Sampling::GREEDY,
            penalised: Vec::new(),
            sample_index: 0,
            follows: None,
        };
        StepPlan {
            token_ids: vec![0; rows.iter().map(|row| row.0).sum()],
            rows: rows.iter().map(row).collect(),
        }
    }

    const LIMITS: Limits = Limits {
        max_rows: 8,
        max_tokens: 4096,
        max_kv_len: 2048,
    };

    #[test]
    fn the_longest_kv_is_told_of_each_kind_of_row() {
        for (rows, decoding, max_kv_len, max_prompt_kv_len) in [
            // Prompts alone, one of them a later part.
            (&[(512, 512), (100, 1100)][..], 0, 128, 1100),
            // A row with one token that comes after a prompt is computed with the prompts.
            (&[(1, 300), (7, 7), (1, 900)], 1, 512, 900),
            (&[(1, 300), (1, 900)], 2, 1024, 0),
        ] {
            let shape = StepShape::of(&plan(rows), &LIMITS);
            assert_eq!(shape.decoding, decoding, "{rows:?}");
            assert_eq!(shape.max_kv_len, max_kv_len, "{rows:?}");
            assert_eq!(shape.max_prompt_kv_len, max_prompt_kv_len, "{rows:?}");
        }
    }

    #[test]
    fn any_row_makes_a_step_sampled_or_penalised() {
        for lens in [&[(1, 5), (1, 6)][..], &[(1, 5), (4, 4)]] {
            let greedy = plan(lens);
            let shape = StepShape::of(&greedy, &LIMITS);
            assert!(!shape.sampled && !shape.penalised);
            let mut other = greedy;
            other.rows[1].sampling.temperature = 1.0;
            other.rows[0].penalised = vec![3];
            let expected = StepShape {
                sampled: true,
                penalised: true,
                ..shape
            };
            assert_eq!(StepShape::of(&other, &LIMITS), expected);
        }
    }

    #[test]
    fn decode_shapes_hold_every_plan() {
        for (max_rows, max_kv_len) in [(1, 60), (5, 128), (13, 1000), (64, 1024)] {
            let limits = Limits {
                max_rows,
                max_tokens: 64,
                max_kv_len,
            };
            let shapes = StepShape::decode_shapes(&limits);
            let known: HashSet<StepShape> = shapes.iter().copied().collect();
            assert_eq!(known.len(), shapes.len());
            let largest = StepShape::largest(&limits);
            for rows in 1..=max_rows {
                for len in 1..=max_kv_len {
                    let shape = StepShape::decode(rows, kv_bucket(len, &limits));
                    assert!(known.contains(&shape), "{shape:?}");
                    assert!(shape.max_kv_len >= len && shape.rows >= rows);
                    assert!(shape.rows <= largest.rows && shape.tokens <= largest.tokens);
                }
            }
        }
    }
}
