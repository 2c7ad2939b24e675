//! `X · W` for few rows, with what follows the product fused.

use cudarc::driver::CudaStream;

use super::{LinearParams, SM_BYTES, blocks};
use crate::runner::cuda::function::Function;
use crate::runner::cuda::kernels::Kernels;
use crate::runner::cuda::launch::Launch;
use crate::runner::{Dtype, RunnerError};

/// M, the rows that the kernel is compiled for; fewer are padded with zeros.
pub(in crate::runner::cuda) const ROWS: [usize; 3] = [8, 16, 32];
pub const MAX_ROWS: usize = ROWS[ROWS.len() - 1];

/// Columns of a block of a small W, and of one that takes longer to read than to launch.
pub(in crate::runner::cuda) const COLUMNS: [usize; 2] = [32, 64];
/// Elements of W, up to which a launch costs more than what it reads.
pub(in crate::runner::cuda) const SMALL_WEIGHT: usize = 4 << 20;
/// Rows of W of a warp's step, warps, stages in flight of a warp.
const DEPTH: usize = 32;
const WARPS: usize = 4;
const STAGES: usize = 4;
/// Blocks of a cluster, which divide K.
const MOST_SPLITS: usize = 8;

/// Dynamic shared memory: a stage holds W's and X's tile in 16-bit values.
const fn shared_bytes(rows: usize, columns: usize) -> usize {
    WARPS * STAGES * (columns + rows) * DEPTH * 2
}

/// The most that a block of a kernel takes.
pub(in crate::runner::cuda) fn most_shared_bytes(
    function: &Function,
    rows: usize,
    columns: usize,
) -> u32 {
    let own = shared_bytes(rows, columns);
    match function.is_hopper() {
        true => own.max(spread(1, 1)) as u32,
        false => own as u32,
    }
}

/// So much shared memory that no SM takes more of a grid's blocks than an even share. Otherwise the SMs on
/// which the previous kernel ends first take as many as fit, and the last get none. Blocks of another
/// kernel still find room beside.
fn spread(blocks: usize, sms: usize) -> usize {
    SM_BYTES / (blocks.div_ceil(sms) + 1)
}

/// Whether W takes longer to read than a launch: its index into [`COLUMNS`].
fn is_large(n: usize, k: usize) -> bool {
    n * k > SMALL_WEIGHT
}

/// Into how many parts K is divided, a power of two: enough that every SM has a block, while each
/// block has two steps at least. Not by M: a row's bits are the same in every batch.
fn splits(n: usize, k: usize, sms: usize) -> usize {
    let (tiles, steps) = (
        n.div_ceil(COLUMNS[usize::from(is_large(n, k))]),
        k.div_ceil(DEPTH),
    );
    let mut splits = 1;
    while splits < MOST_SPLITS && tiles * splits < sms && steps >= 4 * splits {
        splits *= 2;
    }
    splits
}

impl Kernels {
    /// # Errors
    /// In f32, when M is above [`MAX_ROWS`], N or K no multiple of 8, or the driver refuses the
    /// launch.
    pub fn linear_small(
        &self,
        stream: &CudaStream,
        dtype: Dtype,
        p: &LinearParams,
    ) -> Result<(), RunnerError> {
        p.check_vectors()?;
        let rows = ROWS.iter().position(|&rows| p.m <= rows as i32);
        let (Some(functions), Some(rows)) = (self.linear_small.get(dtype), rows) else {
            return Err(RunnerError::Unavailable(format!(
                "the CUDA kernel for few rows takes up to {MAX_ROWS} of f16 or bf16, not {} of {dtype}",
                p.m
            )));
        };
        let (n, k) = (p.n as usize, p.k as usize);
        let columns = usize::from(is_large(n, k));
        let function = &functions[rows][columns];
        let splits = match function.is_hopper() {
            true => splits(n, k, self.sms),
            false => 1,
        };
        let own = shared_bytes(ROWS[rows], COLUMNS[columns]);
        let shared_bytes = match function.is_hopper() && is_large(n, k) && splits == 1 {
            true => own.max(spread(n.div_ceil(COLUMNS[columns]), self.sms)),
            false => own,
        };
        Launch {
            function,
            grid: (
                splits as u32,
                blocks(p.n, COLUMNS[columns] as i32),
                blocks(p.m, MAX_ROWS as i32),
            ),
            threads: 32 * WARPS as u32,
            shared_bytes: shared_bytes as u32,
        }
        .behind_in_clusters(stream, p)
    }
}

#[cfg(test)]
mod tests {
    use super::super::BLOCK_BYTES;
    use super::*;

    #[test]
    fn every_sm_has_a_block_where_k_allows() {
        for (k, n, wanted) in [
            (768, 2304, 2),
            (768, 768, 8),
            (768, 3072, 2),
            (3072, 768, 8),
            (4096, 12_288, 1),
            (4096, 4096, 4),
            (11_008, 4096, 4),
            (64, 64, 1),
            (128, 64, 2),
        ] {
            assert_eq!(splits(n, k, 132), wanted, "{k}×{n}");
        }
    }

    #[test]
    fn an_sm_has_room_for_an_even_share_of_the_blocks() {
        let fit = |bytes: usize| SM_BYTES / (bytes + BLOCK_BYTES);
        for blocks in [132_usize, 133, 192, 264, 344, 396] {
            let each = blocks.div_ceil(132);
            assert_eq!(fit(spread(blocks, 132)), each, "{blocks}");
        }
        // Another kernel's finds room beside two.
        let own = shared_bytes(8, 64);
        assert!(2 * (spread(192, 132) + BLOCK_BYTES) + own + BLOCK_BYTES <= SM_BYTES);
    }
}
