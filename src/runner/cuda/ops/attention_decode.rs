//! Attention of one query a row, split over its KV positions.

use cudarc::driver::CudaStream;

use super::{blocks, mirrored};
use crate::runner::cuda::kernels::{GROUPS, HEAD_DIMS, Kernels};
use crate::runner::cuda::launch::Launch;
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
    /// B
    pub rows: i32,
    /// At most [`MOST_SPLITS`].
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
    /// Of a block: 4 or 8.
    pub warps: i32,
}

mirrored!(AttentionDecodeParams, 88, {
    out: 0, q: 8, kv: 16, page_table: 24, kv_start: 32, kv_len: 40, rows: 48, splits: 52,
    chunk: 56, query_heads: 60, kv_heads: 64, head_dim: 68, page_size: 72, page_stride: 76,
    scale: 80, warps: 84,
});

/// A split starts and ends at a multiple of this many positions.
pub const TILE: usize = 64;
/// Up to here a context is not split: merging would cost more than it saves.
const UNSPLIT: usize = 256;
/// No split is shorter: eight warps have a step each.
const SHORTEST: usize = 128;
/// The most blocks that Hopper forms a cluster of, when asked for more than the portable 8.
pub const MOST_SPLITS: usize = 16;
/// Warps of a block.
pub const WARPS: [usize; 2] = [4, 8];
/// Wider heads take so many registers on tensor cores that an SM holds one block of eight warps.
const NARROW: usize = 80;

/// The heads of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heads {
    /// Hq
    pub query: usize,
    /// Hkv
    pub kv: usize,
    /// D
    pub dim: usize,
}

/// How the KV positions of every row are divided over blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Split {
    /// KV positions of a split.
    pub chunk: usize,
    pub splits: usize,
    /// Of a block, one of [`WARPS`].
    pub warps: usize,
}

/// The split for rows of up to `max_kv_len` positions on a GPU of `sms` multiprocessors. It depends
/// on nothing else, so a captured graph stays valid for every length up to `max_kv_len`.
pub fn split(rows: usize, heads: Heads, max_kv_len: usize, sms: usize) -> Split {
    let longest = max_kv_len.max(1).next_multiple_of(TILE);
    let unsplit = (rows * heads.kv).max(1);
    let most = match longest {
        ..=UNSPLIT => 1,
        _ => MOST_SPLITS.min(longest / SHORTEST),
    };
    // Three blocks for two SMs keep the memory busy, and clusters of them all run at once.
    let busy = 3 * sms / 2;
    // Of the wide ones with eight warps, one fits an SM, and clusters leave every second SM empty.
    let wide = heads.query > heads.kv && heads.dim > NARROW;
    let clustered = match wide {
        true => sms / 2,
        false => busy,
    };
    let blocks = match 8 * unsplit <= clustered {
        true => clustered,
        false => busy,
    };
    let chunk = longest
        .div_ceil((blocks / unsplit).clamp(1, most))
        .next_multiple_of(TILE);
    let splits = longest.div_ceil(chunk);
    // More warps where all of their blocks run at once and every warp has work.
    let room = match splits {
        1 if wide => sms,
        _ => clustered,
    };
    let many = splits * unsplit <= room && chunk > TILE;
    Split {
        chunk,
        splits,
        warps: WARPS[usize::from(many)],
    }
}

impl Kernels {
    /// # Errors
    /// When D, P, the GQA group or the split has no kernel, or the driver refuses the launch.
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
            let function = &functions[group];
            // Without clusters, a block takes all of a row.
            let p = match function.is_hopper() {
                true => *p,
                false => AttentionDecodeParams {
                    splits: 1,
                    chunk: p.splits * p.chunk,
                    ..*p
                },
            };
            Launch {
                function,
                grid: (
                    blocks(p.splits, 1),
                    blocks(p.kv_heads, 1),
                    blocks(p.rows, 1),
                ),
                threads: 32 * p.warps.cast_unsigned(),
                shared_bytes: 0,
            }
            .behind_in_clusters(stream, &p)?;
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
    let whole = |n: i32| usize::try_from(n).unwrap_or(0);
    if !WARPS.contains(&whole(p.warps)) || !(1..=MOST_SPLITS).contains(&whole(p.splits)) {
        return refuse(format!(
            "decode attention knows blocks of {WARPS:?} warps and up to {MOST_SPLITS} splits, not {} and {}",
            p.warps, p.splits
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

    const GROUPED: Heads = Heads {
        query: 32,
        kv: 8,
        dim: 128,
    };
    const PLAIN: Heads = Heads {
        query: 12,
        kv: 12,
        dim: 64,
    };

    proptest! {
        #[test]
        fn a_split_covers_the_context(rows in 1usize..300, kv in 1usize..40, group in 1usize..9, dim in 32usize..129, len in 0usize..20_000, sms in 1usize..200) {
            let heads = Heads { query: kv * group, kv, dim };
            let s = split(rows, heads, len, sms);
            prop_assert!(s.chunk.is_multiple_of(TILE) && s.chunk * s.splits >= len.max(1));
            prop_assert!((1..=MOST_SPLITS).contains(&s.splits));
            // No split is empty for a row of the full length.
            prop_assert!((s.splits - 1) * s.chunk < len.max(1));
            // What is split all runs at once.
            prop_assert!(s.splits == 1 || 2 * rows * kv * s.splits <= 3 * sms);
        }
    }

    #[test]
    fn splits_only_where_blocks_are_missing() {
        let of = |rows, heads, len| {
            let s = split(rows, heads, len, 132);
            (s.splits, s.chunk, s.warps)
        };
        assert_eq!(of(1, PLAIN, 64), (1, 64, 4));
        assert_eq!(of(1, PLAIN, 256), (1, 256, 8));
        assert_eq!(of(1, PLAIN, 512), (4, 128, 8));
        assert_eq!(of(1, PLAIN, 8192), (16, 512, 8));
        assert_eq!(of(8, PLAIN, 2048), (2, 1024, 8));
        assert_eq!(of(64, PLAIN, 2048), (1, 2048, 4));
        assert_eq!(of(1, GROUPED, 2048), (8, 256, 8));
        assert_eq!(of(4, GROUPED, 2048), (6, 384, 4));
        assert_eq!(of(8, GROUPED, 2048), (3, 704, 4));
        assert_eq!(of(16, GROUPED, 2048), (1, 2048, 8));
        assert_eq!(of(32, GROUPED, 2048), (1, 2048, 4));
    }
}
