//! `x[t] = wte[id_t] + wpe[pos_t]`, or `wte[id_t]` alone.

use cudarc::driver::CudaStream;

use super::{VECTOR, blocks, mirrored, whole_vectors};
use crate::runner::cuda::kernels::Kernels;
use crate::runner::cuda::launch::Launch;
use crate::runner::{Dtype, RunnerError};

/// Arguments of `embedding`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct EmbeddingParams {
    /// f32 `[T, C]`, written: the residual stream.
    pub x: u64,
    /// i32 `[T]`
    pub token_ids: u64,
    /// i32 `[T]`
    pub positions: u64,
    /// `[V, C]`
    pub wte: u64,
    /// `[S, C]`, or 0 for none.
    pub wpe: u64,
    /// T
    pub tokens: i32,
    /// C, a multiple of 8.
    pub channels: i32,
}

mirrored!(EmbeddingParams, 48, {
    x: 0, token_ids: 8, positions: 16, wte: 24, wpe: 32, tokens: 40, channels: 44,
});

const THREADS: u32 = 128;

impl Kernels {
    /// # Errors
    /// When C is not a multiple of 8, or the driver refuses the launch.
    pub fn embedding(
        &self,
        stream: &CudaStream,
        dtype: Dtype,
        p: &EmbeddingParams,
    ) -> Result<(), RunnerError> {
        whole_vectors("channels", p.channels)?;
        Launch {
            function: self.embedding.get(dtype),
            grid: (
                blocks(p.tokens, 1),
                blocks(p.channels / VECTOR, THREADS as i32),
                1,
            ),
            threads: THREADS,
            shared_bytes: 0,
        }
        .behind(stream, p)
    }
}
