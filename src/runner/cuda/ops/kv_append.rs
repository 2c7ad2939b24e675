//! Adds the QKV bias, turns queries and keys, writes the queries and puts K and V into their pages.

use cudarc::driver::CudaStream;

use super::{VECTOR, blocks, mirrored};
use crate::runner::cuda::kernels::Kernels;
use crate::runner::cuda::launch::Launch;
use crate::runner::{Dtype, RunnerError};

/// Arguments of `kv_append`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct KvAppendParams {
    /// `[T, (Hq + 2·Hkv)·D]`
    pub qkv: u64,
    /// `[(Hq + 2·Hkv)·D]`, or 0 for none.
    pub bias: u64,
    pub to: QkvTarget,
    /// T
    pub tokens: i32,
}

mirrored!(KvAppendParams, 104, { qkv: 0, bias: 8, to: 16, tokens: 96 });

/// Where queries, keys and values go.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct QkvTarget {
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
    /// i32 `[T]`; unused without `rotary`.
    pub positions: u64,
    /// f32 `[S, D/2, 2]`, the cosine and sine by which each neighbouring pair of a query or key is
    /// turned; or 0 for none.
    pub rotary: u64,
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

mirrored!(QkvTarget, 80, {
    q: 0, kv: 8, token_row: 16, kv_index: 24, page_table: 32, positions: 40, rotary: 48,
    query_heads: 56, kv_heads: 60, head_dim: 64, page_size: 68, page_stride: 72,
});

impl QkvTarget {
    /// Nowhere.
    pub const NONE: Self = Self {
        q: 0,
        kv: 0,
        token_row: 0,
        kv_index: 0,
        page_table: 0,
        positions: 0,
        rotary: 0,
        query_heads: 0,
        kv_heads: 0,
        head_dim: 0,
        page_size: 0,
        page_stride: 0,
    };

    /// Columns of the QKV product.
    fn width(&self) -> i32 {
        (self.query_heads + 2 * self.kv_heads) * self.head_dim
    }
}

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
        Self::supports(p.to.head_dim as usize, p.to.page_size as usize)?;
        Launch {
            function: self.kv_append.get(dtype),
            grid: (
                blocks(p.tokens, 1),
                blocks(p.to.width() / VECTOR, THREADS as i32),
                1,
            ),
            threads: THREADS,
            shared_bytes: 0,
        }
        .behind(stream, p)
    }
}
