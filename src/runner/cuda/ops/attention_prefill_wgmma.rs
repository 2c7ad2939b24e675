//! Causal attention of packed queries over the pages, on Hopper's warpgroup instruction.

use cudarc::driver::CudaStream;

use super::{AttentionPrefillParams, blocks, mirrored};
use crate::runner::cuda::function::Function;
use crate::runner::cuda::kernels::Kernels;
use crate::runner::cuda::launch::Launch;
use crate::runner::cuda::tensor_map::{BoxedMatrix, TensorMap};
use crate::runner::{Dtype, RunnerError};

/// Arguments of `attention_prefill_wgmma`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct AttentionPrefillWgmmaParams {
    /// One layer's part of the slab as rows of D, in boxes of a page or of a tile.
    kv: TensorMap,
    /// `[T, Hq·D]`, in boxes of a warpgroup's queries.
    q: TensorMap,
    attention: AttentionPrefillParams,
    /// Pairs of row and query head that are worked on at the same time.
    lines_at_once: i32,
}

mirrored!(AttentionPrefillWgmmaParams, 384, { kv: 0, q: 128, attention: 256, lines_at_once: 352 });

/// Queries of one warpgroup.
const GROUP_QUERIES: i32 = 64;
/// KV positions of one tile.
const TILE: usize = 128;
/// Bytes of shared memory after the tiles: barriers and works.
const DESCRIPTIONS: usize = 1024;
/// Of the L2 cache, for keys and values that are read again and again.
const CACHE: i64 = 16 << 20;
/// Beyond the cache, the few blocks that work on one line read the same tiles at about the same time.
const FEWEST_LINES: i64 = 32;
/// Up to this many elements in the longest row's queries of a head, `attention_prefill` is faster.
const SHORT: i32 = 8192;

/// How the kernel is compiled; kernels/attention_prefill_wgmma.cu has the same.
#[derive(Debug, Clone, Copy)]
pub(in crate::runner::cuda) struct Form {
    /// D
    pub head_dim: usize,
    /// Warpgroups that multiply, beside the one that brings the tiles.
    pub groups: i32,
    /// Works whose queries are there at a time.
    places: usize,
    /// Tiles of K, and of V, that are there or on their way.
    stages: usize,
}

impl Form {
    /// Of a head width, the one with the smallest works first.
    pub const ALL: [Self; 3] = [
        Self {
            head_dim: 64,
            groups: 2,
            places: 2,
            stages: 4,
        },
        Self {
            head_dim: 64,
            groups: 3,
            places: 1,
            stages: 4,
        },
        Self {
            head_dim: 128,
            groups: 2,
            places: 2,
            stages: 2,
        },
    ];

    fn queries(self) -> i32 {
        self.groups * GROUP_QUERIES
    }

    /// Dynamic shared memory.
    pub fn shared_bytes(self) -> u32 {
        let rows = self.places * self.queries() as usize + 2 * self.stages * TILE;
        (2 * rows * self.head_dim + DESCRIPTIONS) as u32
    }

    fn threads(self) -> u32 {
        128 * (self.groups + 1) as u32
    }

    /// Tiles of queries: each is a block's work for a while.
    fn works(self, p: &AttentionPrefillParams) -> u32 {
        let tiles = blocks(p.max_query_len, self.queries());
        tiles * blocks(p.rows, 1) * blocks(p.query_heads, 1)
    }
}

/// Pairs of row and query head that are worked on at the same time, if all are as long as the longest.
fn lines_at_once(p: &AttentionPrefillParams) -> i32 {
    let keys_and_values = 4 * i64::from(p.max_kv_len) * i64::from(p.head_dim);
    let shared_by = i64::from(p.query_heads / p.kv_heads);
    let fit = CACHE * shared_by / keys_and_values.max(1);
    (fit.max(FEWEST_LINES)).clamp(1, i64::from(p.rows * p.query_heads)) as i32
}

impl Kernels {
    /// The forms that can run here.
    fn prefill_forms(
        &self,
        dtype: Dtype,
        head_dim: usize,
    ) -> impl DoubleEndedIterator<Item = (&Function, Form)> {
        let functions = self.attention_prefill_wgmma.get(dtype);
        let known = functions.into_iter().flat_map(|f| f.iter().zip(Form::ALL));
        known.filter(move |(function, form)| form.head_dim == head_dim && function.has_wgmma())
    }

    /// Whether [`attention_prefill_wgmma`](Self::attention_prefill_wgmma) can run here.
    pub fn has_attention_prefill_wgmma(&self, dtype: Dtype, head_dim: usize) -> bool {
        self.prefill_forms(dtype, head_dim).next().is_some()
    }

    /// Whether it can, and is faster than [`attention_prefill`](Self::attention_prefill).
    pub fn prefers_attention_prefill_wgmma(
        &self,
        dtype: Dtype,
        p: &AttentionPrefillParams,
    ) -> bool {
        p.max_query_len * p.head_dim > SHORT
            && self.has_attention_prefill_wgmma(dtype, p.head_dim as usize)
    }

    /// # Errors
    /// Where [`has_attention_prefill_wgmma`](Self::has_attention_prefill_wgmma) is false, when P is
    /// none of [`Kernels::supports`], or the driver refuses the launch.
    pub fn attention_prefill_wgmma(
        &self,
        stream: &CudaStream,
        dtype: Dtype,
        p: &AttentionPrefillParams,
    ) -> Result<(), RunnerError> {
        let (head_dim, page_size) = (p.head_dim as usize, p.page_size as usize);
        Self::supports(head_dim, page_size)?;
        // Large works cost less, but only if no SM is left without one.
        let mut largest_first = self.prefill_forms(dtype, head_dim).rev();
        let enough = largest_first.find(|(_, form)| form.works(p) as usize >= self.sms);
        let smallest = || self.prefill_forms(dtype, head_dim).next();
        let Some((function, form)) = enough.or_else(smallest) else {
            return Err(RunnerError::Unavailable(format!(
                "the CUDA kernel attention_prefill_wgmma is for f16 and bf16 and heads of 64 and 128 \
                 on Hopper, not for {dtype} and {head_dim} here"
            )));
        };
        let works = form.works(p);
        if works == 0 {
            return Ok(());
        }
        let arguments = AttentionPrefillWgmmaParams {
            kv: TensorMap::new(&BoxedMatrix {
                address: p.kv,
                // Where the slab ends is the page table's affair.
                rows: i32::MAX as usize,
                columns: head_dim,
                box_rows: page_size.min(TILE),
            })?,
            q: TensorMap::new(&BoxedMatrix {
                address: p.q,
                rows: p.tokens as usize,
                columns: p.query_heads as usize * head_dim,
                box_rows: GROUP_QUERIES as usize,
            })?,
            attention: *p,
            lines_at_once: lines_at_once(p),
        };
        Launch {
            function,
            grid: (works.min(self.sms as u32), 1, 1),
            threads: form.threads(),
            shared_bytes: form.shared_bytes(),
        }
        .behind(stream, &arguments)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_fits_an_sm() {
        for form in Form::ALL {
            assert!(form.shared_bytes() <= 227 << 10, "{form:?}");
        }
    }
}
