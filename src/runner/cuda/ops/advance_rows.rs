//! Moves the rows on by one step and applies what the host wants otherwise.

use cudarc::driver::CudaStream;

use super::mirrored;
use crate::runner::RunnerError;
use crate::runner::cuda::inputs::ADVANCE_THREADS;
use crate::runner::cuda::kernels::{Kernels, Launch};

/// Arguments of `advance_rows`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct AdvanceRowsParams {
    /// i32, in host memory: their number, one unused, then pairs of index and value; room for a pair
    /// for every thread.
    pub differences: u64,
    /// i32, the words that [`RowWords`](crate::runner::cuda::rows::RowWords) names, read and written.
    pub state: u64,
    /// i32 `[capacity]`, the last step's.
    pub tokens: u64,
    /// i32 `[T]`, written.
    pub kv_index: u64,
    /// i32 `[T]`, written.
    pub positions: u64,
    /// i32 `[T]`, written where `query_start` is given.
    pub token_row: u64,
    /// i32 `[B]`, written where `query_start` is given.
    pub last_token: u64,
    /// i32 `[B + 1]`; or 0 where every row has one token.
    pub query_start: u64,
    pub capacity: i32,
    /// B
    pub rows: i32,
}

mirrored!(AdvanceRowsParams, 72, {
    differences: 0, state: 8, tokens: 16, kv_index: 24, positions: 32, token_row: 40,
    last_token: 48, query_start: 56, capacity: 64, rows: 68,
});

impl Kernels {
    /// # Errors
    /// When the driver refuses the launch.
    pub fn advance_rows(
        &self,
        stream: &CudaStream,
        p: &AdvanceRowsParams,
    ) -> Result<(), RunnerError> {
        Launch {
            function: &self.advance_rows,
            grid: (1, 1, 1),
            threads: ADVANCE_THREADS as u32,
            shared_bytes: 0,
        }
        .on(stream, p)
    }
}
