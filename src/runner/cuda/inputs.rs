//! A step's integers on their way to the device: one page-locked buffer, one copy.

use cudarc::driver::result;
use cudarc::driver::sys::CUdeviceptr;

use super::device::{Device, Memory, Pinned};
use super::memory::Placement;
use super::shape::StepShape;
use crate::plan::StepPlan;
use crate::runner::RunnerError;

/// Addresses of a step's arrays, in 4-byte elements unless noted. They depend on the shape alone,
/// so that a captured graph finds them where they were.
#[derive(Debug, Clone, Copy)]
pub struct InputArrays {
    /// `[B]`, 8 bytes each.
    pub seed: CUdeviceptr,
    /// `[T]`
    pub token_ids: CUdeviceptr,
    /// `[T]`
    pub positions: CUdeviceptr,
    /// `[T]` the row of each token.
    pub token_row: CUdeviceptr,
    /// `[T]` where in its row's KV the token goes; −1 for a padding row.
    pub kv_index: CUdeviceptr,
    /// `[B + 1]` the first token of each row.
    pub query_start: CUdeviceptr,
    /// `[B]`
    pub kv_start: CUdeviceptr,
    /// `[B]`; 0 for a padding row.
    pub kv_len: CUdeviceptr,
    /// `[B]` the last token of each row, whose logits choose the next.
    pub last_token: CUdeviceptr,
    /// `[B]` f32
    pub temperature: CUdeviceptr,
    /// `[B]`
    pub top_k: CUdeviceptr,
    /// `[B]` f32
    pub top_p: CUdeviceptr,
    /// `[B]`
    pub sample_index: CUdeviceptr,
    /// `[B, page_stride]`
    pub page_table: CUdeviceptr,
    pub page_stride: usize,
    end: CUdeviceptr,
}

impl InputArrays {
    fn place(base: CUdeviceptr, shape: &StepShape, page_size: usize) -> Self {
        let (tokens, rows) = (shape.tokens, shape.rows);
        let page_stride = shape.max_kv_len.div_ceil(page_size);
        let mut p = Placement::from(base);
        Self {
            seed: p.place(rows, 8),
            token_ids: p.place(tokens, 4),
            positions: p.place(tokens, 4),
            token_row: p.place(tokens, 4),
            kv_index: p.place(tokens, 4),
            query_start: p.place(rows + 1, 4),
            kv_start: p.place(rows, 4),
            kv_len: p.place(rows, 4),
            last_token: p.place(rows, 4),
            temperature: p.place(rows, 4),
            top_k: p.place(rows, 4),
            top_p: p.place(rows, 4),
            sample_index: p.place(rows, 4),
            page_table: p.place(rows * page_stride, 4),
            page_stride,
            end: p.end(),
        }
    }

    /// Bytes of all arrays of a step of this shape.
    pub fn bytes(shape: &StepShape, page_size: usize) -> u64 {
        Self::place(0, shape, page_size).end
    }
}

/// The buffer on the host and its twin on the device.
pub struct Inputs {
    host: Pinned,
    device: Memory,
    page_size: usize,
}

impl Inputs {
    /// Room for steps up to `largest`.
    pub fn allocate(
        device: &Device,
        largest: &StepShape,
        page_size: usize,
    ) -> Result<Self, RunnerError> {
        let bytes = InputArrays::bytes(largest, page_size);
        Ok(Self {
            host: device.allocate_pinned(bytes as usize / 4)?,
            device: device.allocate("step inputs", bytes)?,
            page_size,
        })
    }

    /// Device memory that they took.
    pub fn given_bytes(&self) -> u64 {
        self.device.given
    }

    /// Where a step of this shape finds its arrays.
    pub fn arrays(&self, shape: &StepShape) -> InputArrays {
        InputArrays::place(self.device.address, shape, self.page_size)
    }

    /// Writes the plan into the host buffer. The plan is within bounds, and no copy is under way.
    pub fn pack(&mut self, plan: &StepPlan, shape: &StepShape) {
        let at = InputArrays::place(0, shape, self.page_size);
        let words = &mut self.host.words_mut()[..at.end as usize / 4];
        pack(words, &at, plan, shape);
    }

    /// Copies what was packed, in stream order.
    pub fn upload(&self, device: &Device, shape: &StepShape) -> Result<(), RunnerError> {
        let used = InputArrays::bytes(shape, self.page_size) as usize / 4;
        let (to, words) = (self.device.address, &self.host.words()[..used]);
        // SAFETY: both buffers hold the largest shape, and live until the stream is synchronised.
        let copied = unsafe { result::memcpy_htod_async(to, words, device.stream.cu_stream()) };
        device.check("cuMemcpyHtoDAsync", copied)
    }
}

