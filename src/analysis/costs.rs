//! What padding wastes (day2 §3.3) and what waiting for the slowest row wastes (§4.3).

use super::estimate::{Estimate, LATENCY};
use super::lines::{Axis, lines};
use super::scaling::total_ms;
use crate::metrics::Interval;
use crate::scheduler::Padding;
use crate::sweep::{CellSpec, Measured, RunResult};

/// A padded cell beside the ragged cell that differs in nothing else. All of it per request, padded
/// minus ragged.
#[derive(Debug)]
pub struct PaddingCost<'a> {
    pub padded: &'a Measured,
    pub ragged: &'a Measured,
    /// Of the positions computed.
    pub waste_percent: f64,
    pub positions: f64,
    /// Time of all steps, shared among the requests.
    pub busy_ms: f64,
    /// Mean latency.
    pub latency_ms: f64,
    /// None where one of the two has no interval.
    pub latency_interval: Option<Interval>,
    /// None without a GPU.
    pub energy_j: Option<f64>,
}

/// Every pair of the sweep in which padding made a difference.
pub fn padding_costs(cells: &[Measured]) -> Vec<PaddingCost<'_>> {
    let pairs = lines(cells, Axis::Padding);
    pairs.iter().filter_map(|line| padding_cost(line)).collect()
}

fn padding_cost<'a>(line: &[&'a Measured]) -> Option<PaddingCost<'a>> {
    let of = |padding| {
        line.iter()
            .copied()
            .find(|c| c.result.cell.padding == padding)
    };
    let (padded, ragged) = (of(Padding::Padded)?, of(Padding::Ragged)?);
    let (a, b) = (
        Estimate::of(padded, LATENCY)?,
        Estimate::of(ragged, LATENCY)?,
    );
    let waste_percent = padded.result.mean(|r| r.summary.padding_waste_percent)?;
    let difference = |of: fn(&Measured) -> Option<f64>| Some(of(padded)? - of(ragged)?);
    Some(PaddingCost {
        waste_percent,
        positions: difference(positions)?,
        busy_ms: difference(busy_ms)?,
        latency_ms: a.mean - b.mean,
        latency_interval: a.minus(&b),
        energy_j: difference(energy_j),
        padded,
        ragged,
    })
    .filter(|cost| cost.waste_percent > 0.0)
}

/// Idle share of a batch whose rows end together.
const HARDLY_IDLE: f64 = 0.01;
/// Mean output lengths that differ by no more are the same.
const SAME_LENGTH: f64 = 0.1;

/// A cell whose rows end at different times, or one that shows how another policy avoids it.
#[derive(Debug)]
pub struct IdleCost<'a> {
    pub cell: &'a Measured,
    pub row_steps: usize,
    pub idle_row_steps: usize,
    /// The share of the decode time that idle rows took up, per completed request.
    pub idle_ms: f64,
    /// The cell that differs only in output lengths, which are all alike and the same on average; none
    /// where nothing idles.
    pub beside: Option<&'a Measured>,
}

impl IdleCost<'_> {
    pub fn percent(&self) -> f64 {
        100.0 * self.idle_row_steps as f64 / self.row_steps as f64
    }
}

/// Every cell with idle rows, and every cell that has none where another policy has some at the same
/// batch size, load and work.
pub fn idle_costs(cells: &[Measured]) -> Vec<IdleCost<'_>> {
    let families = lines(cells, Axis::OutputLen);
    let idling: Vec<&CellSpec> = cells
        .iter()
        .filter(|c| row_steps(c).1 > 0)
        .map(|c| &c.result.cell)
        .collect();
    let another_idles = |cell: &CellSpec| {
        idling.iter().any(|other| {
            other.policy != cell.policy
                && other.batch_size == cell.batch_size
                && other.load == cell.load
                && other.same_work(cell)
        })
    };
    cells
        .iter()
        .filter_map(|cell| {
            let (row_steps, idle_row_steps) = row_steps(cell);
            let idles = idle_row_steps > 0;
            let shown = idles || row_steps > 0 && another_idles(&cell.result.cell);
            let requests = completed(cell).filter(|_| shown)?;
            let family = families
                .iter()
                .find(|line| idles && line.iter().any(|c| std::ptr::eq(*c, cell)));
            let apart = |c: &Measured| (mean_output(c) / mean_output(cell) - 1.0).abs();
            let even = family.into_iter().flatten().copied();
            let even = even.filter(|c| idle_share(c) <= HARDLY_IDLE && apart(c) <= SAME_LENGTH);
            Some(IdleCost {
                row_steps,
                idle_row_steps,
                idle_ms: idle_share(cell) * total_ms(cell, false) / requests,
                beside: even.min_by(|a, b| apart(a).total_cmp(&apart(b))),
                cell,
            })
        })
        .collect()
}

fn row_steps(cell: &Measured) -> (usize, usize) {
    let runs = cell.result.runs.iter().map(|r| &r.summary);
    let executed = runs.filter_map(|s| s.executed.as_ref());
    executed.fold((0, 0), |(all, idle), e| {
        (all + e.row_steps, idle + e.idle_row_steps)
    })
}

fn idle_share(cell: &Measured) -> f64 {
    let (all, idle) = row_steps(cell);
    idle as f64 / all.max(1) as f64
}

/// Tokens of a completed request.
fn mean_output(cell: &Measured) -> f64 {
    let tokens: usize = cell
        .result
        .runs
        .iter()
        .map(|r| r.summary.output_tokens)
        .sum();
    tokens as f64 / completed(cell).unwrap_or(1.0)
}

fn completed(cell: &Measured) -> Option<f64> {
    let count: usize = cell.result.runs.iter().map(|r| r.summary.completed).sum();
    (count > 0).then_some(count as f64)
}

fn positions(cell: &Measured) -> Option<f64> {
    let of_run = |r: &RunResult| Some(r.summary.executed.as_ref()?.positions);
    let sum: Option<usize> = cell.result.runs.iter().map(of_run).sum();
    Some(sum? as f64 / completed(cell)?)
}

fn busy_ms(cell: &Measured) -> Option<f64> {
    Some((total_ms(cell, true) + total_ms(cell, false)) / completed(cell)?)
}

fn energy_j(cell: &Measured) -> Option<f64> {
    let runs = cell.result.runs.iter();
    let energies: Option<f64> = runs.map(|r| r.gpu.as_ref().and_then(|g| g.energy_j)).sum();
    Some(energies? / completed(cell)?)
}
