//! What the device knows of each row from step to step, and in which words a plan differs from it.
//!
//! kernels/advance_rows.cu moves every row on by one token; the mirror here does the same, so that only
//! rows that join, leave, take a part of a prompt or need a page more cost an upload.

use crate::plan::StepPlan;

/// The words of the state: arrays one after another, then each row's page table.
#[derive(Debug, Clone, Copy)]
pub struct RowWords {
    /// Rows that have a place; a multiple of 8.
    pub capacity: usize,
    /// Pages of a row at most.
    pub page_stride: usize,
}

/// The arrays of `capacity` words, in their order; kernels/advance_rows.cu has the first four.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Array {
    /// The token that a decode step reads.
    Token,
    /// KV length once the step's tokens are appended; 0 where there is no row.
    KvLen,
    SampleIndex,
    KvStart,
    /// Two arrays: 8 bytes a row.
    Seed,
    Temperature = 6,
    TopK,
    TopP,
}

const ARRAYS: usize = 9;

impl RowWords {
    /// Index of an array's word of row 0.
    pub fn array(self, array: Array) -> usize {
        array as usize * self.capacity
    }

    /// Index of the page table's first word.
    pub fn page_table(self) -> usize {
        ARRAYS * self.capacity
    }

    pub fn count(self) -> usize {
        (ARRAYS + self.page_stride) * self.capacity
    }
}

/// What lies in the words on the device.
pub struct RowMirror {
    at: RowWords,
    words: Vec<i32>,
    /// Rows of the last step.
    rows: usize,
    /// False after a step that failed somewhere: then every word is uploaded again.
    known: bool,
}

impl RowMirror {
    /// The device's words are all zero.
    pub fn zeroed(at: RowWords) -> Self {
        Self {
            at,
            words: vec![0; at.count()],
            rows: 0,
            known: true,
        }
    }

    pub fn forget(&mut self) {
        self.known = false;
    }

    /// Moves on to `plan` and calls `differs(index, value)` for every word that the device would not
    /// have by itself. `tokens` are those of the last step's rows.
    pub fn step(&mut self, plan: &StepPlan, tokens: &[i32], mut differs: impl FnMut(usize, i32)) {
        match self.known {
            true => self.advance(tokens),
            false => self.words.fill(0),
        }
        let (at, known) = (self.at, self.known);
        let mut set = |index: usize, value: i32| {
            if self.words[index] != value {
                self.words[index] = value;
                if known {
                    differs(index, value);
                }
            }
        };
        for (b, row) in plan.rows.iter().enumerate() {
            let s = &row.sampling;
            set(at.array(Array::KvLen) + b, row.kv_len as i32);
            set(at.array(Array::SampleIndex) + b, row.sample_index as i32);
            set(at.array(Array::KvStart) + b, row.kv_start as i32);
            set(at.array(Array::Seed) + 2 * b, s.seed as i32);
            set(at.array(Array::Seed) + 2 * b + 1, (s.seed >> 32) as i32);
            set(
                at.array(Array::Temperature) + b,
                s.temperature.to_bits() as i32,
            );
            set(
                at.array(Array::TopK) + b,
                s.top_k.min(i32::MAX as u32) as i32,
            );
            set(at.array(Array::TopP) + b, s.top_p.to_bits() as i32);
            let pages = row.pages.iter().take(at.page_stride);
            for (i, &page) in pages.enumerate() {
                set(at.page_table() + b * at.page_stride + i, page as i32);
            }
        }
        // Other steps bring all their tokens with them.
        if plan.is_decode() {
            for (b, &token) in plan.token_ids.iter().enumerate() {
                set(at.array(Array::Token) + b, token as i32);
            }
        }
        for b in plan.rows.len()..self.rows {
            set(at.array(Array::KvLen) + b, 0);
        }
        self.rows = plan.rows.len();
        if !known {
            self.words
                .iter()
                .enumerate()
                .for_each(|(index, &value)| differs(index, value));
            self.known = true;
        }
    }

