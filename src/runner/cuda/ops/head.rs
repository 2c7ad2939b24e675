//! The head in one pass: the tokens with the largest logits, or the logits themselves. Hopper alone.

use cudarc::driver::CudaStream;

use super::{blocks, mirrored, whole_vectors};
use crate::runner::cuda::kernels::Kernels;
use crate::runner::cuda::launch::Launch;
use crate::runner::cuda::tensor_map::{BoxedMatrix, TensorMap};
use crate::runner::{Dtype, RunnerError};

/// What `head` is launched with.
#[derive(Debug, Clone, Copy)]
pub struct HeadParams {
    /// `[M, K]`
    pub x: u64,
    /// `[stride, K]`, the first V rows valid.
    pub e: u64,
    /// f32 `[M, stride]`, the first V of each row written; or 0 where tokens are wanted instead.
    pub logits: u64,
    /// u64 `[1 + M]`, zero before and after; for tokens.
    pub best: u64,
    /// i32 `[M]`, the tokens, written.
    pub out: u64,
    /// The address of one more such array, in host memory; written too.
    pub host_out: u64,
    /// M
    pub rows: i32,
    /// V
    pub vocab: i32,
    /// K
    pub channels: i32,
    pub stride: i32,
}

/// Arguments of `head`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct HeadArguments {
    e: TensorMap,
    x: TensorMap,
    logits: u64,
    best: u64,
    out: u64,
    host_out: u64,
    m: i32,
    /// Of X, in a block's tile.
    rows: i32,
    vocab: i32,
    k: i32,
    stride: i32,
}

mirrored!(HeadArguments, 384, { x: 128, logits: 256, m: 288, stride: 304 });

/// Rows of E in a block's tile, and K of a step.
const WORDS: usize = 128;
const DEPTH: usize = 64;
/// Threads that multiply, and a warp that copies ...
const THREADS: u32 = 256 + 32;
/// ... or a whole warpgroup, which leaves registers to the others.
const WIDE_THREADS: u32 = 256 + 128;

/// One compiled size.
#[derive(Debug, Clone, Copy)]
pub(in crate::runner::cuda) struct Tile {
    /// Of X, at most.
    pub rows: usize,
    /// Steps of K in flight.
    stages: usize,
    threads: u32,
}

impl Tile {
    const fn new(rows: usize, stages: usize, threads: u32) -> Self {
        Self {
            rows,
            stages,
            threads,
        }
    }

    /// Dynamic shared memory: the stages in 16-bit values and, in one more kilobyte, their barriers.
    pub const fn shared_bytes(&self) -> u32 {
        (self.stages * (self.rows + WORDS) * DEPTH * 2 + 1024) as u32
    }
}

const LARGEST: Tile = Tile::new(256, 4, WIDE_THREADS);
pub(in crate::runner::cuda) const TILES: [Tile; 9] = [
    Tile::new(8, 12, THREADS),
    Tile::new(16, 11, THREADS),
    Tile::new(32, 10, THREADS),
    Tile::new(64, 8, THREADS),
    Tile::new(128, 6, THREADS),
    Tile::new(160, 6, WIDE_THREADS),
    Tile::new(192, 5, WIDE_THREADS),
    Tile::new(224, 5, WIDE_THREADS),
    LARGEST,
];

impl Kernels {
    /// Whether [`head`](Self::head) can run here.
    pub fn has_head(&self, dtype: Dtype) -> bool {
        self.head.with_wgmma(dtype).is_some()
    }

    /// # Errors
    /// Where [`has_head`](Self::has_head) is false, when K is no multiple of 8, or the driver refuses
    /// the launch.
    pub fn head(
        &self,
        stream: &CudaStream,
        dtype: Dtype,
        p: &HeadParams,
    ) -> Result<(), RunnerError> {
        whole_vectors("the channels", p.channels)?;
        let functions = self.head.on_wgmma("head", dtype)?;
        if p.rows <= 0 {
            return Ok(());
        }
        // Rows in equal parts: a box that ends past them would take longer than a full one.
        let row_tiles = blocks(p.rows, LARGEST.rows as i32);
        let rows = blocks(p.rows, row_tiles as i32) as usize;
        let size = TILES.partition_point(|tile| tile.rows < rows);
        let (function, tile) = (&functions[size], &TILES[size]);
        let matrix = |address, rows: i32, box_rows| {
            TensorMap::new(&BoxedMatrix {
                address,
                rows: rows as usize,
                columns: p.channels as usize,
                box_rows,
            })
        };
        let word_tiles = blocks(p.vocab, WORDS as i32);
        // One block an SM, each with its tiles of E and one of X.
        let columns = (self.sms as u32 / row_tiles).max(1).min(word_tiles);
        let arguments = HeadArguments {
            e: matrix(p.e, p.stride, WORDS)?,
            x: matrix(p.x, p.rows, rows)?,
            logits: p.logits,
            best: p.best,
            out: p.out,
            host_out: p.host_out,
            m: p.rows,
            rows: rows as i32,
            vocab: p.vocab,
            k: p.channels,
            stride: p.stride,
        };
        Launch {
            function,
            grid: (columns, row_tiles, 1),
            threads: tile.threads,
            shared_bytes: tile.shared_bytes(),
        }
        .behind(stream, &arguments)
    }
}
