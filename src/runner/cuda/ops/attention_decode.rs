//! Attention of one query a row, split over its KV positions.

use cudarc::driver::CudaStream;

use super::{blocks, mirrored};
use crate::runner::cuda::kernels::{GROUPS, HEAD_DIMS, Kernels, Launch};
use crate::runner::{Dtype, RunnerError};

/// Arguments of `attention_decode`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct AttentionDecodeParams {
    /// `[B, Hq, D]`, written.
    pub out: u64,
    /// `[B, Hq, D]`
    pub q: u64,
    /// One layer's part of the slab, `[page][K|V][Hkv][P][D]`.
    pub kv: u64,
    /// i32 `[B, page_stride]`
    pub page_table: u64,
    /// i32 `[B]`
    pub kv_start: u64,
    /// i32 `[B]`, at most `splits · chunk`.
    pub kv_len: u64,
    /// f32 `[splits, B, Hq, D]`, scratch; unused when `splits` is 1.
    pub partial_out: u64,
    /// f32 `[splits, B, Hq]`, scratch; unused when `splits` is 1.
    pub partial_lse: u64,
    /// B
    pub rows: i32,
    pub splits: i32,
    /// KV positions of a split, a multiple of [`TILE`].
    pub chunk: i32,
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
}

mirrored!(AttentionDecodeParams, 104, {
    out: 0, q: 8, kv: 16, page_table: 24, kv_start: 32, kv_len: 40, partial_out: 48,
    partial_lse: 56, rows: 64, splits: 68, chunk: 72, query_heads: 76, kv_heads: 80, head_dim: 84,
    page_size: 88, page_stride: 92, scale: 96,
});

/// A split starts and ends at a multiple of this many positions.
pub const TILE: usize = 64;
/// Shorter contexts are not split: the second kernel would cost more than it saves.
const UNSPLIT: usize = 2 * TILE;
/// Blocks that keep one SM's memory pipeline full.
const BLOCKS_PER_SM: usize = 4;
const THREADS: u32 = 128;

/// How the KV positions of every row are divided over blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Split {
    /// KV positions of a split.
    pub chunk: usize,
    pub splits: usize,
}

/// The split for rows of up to `max_kv_len` positions on a GPU of `sms` multiprocessors. It depends
/// on nothing else, so a captured graph stays valid for every length up to `max_kv_len`.
pub fn split(rows: usize, kv_heads: usize, max_kv_len: usize, sms: usize) -> Split {
    let longest = max_kv_len.max(1).next_multiple_of(TILE);
    let unsplit = Split {
        chunk: longest,
        splits: 1,
    };
    if longest <= UNSPLIT {
        return unsplit;
    }
    let wanted = (BLOCKS_PER_SM * sms).div_ceil((rows * kv_heads).max(1));
    let chunk = longest.div_ceil(wanted.max(1)).next_multiple_of(TILE);
    Split {
        chunk,
        splits: longest.div_ceil(chunk),
    }
}

impl Kernels {
    /// # Errors
    /// When D, P or the GQA group has no kernel, the chunk is no multiple of [`TILE`], or the driver
    /// refuses the launch.
    pub fn attention_decode(
        &self,
        stream: &CudaStream,
        dtype: Dtype,
        p: &AttentionDecodeParams,
    ) -> Result<(), RunnerError> {
        Self::supports(p.head_dim as usize, p.page_size as usize)?;
        let group = group(p)?;
        let variants = self.attention_decode.get(dtype).iter().zip(HEAD_DIMS);
        for (functions, _) in variants.filter(|(_, d)| *d == p.head_dim as usize) {
            Launch {
                function: &functions[group],
                grid: (
                    blocks(p.splits, 1),
                    blocks(p.kv_heads, 1),
                    blocks(p.rows, 1),
                ),
                threads: THREADS,
                shared_bytes: 0,
            }
            .behind(stream, p)?;
        }
        if p.splits > 1 {
            Launch {
                function: self.attention_decode_combine.get(dtype),
                grid: (blocks(p.query_heads, 1), blocks(p.rows, 1), 1),
                threads: p.head_dim.cast_unsigned().next_multiple_of(32),
                shared_bytes: 0,
            }
            .behind(stream, p)?;
        }
        Ok(())
    }
}

/// Index into [`GROUPS`] of the smallest that holds the query heads of one KV head.
fn group(p: &AttentionDecodeParams) -> Result<usize, RunnerError> {
    let refuse = |what: String| Err(RunnerError::Unavailable(what));
    if p.chunk <= 0 || p.chunk % TILE as i32 != 0 {
        return refuse(format!(
            "decode attention needs a chunk of a multiple of {TILE} positions, not {}",
            p.chunk
        ));
    }
    if p.kv_heads <= 0 || p.query_heads % p.kv_heads != 0 {
        return refuse(format!(
            "{} query heads cannot share {} KV heads",
            p.query_heads, p.kv_heads
        ));
    }
    let heads = (p.query_heads / p.kv_heads) as usize;
    match GROUPS.iter().position(|&g| g >= heads) {
        Some(index) => Ok(index),
        None => refuse(format!(
            "the CUDA kernels know up to {} query heads for each KV head, not {heads}; use --device cpu",
            GROUPS[GROUPS.len() - 1]
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_split_covers_the_context(rows in 1usize..300, heads in 1usize..40, len in 0usize..20_000, sms in 1usize..200) {
            let s = split(rows, heads, len, sms);
            prop_assert!(s.chunk.is_multiple_of(TILE) && s.chunk * s.splits >= len.max(1));
            // No split is empty for a row of the full length.
            prop_assert!((s.splits - 1) * s.chunk < len.max(1));
        }
    }

    #[test]
    fn splits_only_where_blocks_are_missing() {
        assert_eq!(split(1, 12, 64, 132).splits, 1);
        assert_eq!(
            split(1, 12, 512, 132),
            Split {
                chunk: 64,
                splits: 8
            }
        );
        assert_eq!(
            split(64, 12, 2048, 132),
            Split {
                chunk: 2048,
                splits: 1
            }
        );
    }
}