/// Fills `words` with the plan, then with padding rows up to the shape's. `at` starts at 0.
fn pack(words: &mut [i32], at: &InputArrays, plan: &StepPlan, shape: &StepShape) {
    words.fill(0);
    let mut set = |array: CUdeviceptr, index: usize, value: i32| {
        words[array as usize / 4 + index] = value;
    };
    let mut token = 0;
    for (b, row) in plan.rows.iter().enumerate() {
        let s = &row.sampling;
        set(at.seed, 2 * b, s.seed as i32);
        set(at.seed, 2 * b + 1, (s.seed >> 32) as i32);
        set(at.temperature, b, s.temperature.to_bits() as i32);
        set(at.top_k, b, s.top_k.min(i32::MAX as u32) as i32);
        set(at.top_p, b, s.top_p.to_bits() as i32);
        set(at.sample_index, b, row.sample_index as i32);
        set(at.query_start, b, token as i32);
        set(at.kv_start, b, row.kv_start as i32);
        set(at.kv_len, b, row.kv_len as i32);
        for (i, &page) in row.pages.iter().take(at.page_stride).enumerate() {
            set(at.page_table, b * at.page_stride + i, page as i32);
        }
        for kv_index in row.kv_len - row.query_len..row.kv_len {
            set(at.token_ids, token, plan.token_ids[token] as i32);
            set(at.positions, token, plan.positions[token] as i32);
            set(at.token_row, token, b as i32);
            set(at.kv_index, token, kv_index as i32);
            token += 1;
        }
        set(at.last_token, b, token as i32 - 1);
    }
    for b in plan.rows.len()..shape.rows {
        set(at.top_p, b, 1f32.to_bits() as i32);
        set(at.query_start, b, token as i32);
        set(at.token_row, token, b as i32);
        set(at.kv_index, token, -1);
        set(at.last_token, b, token as i32);
        token += 1;
    }
    set(at.query_start, shape.rows, token as i32);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::RowPlan;
    use crate::runner::Limits;
    use crate::sampling::Sampling;

    fn row(query_len: usize, kv_start: usize, kv_len: usize, pages: &[u32]) -> RowPlan {
        RowPlan {
            query_len,
            kv_start,
            kv_len,
            pages: pages.to_vec(),
            sampling: Sampling {
                temperature: 0.5,
                top_k: u32::MAX,
                top_p: 0.9,
                repetition_penalty: 1.0,
                seed: 0x1122_3344_5566_7788,
            },
            penalised: Vec::new(),
            sample_index: 7,
        }
    }

    fn packed(plan: &StepPlan, page_size: usize) -> (Vec<i32>, InputArrays, StepShape) {
        let limits = Limits {
            max_rows: 4,
            max_tokens: 16,
            max_kv_len: 64,
        };
        let shape = StepShape::of(plan, &limits);
        let at = InputArrays::place(0, &shape, page_size);
        let bytes = InputArrays::bytes(&shape, page_size);
        assert!(bytes <= InputArrays::bytes(&StepShape::largest(&limits), page_size));
        let mut words = vec![-9; bytes as usize / 4];
        pack(&mut words, &at, plan, &shape);
        (words, at, shape)
    }

    #[test]
    fn rows_of_different_lengths_are_packed() {
        let plan = StepPlan {
            token_ids: vec![10, 11, 12, 13],
            positions: vec![0, 0, 1, 20],
            rows: vec![row(3, 1, 3, &[5]), row(1, 0, 21, &[1, 2, 3, 99])],
        };
        let (words, at, shape) = packed(&plan, 8);
        let read = |array, n| &words[array as usize / 4..][..n];
        assert_eq!((shape.tokens, shape.rows, shape.max_query_len), (4, 2, 3));
        assert_eq!(read(at.token_ids, 4), [10, 11, 12, 13]);
        assert_eq!(read(at.positions, 4), [0, 0, 1, 20]);
        assert_eq!(read(at.token_row, 4), [0, 0, 0, 1]);
        assert_eq!(read(at.kv_index, 4), [0, 1, 2, 20]);
        assert_eq!(read(at.query_start, 3), [0, 3, 4]);
        assert_eq!(read(at.kv_start, 2), [1, 0]);
        assert_eq!(read(at.kv_len, 2), [3, 21]);
        assert_eq!(read(at.last_token, 2), [2, 3]);
        assert_eq!(read(at.seed, 2), [0x5566_7788, 0x1122_3344]);
        assert_eq!(read(at.top_k, 1), [i32::MAX]);
        assert_eq!(read(at.sample_index, 2), [7, 7]);
        assert_eq!(f32::from_bits(read(at.temperature, 1)[0] as u32), 0.5);
        assert_eq!(f32::from_bits(read(at.top_p, 1)[0] as u32), 0.9);
        assert_eq!(at.page_stride, 8);
        assert_eq!(
            read(at.page_table, 12),
            [5, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 99]
        );
    }

    #[test]
    fn decode_is_filled_up_with_rows_that_write_nothing() {
        let plan = StepPlan {
            token_ids: vec![10, 11, 12],
            positions: vec![3, 4, 5],
            rows: vec![row(1, 0, 4, &[0]), row(1, 0, 5, &[1]), row(1, 0, 6, &[2])],
        };
        let (words, at, shape) = packed(&plan, 64);
        let read = |array, n| &words[array as usize / 4..][..n];
        assert_eq!((shape.tokens, shape.rows), (4, 4));
        assert_eq!(read(at.kv_index, 4), [3, 4, 5, -1]);
        assert_eq!(read(at.kv_len, 4), [4, 5, 6, 0]);
        assert_eq!(read(at.query_start, 5), [0, 1, 2, 3, 4]);
        assert_eq!(read(at.last_token, 4), [0, 1, 2, 3]);
        assert_eq!(read(at.token_ids, 4), [10, 11, 12, 0]);
        assert_eq!(read(at.temperature, 4)[3], 0);
    }
}
