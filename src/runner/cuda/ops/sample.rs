//! Temperature, top-k, top-p and Gumbel-max sampling of each row.

use cudarc::driver::CudaStream;

use super::{blocks, mirrored};
use crate::runner::RunnerError;
use crate::runner::cuda::kernels::Kernels;
use crate::runner::cuda::launch::Launch;

/// Arguments of `sample`; the parameters mean what [`Sampling`](crate::sampling::Sampling) says.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct SampleParams {
    /// f32 `[B, stride]`, the first `vocab` of each row valid.
    pub logits: u64,
    /// f32 `[B]`; 0 = greedy.
    pub temperature: u64,
    /// i32 `[B]`; 0 = all.
    pub top_k: u64,
    /// f32 `[B]`; 1 = all.
    pub top_p: u64,
    /// u64 `[B]`
    pub seed: u64,
    /// i32 `[B]`
    pub sample_index: u64,
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

mirrored!(SampleParams, 80, {
    logits: 0, temperature: 8, top_k: 16, top_p: 24, seed: 32, sample_index: 40, out: 48,
    host_out: 56, rows: 64, vocab: 68, stride: 72,
});

const THREADS: u32 = 1024;

impl Kernels {
    /// # Errors
    /// When the driver refuses the launch.
    pub fn sample(&self, stream: &CudaStream, p: &SampleParams) -> Result<(), RunnerError> {
        Launch {
            function: &self.sample,
            grid: (blocks(p.rows, 1), 1, 1),
            threads: THREADS,
            shared_bytes: 0,
        }
        .behind(stream, p)
    }
}
