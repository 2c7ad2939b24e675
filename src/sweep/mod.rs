//! Measuring a grid of settings, one cell after another, on one runner.

mod cell;
mod grid;
mod resume;

pub use cell::{
    CellResult, Measure, MeasureOptions, Prompts, RunMetric, RunResult, WITH_CONFIDENCE, Workload,
};
pub use grid::{CellSpec, Grid, LoadChoice, LoadSpec, PolicyKind};
pub use resume::{differences, read_cells};

use std::time::Duration;

use crate::Error;
use crate::telemetry::GpuSample;

/// Sees a sweep as it goes on.
pub trait Observer {
    fn cell_started(&mut self, index: usize, cell: &CellSpec);
    /// The share (0 to 1) of the cell that is done, and its output tokens per second so far.
    fn cell_progressed(&mut self, share: f64, output_throughput: f64);
    /// Keeps a result on disk before the next cell begins; an error ends the sweep.
    fn cell_finished(
        &mut self,
        index: usize,
        result: &CellResult,
        samples: &[GpuSample],
    ) -> Result<(), Error>;
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
        let rate = request_rate(cell, cells, results)?;
        let begin = measure.clock.now();
        let result = measure.cell(cell, rate, &mut |share, tokens| {
            observer.cell_progressed(share, tokens);
        })?;
        let kept = observer.cell_finished(index, &result, &samples_since(measure, begin));
        results.push(result);
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

/// The rate of an open load: as given, or half of the request throughput that the closed loop
/// reached for this batch size and workload at the first policy's smallest window, so that every
/// policy and window of a batch size faces the same load.
fn request_rate(
    cell: &CellSpec,
    cells: &[CellSpec],
    results: &[CellResult],
) -> Result<Option<f64>, Error> {
    match cell.load {
        LoadSpec::Closed { .. } | LoadSpec::Offline => Ok(None),
        LoadSpec::Poisson { rate, .. } => Ok(Some(rate)),
        LoadSpec::HalfOfClosed { .. } => {
            let mut closed = cells
                .iter()
                .filter(|c| matches!(c.load, LoadSpec::Closed { .. }) && c.shares_load_with(cell));
            let reference = closed
                .next()
                .and_then(|c| results.iter().find(|r| &r.cell == c))
                .and_then(|r| r.mean(|run| Some(run.summary.request_throughput)))
                .filter(|&throughput| throughput > 0.0);
            reference.map(|r| Some(r / 2.0)).ok_or_else(|| {
                Error::Usage(format!(
                    "no request of the closed loop at batch size {} was completed, so there is no \
                     throughput to halve; raise --timeout-ms or give --request-rate",
                    cell.batch_size
                ))
            })
        }
    }
}