    /// As the kernel does.
    fn advance(&mut self, tokens: &[i32]) {
        let at = self.at;
        for (b, &token) in tokens.iter().enumerate().take(self.rows) {
            self.words[at.array(Array::Token) + b] = token;
            self.words[at.array(Array::KvLen) + b] += 1;
            self.words[at.array(Array::SampleIndex) + b] += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::RowPlan;
    use crate::sampling::Sampling;
    use proptest::prelude::*;

    const AT: RowWords = RowWords {
        capacity: 8,
        page_stride: 4,
    };

    /// kernels/advance_rows.cu: moves on, then takes the differences.
    struct Device {
        words: Vec<i32>,
        tokens: Vec<i32>,
    }

    impl Device {
        fn step(&mut self, mirror: &mut RowMirror, plan: &StepPlan) -> usize {
            let (token, kv_len) = (AT.array(Array::Token), AT.array(Array::KvLen));
            for b in 0..AT.capacity {
                if self.words[kv_len + b] != 0 {
                    self.words[token + b] = self.tokens[b];
                    self.words[kv_len + b] += 1;
                    self.words[AT.array(Array::SampleIndex) + b] += 1;
                }
            }
            let mut count = 0;
            mirror.step(plan, &self.tokens, |index, value| {
                self.words[index] = value;
                count += 1;
            });
            count
        }

        fn holds(&self, plan: &StepPlan) {
            let word = |array, b| self.words[AT.array(array) + b];
            for (b, row) in plan.rows.iter().enumerate() {
                assert_eq!(word(Array::KvLen, b), row.kv_len as i32);
                assert_eq!(word(Array::KvStart, b), row.kv_start as i32);
                assert_eq!(word(Array::SampleIndex, b), row.sample_index as i32);
                assert_eq!(
                    word(Array::Temperature, b),
                    row.sampling.temperature.to_bits() as i32
                );
                let table = &self.words[AT.page_table() + b * AT.page_stride..];
                assert!(row.pages.iter().zip(table).all(|(&p, &t)| p as i32 == t));
                if plan.is_decode() {
                    assert_eq!(word(Array::Token, b), plan.token_ids[b] as i32);
                }
            }
            assert!((plan.rows.len()..AT.capacity).all(|b| word(Array::KvLen, b) == 0));
        }
    }

    fn row(query_len: usize, kv_len: usize, pages: &[u32], sample_index: u32) -> RowPlan {
        RowPlan {
            query_len,
            kv_start: 0,
            kv_len,
            pages: pages.to_vec(),
            sampling: Sampling::GREEDY,
            penalised: Vec::new(),
            sample_index,
        }
    }

    fn plan(rows: Vec<RowPlan>, token_ids: &[u32]) -> StepPlan {
        StepPlan {
            token_ids: token_ids.to_vec(),
            rows,
        }
    }

    #[test]
    fn a_decode_step_that_goes_on_uploads_nothing() {
        let mut mirror = RowMirror::zeroed(AT);
        let mut device = Device {
            words: vec![0; AT.count()],
            tokens: vec![7, 8, 0, 0, 0, 0, 0, 0],
        };
        let prefill = plan(vec![row(2, 2, &[3], 0), row(1, 1, &[5], 0)], &[1, 2, 3]);
        assert!(device.step(&mut mirror, &prefill) > 0);
        let decode = plan(vec![row(1, 3, &[3], 1), row(1, 2, &[5], 1)], &[7, 8]);
        assert_eq!(device.step(&mut mirror, &decode), 0);
        device.holds(&decode);
        // The first leaves, the second takes its place and needs a page more: length and the other
        // row's end, token, two pages; the sample index is the same.
        let moved = plan(vec![row(1, 3, &[5, 1], 2)], &[8]);
        assert_eq!(device.step(&mut mirror, &moved), 5);
        device.holds(&moved);
    }

    proptest! {
        /// Whatever follows whatever, the device ends up with what the plan says.
        #[test]
        fn the_device_follows_any_plans(
            steps in prop::collection::vec(
                (prop::collection::vec((1usize..4, 0usize..9, 0u32..50, 0u32..9), 0..8), any::<bool>()),
                1..30,
            ),
        ) {
            let mut mirror = RowMirror::zeroed(AT);
            let mut device = Device { words: vec![0; AT.count()], tokens: vec![0; AT.capacity] };
            for (rows, forget) in steps {
                let tokens: Vec<u32> = rows.iter().flat_map(|r| vec![r.2; r.0]).collect();
                let rows = rows
                    .iter()
                    .map(|&(query, more, page, index)| row(query, query + more, &[page, page + 1], index))
                    .collect();
                let plan = plan(rows, &tokens);
                if forget {
                    mirror.forget();
                    device.words.fill(-5);
                }
                device.step(&mut mirror, &plan);
                device.holds(&plan);
                device.tokens.fill(tokens.first().map_or(0, |&t| t as i32));
            }
        }
    }
}
