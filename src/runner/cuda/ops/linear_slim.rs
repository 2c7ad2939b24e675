//! `X · W` for tens of rows of a small weight, with what follows the product fused. Hopper alone.

use cudarc::driver::CudaStream;

use super::{BLOCK_BYTES, LinearParams, SM_BYTES, blocks};
use crate::runner::cuda::kernels::Kernels;
use crate::runner::cuda::launch::Launch;
use crate::runner::{Dtype, RunnerError};

/// Rows of a block's tile that the kernel is compiled for.
pub(in crate::runner::cuda) const ROWS: [usize; 2] = [16, 32];
/// Columns of a block's tile, K of a step.
const SIDE: usize = 64;
const DEPTH: usize = 64;
const THREADS: u32 = 128;
/// A block's part of K lies in shared memory: so many steps of it at most.
const MOST_STEPS: usize = 12;
/// Blocks of a cluster, which divide K.
const MOST_SPLITS: usize = 8;
/// More blocks than these on an SM are in each other's way.
const BLOCKS_AN_SM: usize = 2;
/// Dynamic shared memory of a part of K: 16-bit values, and a barrier for each step.
const fn shared_bytes(rows: usize, steps: usize) -> usize {
    steps * ((SIDE + rows) * DEPTH * 2 + 8)
}

/// The most that a block of this many rows takes.
pub(in crate::runner::cuda) const fn most_shared_bytes(rows: usize) -> u32 {
    shared_bytes(rows, MOST_STEPS) as u32
}

/// How a product is cut up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cut {
    /// Index into [`ROWS`].
    tile: usize,
    /// Parts of K, a power of two, and the steps of one.
    splits: usize,
    steps: usize,
    /// Whether all blocks run at once.
    at_once: bool,
}

impl Cut {
    /// The lowest tiles whose blocks all run at once, or else the highest. None where K is too long.
    fn new(product: [usize; 3], sms: usize) -> Option<Self> {
        let cuts = (0..ROWS.len()).filter_map(|tile| Self::into_tiles(tile, product, sms));
        cuts.reduce(|low, high| if low.at_once { low } else { high })
    }

    fn into_tiles(tile: usize, [m, k, n]: [usize; 3], sms: usize) -> Option<Self> {
        let steps = k.div_ceil(DEPTH);
        let splits = steps.div_ceil(MOST_STEPS).next_power_of_two();
        if splits > MOST_SPLITS {
            return None;
        }
        let steps = steps.div_ceil(splits);
        let blocks = splits * m.div_ceil(ROWS[tile]) * n.div_ceil(SIDE);
        let an_sm = SM_BYTES / (shared_bytes(ROWS[tile], steps) + BLOCK_BYTES);
        Some(Self {
            tile,
            splits,
            steps,
            at_once: blocks <= an_sm.min(BLOCKS_AN_SM) * sms,
        })
    }
}

impl Kernels {
    /// Whether [`linear_slim`](Self::linear_slim) can run here.
    pub fn has_linear_slim(&self, dtype: Dtype) -> bool {
        self.linear_slim.with_wgmma(dtype).is_some()
    }

    /// # Errors
    /// Where [`has_linear_slim`](Self::has_linear_slim) is false, when N or K is no multiple of 8 or K
    /// too long, or the driver refuses the launch.
    pub fn linear_slim(
        &self,
        stream: &CudaStream,
        dtype: Dtype,
        p: &LinearParams,
    ) -> Result<(), RunnerError> {
        p.check_vectors()?;
        let functions = self.linear_slim.on_wgmma("linear_slim", dtype)?;
        let product = [p.m, p.k, p.n].map(|size| usize::try_from(size).unwrap_or(0));
        let Some(cut) = Cut::new(product, self.sms) else {
            return Err(RunnerError::Unavailable(format!(
                "the CUDA kernel linear_slim takes weights of up to {} rows, not {}",
                MOST_SPLITS * MOST_STEPS * DEPTH,
                p.k
            )));
        };
        if p.m <= 0 {
            return Ok(());
        }
        let rows = ROWS[cut.tile];
        Launch {
            function: &functions[cut.tile],
            // The tiles of one part of W next to each other.
            grid: (
                cut.splits as u32,
                blocks(p.m, rows as i32),
                blocks(p.n, SIDE as i32),
            ),
            threads: THREADS,
            shared_bytes: shared_bytes(rows, cut.steps) as u32,
        }
        .behind_in_clusters(stream, &p.boxed(rows, DEPTH)?)
    }
}

/// Whether all blocks of this product (M, K, N) run at once.
pub(in crate::runner::cuda) fn runs_at_once(product: [usize; 3], sms: usize) -> bool {
    Cut::new(product, sms).is_some_and(|cut| cut.at_once)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_are_low_while_all_blocks_run_at_once() {
        for (m, k, n, wanted) in [
            // SmolLM2's ...
            (64, 576, 960, Some((16, 1, 9))),
            (64, 576, 3072, Some((16, 1, 9))),
            (64, 1536, 576, Some((16, 2, 12))),
            (128, 576, 3072, Some((32, 1, 9))),
            (128, 1536, 576, Some((32, 2, 12))),
            (256, 576, 3072, None),
            // ... and distilgpt2's.
            (32, 768, 3072, Some((16, 1, 12))),
            (64, 768, 2304, Some((32, 1, 12))),
            (64, 3072, 768, Some((32, 4, 12))),
            (128, 768, 2304, None),
            (64, 11_008, 4096, None),
            (1, 8, 8, Some((16, 1, 1))),
        ] {
            let cut = Cut::new([m, k, n], 132).filter(|cut| cut.at_once);
            let got = cut.map(|cut| (ROWS[cut.tile], cut.splits, cut.steps));
            assert_eq!(got, wanted, "{m}×{k}×{n}");
        }
    }
}
