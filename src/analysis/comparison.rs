//! Two sweeps, cell by cell.

use super::estimate::{ENERGY, Estimate, LATENCY, Order, Quantity, THROUGHPUT};
use crate::sweep::{CellSpec, Measured};

/// A setting that both sweeps measured.
#[derive(Debug)]
pub struct ComparedCell<'a> {
    pub cell: &'a CellSpec,
    pub latency_ms: Pair,
    pub output_throughput: Pair,
    /// None where one of the two had no GPU.
    pub j_per_output_token: Option<Pair>,
}

/// One quantity in both.
#[derive(Debug, Clone, Copy)]
pub struct Pair {
    pub a: Estimate,
    pub b: Estimate,
}

impl Pair {
    fn of(a: &Measured, b: &Measured, quantity: Quantity<'_>) -> Option<Self> {
        Some(Self {
            a: Estimate::of(a, quantity)?,
            b: Estimate::of(b, quantity)?,
        })
    }

    /// b in times of a.
    pub fn ratio(&self) -> f64 {
        self.b.mean / self.a.mean
    }

    /// Where b lies, for sure.
    pub fn order(&self) -> Order {
        self.b.against(&self.a)
    }
}

/// The settings of both sweeps, in the order of the first, and how many each has for itself. Cells
/// without a completed request are among the latter.
#[derive(Debug)]
pub struct Comparison<'a> {
    pub both: Vec<ComparedCell<'a>>,
    /// In both, but under a share of a throughput that came out differently.
    pub other_rates: usize,
    pub only_a: usize,
    pub only_b: usize,
}

pub fn compare<'a>(a: &'a [Measured], b: &'a [Measured]) -> Comparison<'a> {
    let mut other_rates = 0;
    let both: Vec<ComparedCell<'_>> = a
        .iter()
        .filter_map(|a| {
            let cell = &a.result.cell;
            let b = b.iter().find(|b| &b.result.cell == cell)?;
            if !same_rate(a.result.request_rate, b.result.request_rate) {
                other_rates += 1;
                return None;
            }
            Some(ComparedCell {
                cell,
                latency_ms: Pair::of(a, b, LATENCY)?,
                output_throughput: Pair::of(a, b, THROUGHPUT)?,
                j_per_output_token: Pair::of(a, b, ENERGY),
            })
        })
        .collect();
    Comparison {
        only_a: a.len() - both.len() - other_rates,
        only_b: b.len() - both.len() - other_rates,
        other_rates,
        both,
    }
}

/// Open loads that differ by no more than this are the same.
const SAME_RATE: f64 = 0.01;

fn same_rate(a: Option<f64>, b: Option<f64>) -> bool {
    match a.zip(b) {
        Some((a, b)) => (a / b - 1.0).abs() <= SAME_RATE,
        None => a.is_none() && b.is_none(),
    }
}
