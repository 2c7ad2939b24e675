//! What this machine's memory and cores reach on the threads that the runner uses.

use std::time::Instant;

use rayon::prelude::*;

use super::matmul::{PackedMatrix, Weight};
use super::memory::Demand;
use crate::metrics::Ceilings;
use crate::runner::{Footprint, RunnerError};

/// Elements copied: 256 MiB, beyond caches.
const COPIED: usize = 64 << 20;
/// A product that is bound by arithmetic: `[ROWS, SIDE] · [SIDE, SIDE]`.
const ROWS: usize = 512;
const SIDE: usize = 2048;
const ROUNDS: usize = 10;

/// The rates of a copy between two buffers and of a product on the runner's own path, with weights
/// in `T`.
pub fn measure<T: Weight>() -> Result<Ceilings, RunnerError> {
    let demand = Demand(Footprint {
        scratch: 4 * (2 * COPIED + 2 * SIDE * SIDE + 3 * ROWS * SIDE) as u64,
        ..Footprint::default()
    });
    demand.check()?;
    Ok(Ceilings {
        copy_bytes_per_s: copy(&demand)?,
        flop_per_s: product::<T>(&demand)?,
        product_by: T::PRODUCT_BY,
    })
}

fn copy(demand: &Demand) -> Result<f64, RunnerError> {
    let mut from = demand.zeros(COPIED as u64)?;
    let mut to = demand.zeros(COPIED as u64)?;
    // Until it is written, memory is one page of zeros.
    from.par_iter_mut().for_each(|v| *v = 1.0);
    let chunk = COPIED.div_ceil(rayon::current_num_threads());
    let seconds = fastest(|| {
        to.par_chunks_mut(chunk)
            .zip(from.par_chunks(chunk))
            .for_each(|(to, from)| to.copy_from_slice(from));
    });
    Ok(2.0 * size_of_val(&*from) as f64 / seconds)
}

fn product<T: Weight>(demand: &Demand) -> Result<f64, RunnerError> {
    let mut x = demand.zeros((ROWS * SIDE) as u64)?;
    x.fill(0.5);
    let weights = vec![T::from_f32(0.25); SIDE * SIDE];
    let matrix = PackedMatrix::pack(&weights, SIDE, SIDE);
    let mut y = demand.zeros((ROWS * SIDE) as u64)?;
    let mut blocks = demand.zeros(PackedMatrix::scratch_len(ROWS, SIDE) as u64)?;
    let seconds = fastest(|| matrix.matmul(&mut y, &x, &mut blocks));
    Ok(2.0 * (ROWS * SIDE * SIDE) as f64 / seconds)
}

/// Seconds of the fastest call, after one that does not count: other programs only make it slower
/// (the rule of the STREAM benchmark).
fn fastest(mut call: impl FnMut()) -> f64 {
    call();
    let rounds = (0..ROUNDS).map(|_| {
        let start = Instant::now();
        call();
        start.elapsed().as_secs_f64()
    });
    rounds.fold(f64::INFINITY, f64::min)
}
