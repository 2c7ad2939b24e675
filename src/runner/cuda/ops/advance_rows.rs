//! Moves the rows on by one step and applies what the host wants otherwise.

use cudarc::driver::CudaStream;

use super::mirrored;
use crate::runner::RunnerError;
use crate::runner::cuda::inputs::ADVANCE_THREADS;
use crate::runner::cuda::kernels::Kernels;
use crate::runner::cuda::launch::Launch;

/// Arguments of `advance_rows`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct AdvanceRowsParams {
    /// i32 `[2, half, 2]`, in host memory. In each half their number and one unused, then pairs of
    /// index and value, or of `!index` and the row whose token of the last step is wanted there; room
    /// for a pair for every thread.
    pub differences: u64,
    /// A [`Turn`], read and written.
    pub turn: u64,
    /// i32 `[2, capacity]`, in host memory: what the turn's address points into.
    pub host_tokens: u64,
    /// i32, the words that [`RowWords`](crate::runner::cuda::rows::RowWords) names, read and written.
    pub state: u64,
    /// i32 `[capacity]`, the last step's.
    pub tokens: u64,
    /// i32 `[T]`, the row's own token written over −1 where `query_start` is given.
    pub token_ids: u64,
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
    /// Pairs in a half.
    pub half: i32,
    pub capacity: i32,
    /// B
    pub rows: i32,
}

mirrored!(AdvanceRowsParams, 104, {
    differences: 0, turn: 8, host_tokens: 16, state: 24, tokens: 32, token_ids: 40, kv_index: 48,
    positions: 56, token_row: 64, last_token: 72, query_start: 80, half: 88, capacity: 92, rows: 96,
});

/// In device memory: which of the two halves of the host's buffers is whose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Turn {
    /// The next step's.
    pub half: i32,
    /// Where the host wants the tokens of the last step.
    pub host_tokens: u64,
}

mirrored!(Turn, 16, { half: 0, host_tokens: 8 });

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
