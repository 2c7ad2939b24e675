//! The head in one pass: the tokens with the largest logits, or the logits themselves. Hopper alone.

use cudarc::driver::CudaStream;

use super::{blocks, mirrored, whole_vectors};
use crate::runner::cuda::kernels::{Function, Kernels, Launch};
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
    /// i32 `[M]` in host memory, written too.
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
    vocab: i32,
    k: i32,
    stride: i32,
}

mirrored!(HeadArguments, 384, { x: 128, logits: 256, m: 288, stride: 300 });

/// A block's rows of X and rows of E, and the steps of K in flight.
#[derive(Debug, Clone, Copy)]
pub(in crate::runner::cuda) struct Tile {
    pub rows: usize,
    words: usize,
    stages: usize,
}

impl Tile {
    const fn new(rows: usize, words: usize, stages: usize) -> Self {
        Self {
            rows,
            words,
            stages,
        }
    }

    /// Dynamic shared memory: the stages in 16-bit values and, in one more kilobyte, their barriers.
    pub const fn shared_bytes(&self) -> u32 {
        (self.stages * (self.rows + self.words) * DEPTH * 2 + 1024) as u32
    }

    /// Threads that multiply, 128 for 64 rows of E, and a warp that copies; or a whole warpgroup,
    /// which can leave registers to the others.
    fn threads(&self) -> u32 {
        let copying = if self.rows > 128 { 128 } else { 32 };
        2 * self.words as u32 + copying
    }
}

/// K of a step.
const DEPTH: usize = 64;
/// The tiles that the kernel is compiled for; the last one for any M above.
pub(in crate::runner::cuda) const TILES: [Tile; 6] = [
    Tile::new(8, 128, 12),
    Tile::new(16, 128, 11),
    Tile::new(32, 128, 10),
    Tile::new(64, 128, 8),
    Tile::new(128, 128, 6),
    Tile::new(256, 128, 4),
];

impl Kernels {
    /// Whether [`head`](Self::head) can run here.
    pub fn has_head(&self, dtype: Dtype) -> bool {
        let functions = self.head.get(dtype);
        functions.is_some_and(|functions| functions.iter().all(Function::has_wgmma))
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
        let Some(functions) = self.head.get(dtype).filter(|_| self.has_head(dtype)) else {
            return Err(RunnerError::Unavailable(format!(
                "the CUDA kernel head is for f16 and bf16 on Hopper, not for {dtype} here"
            )));
        };
        let fits = |(_, tile): &(_, &Tile)| tile.rows >= p.rows as usize;
        let smallest = functions.iter().zip(&TILES).find(fits);
        let last = functions.iter().zip(&TILES).next_back();
        let Some((function, tile)) = smallest.or(last) else {
            return Ok(());
        };
        let matrix = |address, rows: i32, box_rows| {
            TensorMap::new(&BoxedMatrix {
                address,
                rows: rows as usize,
                columns: p.channels as usize,
                box_rows,
            })
        };
        if p.rows <= 0 {
            return Ok(());
        }
        let row_tiles = blocks(p.rows, tile.rows as i32);
        let word_tiles = blocks(p.vocab, tile.words as i32);
        // One block an SM, each with its tiles of E and one of X.
        let columns = (self.sms as u32 / row_tiles).max(1).min(word_tiles);
        let arguments = HeadArguments {
            e: matrix(p.e, p.stride, tile.words)?,
            x: matrix(p.x, p.rows, tile.rows)?,
            logits: p.logits,
            best: p.best,
            out: p.out,
            host_out: p.host_out,
            m: p.rows,
            vocab: p.vocab,
            k: p.channels,
            stride: p.stride,
        };
        Launch {
            function,
            grid: (columns, row_tiles, 1),
            threads: tile.threads(),
            shared_bytes: tile.shared_bytes(),
        }
        .behind(stream, &arguments)
    }
}
