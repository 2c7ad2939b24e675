//! Causal attention of packed queries over the pages.

use cudarc::driver::CudaStream;

use super::{blocks, mirrored};
use crate::runner::cuda::kernels::{HEAD_DIMS, Kernels};
use crate::runner::cuda::launch::Launch;
use crate::runner::{Dtype, RunnerError};

/// Arguments of `attention_prefill`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct AttentionPrefillParams {
    /// `[T, Hq, D]`, written for every token of a row.
    pub out: u64,
    /// `[T, Hq, D]`
    pub q: u64,
    /// One layer's part of the slab, `[page][K|V][Hkv][P][D]`.
    pub kv: u64,
    /// i32 `[B, page_stride]`
    pub page_table: u64,
    /// i32 `[B + 1]`: row b's queries are tokens `query_start[b] .. query_start[b + 1]`.
    pub query_start: u64,
    /// i32 `[B]`
    pub kv_start: u64,
    /// i32 `[B]`
    pub kv_len: u64,
    /// B
    pub rows: i32,
    /// At least the longest row's queries.
    pub max_query_len: i32,
    /// Hq
    pub query_heads: i32,
    /// Hkv
    pub kv_heads: i32,
    /// D
    pub head_dim: i32,
    /// P
    pub page_size: i32,
    pub page_stride: i32,
    /// Of the scores: 1/√D.
    pub scale: f32,
    /// T
    pub tokens: i32,
    /// At least the longest row's keys.
    pub max_kv_len: i32,
}

mirrored!(AttentionPrefillParams, 96, {
    out: 0, q: 8, kv: 16, page_table: 24, query_start: 32, kv_start: 40, kv_len: 48,
    rows: 56, max_query_len: 60, query_heads: 64, kv_heads: 68, head_dim: 72, page_size: 76,
    page_stride: 80, scale: 84, tokens: 88,
    max_kv_len: 92,
});

/// Queries of one warp of the tensor-core kernel.
const WARP_QUERIES: i32 = 16;
/// KV positions of one tile.
const TILE_POSITIONS: usize = 64;
/// Tiles in flight.
const STAGES: usize = 2;
/// Queries of one block of the f32 kernel, and its threads.
const F32_QUERIES: i32 = 8;
const F32_THREADS: u32 = 128;

/// Dynamic shared memory of the tensor-core kernel: K and V tiles with padded rows of 16-bit values.
pub(in crate::runner::cuda) fn shared_bytes(head_dim: usize) -> u32 {
    (STAGES * 2 * TILE_POSITIONS * (head_dim + 8) * 2) as u32
}

/// Warps of a tensor-core block: eight share a KV tile when the prompts are long enough to fill
/// them and the registers of a head's accumulators allow two such blocks on an SM.
fn warps(p: &AttentionPrefillParams) -> i32 {
    match p.max_query_len {
        ..=16 => 1,
        17..=32 => 2,
        33..=64 => 4,
        _ if p.head_dim > 64 => 4,
        _ => 8,
    }
}

impl Kernels {
    /// # Errors
    /// When D or P is none of [`Kernels::supports`], or the driver refuses the launch.
    pub fn attention_prefill(
        &self,
        stream: &CudaStream,
        dtype: Dtype,
        p: &AttentionPrefillParams,
    ) -> Result<(), RunnerError> {
        Self::supports(p.head_dim as usize, p.page_size as usize)?;
        let functions = self.attention_prefill.get(dtype).iter().zip(HEAD_DIMS);
        for (function, _) in functions.filter(|(_, d)| *d == p.head_dim as usize) {
            let (queries, threads, shared_bytes) = match dtype {
                Dtype::F32 => (F32_QUERIES, F32_THREADS, 0),
                Dtype::F16 | Dtype::BF16 => {
                    let warps = warps(p);
                    let threads = 32 * warps as u32;
                    (
                        WARP_QUERIES * warps,
                        threads,
                        shared_bytes(p.head_dim as usize),
                    )
                }
            };
            Launch {
                function,
                grid: (
                    blocks(p.max_query_len, queries),
                    blocks(p.query_heads, 1),
                    blocks(p.rows, 1),
                ),
                threads,
                shared_bytes,
            }
            .behind(stream, p)?;
        }
        Ok(())
    }
}
