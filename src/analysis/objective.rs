//! What can be wanted most of a setting, and how much of it a cell has.

use super::estimate::{Block, ENERGY, Estimate, LATENCY, Quantity, THROUGHPUT, rate};
use super::slo::Slo;
use crate::metrics::RequestTrace;
use crate::sweep::Measured;

/// What is wanted most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Objective {
    /// Output tokens per second.
    Throughput,
    /// Requests per second that keep every limit.
    Goodput,
    /// Least energy of an output token.
    Energy,
    /// Least mean latency.
    Latency,
}

impl Objective {
    /// Times this, less is better.
    pub(super) fn sign(self) -> f64 {
        match self {
            Self::Throughput | Self::Goodput => -1.0,
            Self::Energy | Self::Latency => 1.0,
        }
    }

    /// As it is wanted.
    pub(super) fn wanted(self) -> &'static str {
        match self {
            Self::Throughput => "higher throughput",
            Self::Goodput => "higher goodput",
            Self::Energy => "lower energy",
            Self::Latency => "lower mean latency",
        }
    }

    /// Its unit, after a number.
    pub fn unit(self) -> &'static str {
        match self {
            Self::Throughput => "tok/s",
            Self::Goodput => "req/s within the limits",
            Self::Energy => "J per output token",
            Self::Latency => "ms mean latency",
        }
    }

    pub(super) fn of(self, cell: &Measured, slos: &[Slo]) -> Option<Estimate> {
        match self {
            Self::Throughput => Estimate::of(cell, THROUGHPUT),
            Self::Energy => Estimate::of(cell, ENERGY),
            Self::Latency => Estimate::of(cell, LATENCY),
            Self::Goodput => goodput(cell, slos),
        }
    }
}

/// Requests per second that keep every limit. None where the requests are not there any more.
pub fn goodput(cell: &Measured, slos: &[Slo]) -> Option<Estimate> {
    let good = |r: &RequestTrace| r.is_complete() && slos.iter().all(|slo| slo.is_met_by(r));
    let mut of_runs = vec![0usize; cell.result.runs.len()];
    for request in cell.requests.iter().filter(|r| good(r)) {
        *of_runs.get_mut(request.run)? += 1;
    }
    if cell.requests.is_empty() {
        return None;
    }
    let runs = cell.result.runs.iter().zip(of_runs);
    let rates: Vec<f64> = runs
        .map(|(run, good)| good as f64 / run.summary.duration_s.max(f64::MIN_POSITIVE))
        .collect();
    match rates.as_slice() {
        [one] => Estimate::of(
            cell,
            Quantity {
                of_run: &|_| Some(*one),
                of_block: &|b: &Block<'_>| {
                    let good = b.requests.iter().filter(|r| good(r)).count();
                    rate(good as f64, b)
                },
            },
        ),
        _ => Estimate::of_values(rates),
    }
}
