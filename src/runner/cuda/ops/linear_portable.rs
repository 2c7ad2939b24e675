//! `X · W` for any number of rows, with what follows the product fused, and the vocabulary's logits
//! `X · Eᵀ`: in every type and on every GPU.

use cudarc::driver::CudaStream;

use super::{LinearParams, blocks, mirrored, whole_vectors};
use crate::runner::cuda::function::Function;
use crate::runner::cuda::kernels::Kernels;
use crate::runner::cuda::launch::Launch;
use crate::runner::{Dtype, RunnerError};

/// `logits = x·wᵀ`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct LogitsParams {
    /// `[M, K]`
    pub x: u64,
    /// `[N, K]`, never written by a step: it is read before the previous kernel has ended.
    pub w: u64,
    /// f32 `[M, N]`, written.
    pub logits: u64,
    /// M
    pub m: i32,
    /// N, a multiple of 8.
    pub n: i32,
    /// K, a multiple of 8.
    pub k: i32,
}

mirrored!(LogitsParams, 40, { x: 0, w: 8, logits: 16, m: 24, n: 28, k: 32 });

const THREADS: u32 = 128;
/// Row tiles that stand side by side.
const GROUP: u32 = 8;

/// A block's tile and the ring of stages that K passes through.
#[derive(Debug, Clone, Copy)]
pub(in crate::runner::cuda) struct Tile {
    /// In the kernels' names.
    pub name: &'static str,
    rows: i32,
    columns: i32,
    /// K of a stage.
    depth: i32,
    stages: i32,
}

/// The tile for few rows and the one for many.
pub(in crate::runner::cuda) fn tiles(dtype: Dtype) -> [Tile; 2] {
    let tile = |name, [rows, columns]: [i32; 2], depth, stages| Tile {
        name,
        rows,
        columns,
        depth,
        stages,
    };
    match dtype {
        Dtype::F32 => [tile("few", [32, 64], 16, 4), tile("many", [64, 64], 16, 4)],
        Dtype::F16 | Dtype::BF16 => [
            tile("few", [64, 64], 64, 3),
            tile("many", [128, 128], 64, 3),
        ],
    }
}

impl Tile {
    /// Dynamic shared memory: the ring, or half of the tile's sums after it.
    pub fn shared_bytes(&self, dtype: Dtype) -> u32 {
        let stage = (self.rows + self.columns) * self.depth * dtype.bytes() as i32;
        let sums = self.rows / 2 * (self.columns + 8) * 4;
        (self.stages * stage).max(sums) as u32
    }
}

/// Index into [`tiles`]: the large tile, as long as it gives three of four SMs a block.
fn choose([few, many]: [Tile; 2], m: i32, n: i32, sms: usize) -> usize {
    let tiles = blocks(m, many.rows) as usize * blocks(n, many.columns) as usize;
    usize::from(m > few.rows && 4 * tiles >= 3 * sms)
}

impl Kernels {
    /// # Errors
    /// When N or K is no multiple of 8, or the driver refuses the launch.
    pub fn linear_portable(
        &self,
        stream: &CudaStream,
        dtype: Dtype,
        p: &LinearParams,
    ) -> Result<(), RunnerError> {
        self.portable(self.linear_portable.get(dtype), dtype, [p.m, p.n, p.k])?
            .behind(stream, p)
    }

    /// # Errors
    /// When N or K is no multiple of 8, or the driver refuses the launch.
    pub fn head_portable(
        &self,
        stream: &CudaStream,
        dtype: Dtype,
        p: &LogitsParams,
    ) -> Result<(), RunnerError> {
        self.portable(self.head_portable.get(dtype), dtype, [p.m, p.n, p.k])?
            .behind(stream, p)
    }

    /// The launch of one of the kernels for the two tiles.
    fn portable<'a>(
        &self,
        functions: &'a [Function; 2],
        dtype: Dtype,
        [m, n, k]: [i32; 3],
    ) -> Result<Launch<'a>, RunnerError> {
        whole_vectors("the columns of a product", n)?;
        whole_vectors("the rows of a weight", k)?;
        let index = choose(tiles(dtype), m, n, self.sms);
        let tile = tiles(dtype)[index];
        let rows = blocks(m, tile.rows);
        Ok(Launch {
            function: &functions[index],
            grid: (
                rows.min(GROUP),
                blocks(n, tile.columns),
                rows.div_ceil(GROUP),
            ),
            threads: THREADS,
            shared_bytes: tile.shared_bytes(dtype),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_tiles_are_for_grids_that_nearly_fill_the_gpu() {
        for (dtype, m, n, wanted) in [
            (Dtype::BF16, 64, 50_304, "few"),
            (Dtype::BF16, 65, 50_304, "many"),
            (Dtype::BF16, 512, 3072, "few"),
            (Dtype::BF16, 512, 4096, "many"),
            (Dtype::F16, 4096, 2304, "many"),
            (Dtype::F32, 32, 50_304, "few"),
            (Dtype::F32, 33, 50_304, "many"),
            (Dtype::F32, 1024, 768, "many"),
        ] {
            let tiles = tiles(dtype);
            let name = tiles[choose(tiles, m, n, 132)].name;
            assert_eq!(name, wanted, "{dtype} {m}×{n}");
        }
    }
}
