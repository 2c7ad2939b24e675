//! The lowest index of the largest logit of each row.

use cudarc::driver::CudaStream;

use super::{blocks, mirrored};
use crate::runner::RunnerError;
use crate::runner::cuda::kernels::Kernels;
use crate::runner::cuda::launch::Launch;

/// Arguments of `argmax`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct ArgmaxParams {
    /// f32 `[B, stride]`, the first `vocab` of each row valid.
    pub logits: u64,
    /// i32 `[B]`, written.
    pub out: u64,
    /// The address of one more such array, in host memory; written too.
    pub host_out: u64,
    /// B
    pub rows: i32,
    /// V
    pub vocab: i32,
    pub stride: i32,
}

mirrored!(ArgmaxParams, 40, { logits: 0, out: 8, host_out: 16, rows: 24, vocab: 28, stride: 32 });

const THREADS: u32 = 1024;

impl Kernels {
    /// # Errors
    /// When the driver refuses the launch.
    pub fn argmax(&self, stream: &CudaStream, p: &ArgmaxParams) -> Result<(), RunnerError> {
        Launch {
            function: &self.argmax,
            grid: (blocks(p.rows, 1), 1, 1),
            threads: THREADS,
            shared_bytes: 0,
        }
        .behind(stream, p)
    }
}
