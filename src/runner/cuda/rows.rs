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

/// One word that the device would not have by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Difference {
    /// The word at an index, and its value.
    Word(usize, i32),
    /// A word that takes the token which the last step gave a row, and the row.
    TokenOf(usize, u32),
}

/// What lies in the words on the device, all but the tokens: those may not be known here yet.
pub struct RowMirror {
    at: RowWords,
    words: Vec<i32>,
    /// Rows of the last step.
    rows: usize,
}

impl RowMirror {
    /// The device's words are all zero.
    pub fn zeroed(at: RowWords) -> Self {
        Self {
            at,
            words: vec![0; at.count()],
            rows: 0,
        }
    }

    /// Rows of the last step.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Moves on to `plan` and says in what the device would differ from it.
    pub fn step(&mut self, plan: &StepPlan, mut differs: impl FnMut(Difference)) {
        self.advance();
        let (at, is_decode) = (self.at, plan.is_decode());
        let mut set = |index: usize, value: i32| {
            if self.words[index] != value {
                self.words[index] = value;
                differs(Difference::Word(index, value));
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
        for b in plan.rows.len()..self.rows {
            set(at.array(Array::KvLen) + b, 0);
        }
        self.rows = plan.rows.len();
        let mut first = 0;
        for (b, row) in plan.rows.iter().enumerate() {
            let word = at.array(Array::Token) + b;
            match row.follows {
                Some(place) if place as usize == b => {}
                Some(place) => differs(Difference::TokenOf(word, place)),
                // Steps with prompts bring what is known with them.
                None if is_decode => differs(Difference::Word(word, plan.token_ids[first] as i32)),
                None => {}
            }
            first += row.query_len;
        }
    }

    /// As the kernel does.
    fn advance(&mut self) {
        let at = self.at;
        for b in 0..self.rows {
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
        /// Of the last step; the host does not know them.
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
            mirror.step(plan, |difference| {
                match difference {
                    Difference::Word(index, value) => self.words[index] = value,
                    Difference::TokenOf(index, row) => {
                        self.words[index] = self.tokens[row as usize]
                    }
                }
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
                match row.follows {
                    Some(from) => assert_eq!(word(Array::Token, b), self.tokens[from as usize]),
                    None if plan.is_decode() => {
                        assert_eq!(word(Array::Token, b), plan.token_ids[b] as i32);
                    }
                    None => {}
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
            follows: None,
        }
    }

    fn following(place: u32, row: RowPlan) -> RowPlan {
        RowPlan {
            follows: Some(place),
            ..row
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
        let goes_on = vec![
            following(0, row(1, 3, &[3], 1)),
            following(1, row(1, 2, &[5], 1)),
        ];
        let decode = plan(goes_on, &[0, 0]);
        assert_eq!(device.step(&mut mirror, &decode), 0);
        device.holds(&decode);
        // The first leaves, the second takes its place and needs a page more: length and the other
        // row's end, token, two pages; the sample index is the same.
        let moved = plan(vec![following(1, row(1, 3, &[5, 1], 2))], &[0]);
        assert_eq!(device.step(&mut mirror, &moved), 5);
        device.holds(&moved);
    }

    /// Tokens of a row, KV positions before them, first page, sample index, and of what it follows.
    type Asked = (usize, usize, u32, u32, Option<u32>);

    fn asked() -> impl Strategy<Value = Vec<Asked>> {
        let row = (
            1usize..4,
            0usize..9,
            0u32..50,
            0u32..9,
            prop::option::of(0u32..8),
        );
        prop::collection::vec(row, 0..8)
    }

    proptest! {
        /// Whatever follows whatever, the device ends up with what the plan says.
        #[test]
        fn the_device_follows_any_plans(
            steps in prop::collection::vec((asked(), any::<bool>()), 1..30),
        ) {
            let mut mirror = RowMirror::zeroed(AT);
            let mut device = Device { words: vec![0; AT.count()], tokens: vec![0; AT.capacity] };
            for (number, (rows, reset)) in steps.into_iter().enumerate() {
                if reset {
                    mirror = RowMirror::zeroed(AT);
                    device.words.fill(0);
                }
                let tokens: Vec<u32> = rows.iter().flat_map(|r| vec![r.2; r.0]).collect();
                let before = mirror.rows() as u32;
                let rows = rows
                    .iter()
                    .map(|&(query, more, page, index, follows)| RowPlan {
                        follows: follows.filter(|&place| query == 1 && place < before),
                        ..row(query, query + more, &[page, page + 1], index)
                    })
                    .collect();
                let plan = plan(rows, &tokens);
                device.step(&mut mirror, &plan);
                device.holds(&plan);
                let fresh = (0..AT.capacity).map(|b| (number * 100 + b) as i32);
                device.tokens = fresh.collect();
            }
        }
    }
}
