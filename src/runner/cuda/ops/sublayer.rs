//! What the kernels of a small model's two sublayers share (kernels/sublayer.cuh).

use super::{StreamParams, VECTOR, whole_vectors};
use crate::runner::cuda::kernels::Kernels;
use crate::runner::{Dtype, RunnerError};

/// Blocks of a cluster, which divide the channels.
pub(in crate::runner::cuda) const RANKS: usize = 8;
/// Of a group, which a cluster takes at once.
pub(in crate::runner::cuda) const ROWS: usize = 8;
pub(super) const THREADS: u32 = 256;
/// Each block holds a row's part in one warp, four channels a lane.
const MAX_CHANNELS: usize = RANKS * 32 * 4;
/// Leaves an SM room for a block of the other sublayer, whose weights arrive meanwhile.
pub(in crate::runner::cuda) const MAX_SHARED_BYTES: usize = 176 << 10;

/// Whether C can be divided.
pub(super) fn divides(channels: usize) -> bool {
    channels.is_multiple_of(8 * RANKS) && (1..=MAX_CHANNELS).contains(&channels)
}

/// Whether a row of weights is at most a vector for each thread.
pub(super) fn can_fetch(columns: usize) -> bool {
    columns <= VECTOR as usize * THREADS as usize
}

/// # Errors
/// When C cannot be divided.
pub(super) fn check(p: &StreamParams) -> Result<(), RunnerError> {
    whole_vectors("channels", p.channels)?;
    match divides(p.channels as usize) {
        true => Ok(()),
        false => Err(RunnerError::Unavailable(format!(
            "the CUDA sublayers take channels in multiples of {} up to {MAX_CHANNELS}, not {}",
            8 * RANKS,
            p.channels
        ))),
    }
}

impl Kernels {
    /// Whether the kernels of the sublayers can run here; they have sizes of their own besides.
    pub fn has_sublayers(&self, dtype: Dtype) -> bool {
        let function = self.mlp_sublayer.get(dtype);
        function.is_some_and(|function| function.is_hopper())
    }
}

/// Groups of rows.
pub(super) fn row_groups(p: &StreamParams) -> u32 {
    super::blocks(p.m, ROWS as i32)
}

/// Adds up a block's shared memory, as `Carver` in kernels/sublayer.cuh takes it.
#[derive(Default)]
pub(super) struct Carver {
    bytes: usize,
}

impl Carver {
    pub fn take(&mut self, count: usize, element: usize) {
        self.bytes += (count * element).next_multiple_of(16);
    }

    /// Rows of 16-bit values, an odd number of vectors long.
    pub fn tile(&mut self, rows: usize, columns: usize) {
        self.take(rows * (columns.div_ceil(8) | 1), 16);
    }

    /// The sums of this many columns from all blocks, the rows' moments and the barriers.
    pub fn exchange(&mut self, columns: usize, barriers: usize) -> usize {
        self.take(RANKS * columns, 4);
        self.take(ROWS * RANKS, 8);
        self.take(barriers, 8);
        self.bytes
    }
}
