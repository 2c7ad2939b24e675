//! Seeded random weights, made on the device.

use cudarc::driver::CudaStream;

use super::mirrored;
use crate::runner::cuda::kernels::Kernels;
use crate::runner::cuda::launch::Launch;
use crate::runner::{Dtype, RunnerError};

/// Arguments of `random_fill`: `out[i] = mean + spread · seeded_unit(seed, i)`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct RandomFillParams {
    /// `[count]`, written; 16-byte aligned.
    pub out: u64,
    pub seed: u64,
    pub count: u64,
    pub mean: f32,
    pub spread: f32,
}

mirrored!(RandomFillParams, 32, { out: 0, seed: 8, count: 16, mean: 24, spread: 28 });

const THREADS: u32 = 256;
/// Elements of a thread: two Philox calls.
const PER_THREAD: u64 = 8;
/// The kernel strides, so a grid of this many blocks is enough for any count.
const MAX_BLOCKS: u64 = 1 << 16;

impl Kernels {
    /// # Errors
    /// When the driver refuses the launch.
    pub fn random_fill(
        &self,
        stream: &CudaStream,
        dtype: Dtype,
        p: &RandomFillParams,
    ) -> Result<(), RunnerError> {
        let blocks = p.count.div_ceil(PER_THREAD * u64::from(THREADS));
        Launch {
            function: self.random_fill.get(dtype),
            grid: (blocks.min(MAX_BLOCKS) as u32, 1, 1),
            threads: THREADS,
            shared_bytes: 0,
        }
        .on(stream, p)
    }
}
