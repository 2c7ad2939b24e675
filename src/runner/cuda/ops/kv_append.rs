//! Adds the QKV bias, writes the queries and puts K and V into their pages.

use cudarc::driver::CudaStream;

use super::{VECTOR, blocks, mirrored};
use crate::runner::cuda::kernels::{Kernels, Launch};
use crate::runner::{Dtype, RunnerError};

/// Arguments of `kv_append`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct KvAppendParams {
    /// `[T, (Hq + 2·Hkv)·D]`
    pub qkv: u64,
    /// `[(Hq + 2·Hkv)·D]`
    pub bias: u64,
    /// `[T, Hq, D]`, written.
    pub q: u64,
    /// One layer's part of the slab, `[page][K|V][Hkv][P][D]`, written at the tokens' positions.
    pub kv: u64,
    /// i32 `[T]`, the row of each token.
    pub token_row: u64,
    /// i32 `[T]`, its KV index in that row; −1 writes no K and V.
    pub kv_index: u64,
    /// i32 `[B, page_stride]`
    pub page_table: u64,
    /// T
    pub tokens: i32,
    /// Hq
    pub query_heads: i32,
    /// Hkv
    pub kv_heads: i32,
    /// D
    pub head_dim: i32,
    /// P
    pub page_size: i32,
    pub page_stride: i32,
}

mirrored!(KvAppendParams, 80, {
    qkv: 0, bias: 8, q: 16, kv: 24, token_row: 32, kv_index: 40, page_table: 48,
    tokens: 56, query_heads: 60, kv_heads: 64, head_dim: 68, page_size: 72, page_stride: 76,
});

const THREADS: u32 = 128;

impl Kernels {
    /// # Errors
    /// When D or P is none of [`Kernels::supports`], or the driver refuses the launch.
    pub fn kv_append(
        &self,
        stream: &CudaStream,
        dtype: Dtype,
        p: &KvAppendParams,
    ) -> Result<(), RunnerError> {
        Self::supports(p.head_dim as usize, p.page_size as usize)?;
        let width = (p.query_heads + 2 * p.kv_heads) * p.head_dim;
        Launch {
            function: self.kv_append.get(dtype),
            grid: (
                blocks(p.tokens, 1),
                blocks(width / VECTOR, THREADS as i32),
                1,
            ),
            threads: THREADS,
            shared_bytes: 0,
        }
        .behind(stream, p)
    }
}
