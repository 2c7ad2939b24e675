//! `X · W` for many rows, or for tens of rows of a large W, with what follows the product fused. Hopper
//! alone.

use cudarc::driver::CudaStream;

use super::LinearParams;
use crate::runner::cuda::kernels::Kernels;
use crate::runner::cuda::launch::Launch;
use crate::runner::{Dtype, RunnerError};

/// What a kernel is compiled for.
#[derive(Debug)]
pub(in crate::runner::cuda) struct Tile {
    /// Rows and columns of a block's tile.
    pub rows: usize,
    pub columns: usize,
    /// Steps of K in flight.
    stages: usize,
    /// Blocks of a cluster that share W; with 1, clusters divide K where tiles are few.
    share: usize,
}

pub(in crate::runner::cuda) const TILES: [Tile; 5] = [
    Tile::new([64, 128], 4, 1),
    Tile::new([64, 192], 3, 1),
    Tile::new([128, 128], 6, 1),
    Tile::new([128, 192], 5, 2),
    Tile::new([128, 256], 4, 2),
];

/// K of a step: a row of 128 bytes.
const DEPTH: usize = 64;
/// Blocks of a cluster that divide K.
const MOST_SPLITS: usize = 8;
/// Fewer steps than this would not pay for a block's share of the cluster's sums.
const FEWEST_STEPS: usize = 3;

impl Tile {
    const fn new([rows, columns]: [usize; 2], stages: usize, share: usize) -> Self {
        Self {
            rows,
            columns,
            stages,
            share,
        }
    }

    /// Dynamic shared memory: the ring of stages with two barriers each, and for every row 40 floats
    /// through which warps store.
    pub fn shared_bytes(&self) -> u32 {
        let stage = (self.rows + self.columns) * DEPTH * 2 + 16;
        let bytes = self.stages * stage + self.rows * 40 * 4;
        bytes.next_multiple_of(1024) as u32
    }

    /// Warpgroups that multiply 64 rows each, and one warp that copies; it has a warpgroup of its own
    /// where it gives registers away.
    fn threads(&self) -> usize {
        match self.rows / 64 {
            1 => 128 + 32,
            warpgroups => 128 * (warpgroups + 1),
        }
    }
}

/// How a product is cut up.
#[derive(Debug, Clone, Copy)]
struct Cut {
    /// Index into [`TILES`].
    tile: usize,
    /// Blocks of a cluster, and clusters; each takes tile after tile.
    cluster: usize,
    clusters: usize,
    /// What the SMs need, each with one block, in parts that compare tiles of the same height.
    cost: usize,
}

impl Cut {
    /// Few rows are bound by memory, which is busy as long as no block has to take a second tile. Many
    /// are bound by arithmetic; of tiles that cost the same, the widest reads X the least.
    fn new(product: [usize; 3], sms: usize) -> Self {
        let cut = |tile| Self::into_tiles(tile, product, sms);
        match product[0] {
            0..=64 => cut(0).or_cheaper(cut(1)),
            _ => cut(4).or_cheaper(cut(3)).or_cheaper(cut(2)),
        }
    }

    fn into_tiles(tile: usize, [m, k, n]: [usize; 3], sms: usize) -> Self {
        let Tile {
            rows,
            columns,
            share,
            ..
        } = TILES[tile];
        let tiles = m.div_ceil(rows * share) * n.div_ceil(columns);
        let splits = match share {
            1 => splits(tiles, k.div_ceil(DEPTH), sms),
            _ => 1,
        };
        let cluster = share * splits;
        let at_once = (sms / cluster).max(1);
        let rounds = tiles.div_ceil(at_once);
        Self {
            tile,
            cluster,
            clusters: tiles.min(at_once),
            cost: match rows {
                64 => rounds,
                _ => rounds * columns / splits,
            },
        }
    }

    fn or_cheaper(self, other: Self) -> Self {
        match other.cost < self.cost {
            true => other,
            false => self,
        }
    }
}

/// Into how many parts K is divided, a power of two: as many as let all blocks run at once.
fn splits(tiles: usize, steps: usize, sms: usize) -> usize {
    let mut splits = 1;
    while splits < MOST_SPLITS && 2 * splits * tiles <= sms && 2 * splits * FEWEST_STEPS <= steps {
        splits *= 2;
    }
    splits
}

impl Kernels {
    /// Whether [`linear_wide`](Self::linear_wide) can run here.
    pub fn has_linear_wide(&self, dtype: Dtype) -> bool {
        self.linear_wide.with_wgmma(dtype).is_some()
    }

    /// # Errors
    /// Where [`has_linear_wide`](Self::has_linear_wide) is false, when N or K is no multiple of 8, or
    /// the driver refuses the launch.
    pub fn linear_wide(
        &self,
        stream: &CudaStream,
        dtype: Dtype,
        p: &LinearParams,
    ) -> Result<(), RunnerError> {
        p.check_vectors()?;
        let functions = self.linear_wide.on_wgmma("linear_wide", dtype)?;
        let [m, k, n] = [p.m, p.k, p.n].map(|size| usize::try_from(size).unwrap_or(0));
        if m == 0 {
            return Ok(());
        }
        let cut = Cut::new([m, k, n], self.sms);
        let tile = &TILES[cut.tile];
        let params = p.boxed(tile.rows, DEPTH / tile.share)?;
        Launch {
            function: &functions[cut.tile],
            grid: (cut.cluster as u32, cut.clusters as u32, 1),
            threads: tile.threads() as u32,
            shared_bytes: tile.shared_bytes(),
        }
        .behind_in_clusters(stream, &params)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sms_have_blocks_in_few_rounds() {
        for (m, k, n, [rows, columns], cluster, clusters) in [
            (64, 4096, 4096, [64, 128], 4, 32),
            (64, 4096, 12_288, [64, 128], 1, 96),
            (64, 4096, 22_016, [64, 192], 1, 115),
            (128, 4096, 12_288, [128, 128], 1, 96),
            (256, 4096, 12_288, [128, 192], 2, 64),
            (256, 11_008, 4096, [128, 128], 2, 64),
            (512, 4096, 22_016, [128, 256], 2, 66),
            (1024, 4096, 22_016, [128, 192], 2, 66),
            (4096, 11_008, 4096, [128, 256], 2, 66),
            (1, 8, 8, [64, 128], 1, 1),
        ] {
            let cut = Cut::new([m, k, n], 132);
            let tile = &TILES[cut.tile];
            let got = ([tile.rows, tile.columns], cut.cluster, cut.clusters);
            assert_eq!(got, ([rows, columns], cluster, clusters), "{m}×{k}×{n}");
        }
    }
}
