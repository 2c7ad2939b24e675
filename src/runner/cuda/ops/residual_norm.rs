//! `x[t] += add[t] + Σ parts[t] + bias`, then `out[r] = norm(x[row(r)])·weight + beta`.

use cudarc::driver::CudaStream;

use super::{VECTOR, blocks, mirrored, whole_vectors};
use crate::runner::cuda::kernels::Kernels;
use crate::runner::cuda::launch::Launch;
use crate::runner::{Dtype, RunnerError};

/// Arguments of `residual_norm`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct ResidualNormParams {
    /// f32 `[T, C]`, read, and written back when something is added and `row_index` is not given.
    pub x: u64,
    /// `[T, C]`, or 0 for none.
    pub add: u64,
    /// f32 `[slices, T, C]`; unused without slices.
    pub parts: u64,
    /// `[C]`, added with either; or 0.
    pub bias: u64,
    /// `[C]`
    pub weight: u64,
    /// `[C]`, or 0 for none.
    pub beta: u64,
    /// `[rows, C]`, written.
    pub out: u64,
    /// i32 `[rows]`, the row of `x` behind each row of `out`; or 0 when they are the same.
    pub row_index: u64,
    pub rows: i32,
    /// C, a multiple of 8 up to [`MAX_CHANNELS`].
    pub channels: i32,
    pub eps: f32,
    /// Of `parts`, and the rows of each, T.
    pub slices: i32,
    pub slice_rows: i32,
    /// 1: an RMS norm, 0: a layer norm.
    pub rms: i32,
    /// 1: the next kernel's blocks start when the previous kernel has ended, 0: as soon as there is room.
    pub holds_next: i32,
}

mirrored!(ResidualNormParams, 96, {
    x: 0, add: 8, parts: 16, bias: 24, weight: 32, beta: 40, out: 48, row_index: 56,
    rows: 64, channels: 68, eps: 72, slices: 76, slice_rows: 80, rms: 84, holds_next: 88,
});

/// A block keeps one row in registers, one vector a thread.
pub const MAX_CHANNELS: i32 = 1024 * VECTOR;

impl Kernels {
    /// # Errors
    /// When C is not a multiple of 8 or above [`MAX_CHANNELS`], or the driver refuses the launch.
    pub fn residual_norm(
        &self,
        stream: &CudaStream,
        dtype: Dtype,
        p: &ResidualNormParams,
    ) -> Result<(), RunnerError> {
        whole_vectors("channels", p.channels)?;
        if p.channels > MAX_CHANNELS {
            return Err(RunnerError::Unavailable(format!(
                "the CUDA norm takes up to {MAX_CHANNELS} channels, not {}; use --device cpu",
                p.channels
            )));
        }
        Launch {
            function: self.residual_norm.get(dtype),
            grid: (blocks(p.rows, 1), 1, 1),
            threads: (p.channels / VECTOR).cast_unsigned().next_multiple_of(32),
            shared_bytes: 0,
        }
        .behind(stream, p)
    }
}
