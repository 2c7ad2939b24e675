//! `X · W` for tens to hundreds of rows, with what follows the product fused. Hopper alone.

use cudarc::driver::CudaStream;

use super::{LinearParams, blocks};
use crate::runner::cuda::kernels::Kernels;
use crate::runner::cuda::launch::Launch;
use crate::runner::{Dtype, RunnerError};

/// Rows and columns of a block's tile, K of a step, steps in flight.
const SIDE: i32 = 64;
const DEPTH: usize = 64;
const STAGES: usize = 6;
const THREADS: u32 = 128;
/// As many as their shared memory leaves room for.
const BLOCKS_AN_SM: usize = 2;
/// Blocks of a cluster, which divide K.
const MOST_SPLITS: usize = 8;
/// Fewer steps than this would not pay for a block's share of the cluster's sums.
const FEWEST_STEPS: usize = 3;

/// Dynamic shared memory: the ring of stages of X and W in 16-bit values, and the sums after it.
pub(in crate::runner::cuda) const SHARED_BYTES: u32 =
    (STAGES * 2 * SIDE as usize * DEPTH * 2) as u32;

/// Into how many parts K is divided, a power of two: as many as let all blocks run at once.
fn splits(tiles: usize, k: usize, sms: usize) -> usize {
    let steps = k.div_ceil(DEPTH);
    let mut splits = 1;
    while splits < MOST_SPLITS
        && 2 * splits * tiles <= BLOCKS_AN_SM * sms
        && 2 * splits * FEWEST_STEPS <= steps
    {
        splits *= 2;
    }
    splits
}

impl Kernels {
    /// Whether [`linear_tiled`](Self::linear_tiled) can run here.
    pub fn has_linear_tiled(&self, dtype: Dtype) -> bool {
        self.linear_tiled.with_wgmma(dtype).is_some()
    }

    /// # Errors
    /// Where [`has_linear_tiled`](Self::has_linear_tiled) is false, when N or K is no multiple of 8,
    /// or the driver refuses the launch.
    pub fn linear_tiled(
        &self,
        stream: &CudaStream,
        dtype: Dtype,
        p: &LinearParams,
    ) -> Result<(), RunnerError> {
        p.check_vectors()?;
        let function = self.linear_tiled.on_wgmma("linear_tiled", dtype)?;
        let (rows, columns) = (blocks(p.m, SIDE), blocks(p.n, SIDE));
        let splits = splits((rows * columns) as usize, p.k as usize, self.sms);
        Launch {
            function,
            // The tiles of one part of W next to each other.
            grid: (splits as u32, rows, columns),
            threads: THREADS,
            shared_bytes: SHARED_BYTES,
        }
        .behind_in_clusters(stream, p)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn k_is_divided_while_all_blocks_run_at_once_and_have_three_steps() {
        for (tiles, k, wanted) in [
            (36, 768, 4),
            (48, 768, 4),
            (12, 768, 4),
            (12, 3072, 8),
            (48, 3072, 4),
            (144, 768, 1),
            (1, 64, 1),
            (1, 8, 1),
        ] {
            assert_eq!(splits(tiles, k, 132), wanted, "{tiles} tiles, K {k}");
        }
    }
}
