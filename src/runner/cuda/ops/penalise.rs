//! The repetition penalty on logits, in place.

use cudarc::driver::CudaStream;

use super::{blocks, mirrored};
use crate::runner::RunnerError;
use crate::runner::cuda::kernels::Kernels;
use crate::runner::cuda::launch::Launch;

/// Arguments of `penalise`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct PenaliseParams {
    /// f32 `[B, stride]`, read and written.
    pub logits: u64,
    /// i32 `[B + 1]`: row b's tokens are `ids[starts[b] .. starts[b + 1]]`. This and the next two may
    /// lie in host memory.
    pub starts: u64,
    /// i32, token ids, each once in its row.
    pub ids: u64,
    /// f32 `[B]`
    pub penalties: u64,
    /// B
    pub rows: i32,
    pub stride: i32,
}

mirrored!(PenaliseParams, 40, {
    logits: 0, starts: 8, ids: 16, penalties: 24, rows: 32, stride: 36,
});

const THREADS: u32 = 256;

impl Kernels {
    /// # Errors
    /// When the driver refuses the launch.
    pub fn penalise(&self, stream: &CudaStream, p: &PenaliseParams) -> Result<(), RunnerError> {
        Launch {
            function: &self.penalise,
            grid: (blocks(p.rows, 1), 1, 1),
            threads: THREADS,
            shared_bytes: 0,
        }
        .behind(stream, p)
    }
}
