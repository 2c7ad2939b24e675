//! Measuring a grid of settings, one cell after another, on one runner or one server.

mod cell_spec;
mod experiment;
mod grid;
mod load;
mod measure;
mod options;
mod result;
mod resume;
mod service;

pub use cell_spec::{CellSpec, PolicyKind};
pub use experiment::{Experiment, Preset};
pub use grid::{Grid, all_cells};
pub use load::{LoadChoice, LoadSpec, Reference};
pub use measure::{Measure, Measured, Prompts, Sent, Workload};
pub use options::MeasureOptions;
pub use result::{CellResult, RunMetric, RunResult, WITH_CONFIDENCE};
pub use resume::{differences, read_cells};
pub use service::{Heard, InProcess, Ran, Service};

use std::time::Duration;

use crate::Error;
use crate::telemetry::GpuSample;

/// Sees a sweep as it goes on.
pub trait Observer {
    fn cell_started(&mut self, index: usize, cell: &CellSpec);
    /// The share (0 to 1) of the cell that is done, and its output tokens per second so far.
    fn cell_progressed(&mut self, share: f64, output_throughput: f64);
    /// Keeps a result on disk before the next cell begins; an error ends the sweep.
    fn cell_finished(&mut self, measured: &Measured, samples: &[GpuSample]) -> Result<(), Error>;
    /// Asked between cells.
    fn stop_requested(&self) -> bool;
}

/// Whether every cell was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Complete,
    Interrupted,
}

/// Measures the cells that `results` does not hold yet and adds them to it.
pub fn run(
    cells: &[CellSpec],
    results: &mut Vec<CellResult>,
    measure: &mut Measure<'_>,
    observer: &mut dyn Observer,
) -> Result<Outcome, Error> {
    for (index, cell) in cells.iter().enumerate() {
        if results.iter().any(|r| &r.cell == cell) {
            continue;
        }
        if observer.stop_requested() {
            return Ok(Outcome::Interrupted);
        }
        observer.cell_started(index, cell);
        let sent = Sent {
            rate: request_rate(cell, cells, results)?,
            requests: offline_requests(cell, results),
        };
        let begin = measure.clock.now();
        let measured = measure.cell(index, cell, sent, &mut |share, tokens| {
            observer.cell_progressed(share, tokens);
        })?;
        let kept = observer.cell_finished(&measured, &samples_since(measure, begin));
        results.push(measured.result);
        kept?;
    }
    Ok(match results.len() < cells.len() {
        true => Outcome::Interrupted,
        false => Outcome::Complete,
    })
}

fn samples_since(measure: &Measure<'_>, begin: Duration) -> Vec<GpuSample> {
    let sampler = measure.gpu.into_iter();
    sampler
        .flat_map(|s| s.samples(begin, measure.clock.now()))
        .collect()
}

/// Offline, everybody waits for all who are before them, so that latencies are comparable only where
/// equally many are: as many as in the first cell of the same work and batch size, whatever the
/// policy.
fn offline_requests(cell: &CellSpec, results: &[CellResult]) -> Option<usize> {
    let alike = |r: &&CellResult| {
        let other = &r.cell;
        other.load == LoadSpec::Offline
            && other.batch_size == cell.batch_size
            && other.same_work(cell)
    };
    let first = results.iter().filter(alike).min_by_key(|r| r.index);
    let first = first.filter(|_| cell.load == LoadSpec::Offline)?;
    first.runs.iter().map(|r| r.summary.requests).max()
}

/// The rate of an open load: as given, or a share of the request throughput that the closed loop
/// reached for the same work, at the load's reference batch size, in the first cell of that loop: so
/// every policy, window and padding faces the same load. Of a server, a share of the best.
fn request_rate(
    cell: &CellSpec,
    cells: &[CellSpec],
    results: &[CellResult],
) -> Result<Option<f64>, Error> {
    let (percent, of) = match cell.load {
        LoadSpec::Closed { .. } | LoadSpec::Offline => return Ok(None),
        LoadSpec::Poisson { rate, .. } => return Ok(Some(rate)),
        LoadSpec::Share { percent, of, .. } => (percent, of),
    };
    let closed = || {
        let closed = |c: &&CellSpec| matches!(c.load, LoadSpec::Closed { .. });
        let of_work = cells.iter().filter(closed);
        of_work.filter(|c| c.same_work(cell))
    };
    let reached = |c: &CellSpec| {
        let result = results.iter().find(|r| &r.cell == c)?;
        result.mean(|run| Some(run.summary.request_throughput))
    };
    let batch_size = match of {
        Reference::OwnBatch => cell.batch_size,
        Reference::LargestBatch => {
            let sizes = closed().map(|c| c.batch_size);
            sizes.max().unwrap_or(cell.batch_size)
        }
        Reference::Best => {
            let best = closed().max_by(|a, b| {
                let [a, b] = [a, b].map(|c| reached(c).unwrap_or_default());
                a.total_cmp(&b)
            });
            best.map_or(cell.batch_size, |c| c.batch_size)
        }
    };
    // Of several closed loops of that size: the premise's own, or the one with the most clients.
    let clients = |c: &&CellSpec| match (c.load, of) {
        (LoadSpec::Closed { concurrency }, Reference::OwnBatch) => {
            usize::from(concurrency == batch_size)
        }
        (LoadSpec::Closed { concurrency }, Reference::LargestBatch) => concurrency,
        _ => 0,
    };
    let reference = closed()
        .filter(|c| c.batch_size == batch_size)
        .rev()
        .max_by_key(clients)
        .and_then(reached)
        .filter(|&throughput| throughput > 0.0);
    let share = |throughput: f64| Some(throughput * percent / 100.0);
    reference.map(share).ok_or_else(|| {
        let size = CellSpec {
            batch_size,
            ..cell.clone()
        }
        .size();
        Error::Usage(format!(
            "no request of the closed loop ({size}) was completed, so there is no throughput to \
             take {percent} % of; raise --timeout-ms or give --request-rate"
        ))
    })
}
