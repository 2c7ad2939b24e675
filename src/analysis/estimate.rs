//! How sure a measured mean is, and how sure a difference of two.

use std::fmt;

use crate::metrics::{Interval, RequestTrace, Statistics, t_half_width};
use crate::number::short;
use crate::sweep::{Measured, PolicyKind, RunResult};

const LEVEL: f64 = 0.95;
/// A single run is cut into at most this many blocks.
const BLOCKS: usize = 20;
/// Fewer blocks say too little about their spread.
const FEWEST_BLOCKS: usize = 3;
const FEWEST_REPEATS: usize = 2;

/// A mean, and its standard error where the data tell it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    pub mean: f64,
    pub error: Option<Error>,
}

/// Of a mean.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Error {
    pub standard: f64,
    /// Degrees of freedom.
    pub degrees: f64,
}

/// Requests of a run that followed one another.
#[derive(Debug)]
pub struct Block<'a> {
    pub requests: Vec<&'a RequestTrace>,
    /// From the end of the block before to the end of this one.
    pub seconds: f64,
}

/// What is estimated, of a whole run and of a block.
#[derive(Clone, Copy)]
pub struct Quantity<'a> {
    pub of_run: &'a dyn Fn(&RunResult) -> Option<f64>,
    pub of_block: &'a dyn Fn(&Block<'_>) -> Option<f64>,
}

impl Estimate {
    /// From repeats of a run, or, of a single run, from its blocks: the method of batch means (Law &
    /// Kelton, Simulation Modeling and Analysis, ch. 9). Blocks near saturation depend on one another,
    /// which makes the error of a single run too small there: repeats are better.
    /// None where a run does not know the quantity.
    pub fn of(cell: &Measured, quantity: Quantity<'_>) -> Option<Self> {
        let runs = &cell.result.runs;
        let values: Vec<f64> = runs.iter().map(quantity.of_run).collect::<Option<_>>()?;
        if values.len() == 1 {
            let blocks = blocks(cell);
            let of_blocks: Option<Vec<f64>> = blocks.iter().map(quantity.of_block).collect();
            return Some(Self {
                mean: values[0],
                error: of_blocks.and_then(|b| Error::of(b, FEWEST_BLOCKS)),
            });
        }
        Self::of_values(values)
    }

    /// From values that are independent of one another, at least two.
    pub fn of_values(values: Vec<f64>) -> Option<Self> {
        let mean = Statistics::of(values.clone(), &[])?.mean;
        Some(Self {
            mean,
            error: Error::of(values, FEWEST_REPEATS),
        })
    }

    /// The 95 % interval around the mean.
    pub fn half_width(&self) -> Option<f64> {
        let error = self.error?;
        t_half_width(error.standard, error.degrees, LEVEL)
    }

    /// `self − other` with its 95 % interval (Welch's t). None where an error is not known.
    pub fn minus(&self, other: &Self) -> Option<Interval> {
        let (a, b) = (self.error?, other.error?);
        let (va, vb) = (a.standard.powi(2), b.standard.powi(2));
        let mean = self.mean - other.mean;
        let variance = va + vb;
        if variance == 0.0 {
            return Some(Interval {
                mean,
                half_width: 0.0,
            });
        }
        let degrees = variance.powi(2) / (va.powi(2) / a.degrees + vb.powi(2) / b.degrees);
        Some(Interval {
            mean,
            half_width: t_half_width(variance.sqrt(), degrees, LEVEL)?,
        })
    }

    /// Whether it is above or below `other` for sure.
    pub fn against(&self, other: &Self) -> Order {
        match self.minus(other) {
            Some(d) if d.mean - d.half_width > 0.0 => Order::Above,
            Some(d) if d.mean + d.half_width < 0.0 => Order::Below,
            _ => Order::Unsure,
        }
    }
}

/// "45.2 ±0.8", or the mean alone.
impl fmt::Display for Estimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&short(Some(self.mean)))?;
        match self.half_width() {
            Some(half_width) => write!(f, " ±{}", short(Some(half_width))),
            None => Ok(()),
        }
    }
}

/// What an interval of a difference says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    Above,
    Below,
    /// The interval holds zero, or is not known.
    Unsure,
}

impl Error {
    fn of(values: Vec<f64>, fewest: usize) -> Option<Self> {
        let s = Statistics::of(values, &[]).filter(|s| s.n >= fewest)?;
        Some(Self {
            standard: s.std / (s.n as f64).sqrt(),
            degrees: (s.n - 1) as f64,
        })
    }
}

/// The requests of a single run in blocks of as many batches each, in order of time.
fn blocks(cell: &Measured) -> Vec<Block<'_>> {
    let batches = batches(cell);
    let count = batches.len().min(BLOCKS);
    let arrivals = cell.requests.iter().map(|r| r.arrival_ms);
    let mut begin = arrivals.fold(f64::INFINITY, f64::min);
    (0..count)
        .map(|i| {
            let part = batches.len() * i / count..batches.len() * (i + 1) / count;
            let requests = batches[part].concat();
            let ends = requests.iter().filter_map(|r| r.released_ms);
            let end = ends.fold(begin, f64::max);
            let seconds = (end - begin) / 1e3;
            begin = end;
            Block { requests, seconds }
        })
        .collect()
}

/// The requests that ran, in the order in which they left: whole batches, whose rows become free
/// together, or, where rows leave one by one, as many as a batch holds. Fewer that end almost together
/// would give their tokens in next to no time.
fn batches(cell: &Measured) -> Vec<Vec<&RequestTrace>> {
    let least = match cell.result.cell.policy {
        PolicyKind::Static | PolicyKind::Dynamic => 1,
        PolicyKind::Continuous | PolicyKind::Server => cell.result.cell.batch_size.max(1),
    };
    let released = |r: &RequestTrace| r.released_ms.unwrap_or(f64::NAN);
    let ran = cell.requests.iter().filter(|r| r.released_ms.is_some());
    let mut ran: Vec<&RequestTrace> = ran.collect();
    ran.sort_by(|a, b| released(a).total_cmp(&released(b)));
    let mut batches: Vec<Vec<&RequestTrace>> = Vec::new();
    for together in ran.chunk_by(|a, b| released(a) == released(b)) {
        match batches.last_mut() {
            Some(last) if last.len() < least => last.extend(together),
            _ => batches.push(together.to_vec()),
        }
    }
    // What is left over goes with the last that is full.
    if let Some(rest) = batches.pop_if(|last| last.len() < least)
        && let Some(last) = batches.last_mut()
    {
        last.extend(rest);
    }
    batches
}

/// Mean latency, arrival → last token, in ms.
pub const LATENCY: Quantity<'static> = Quantity {
    of_run: &|r| r.summary.e2el_ms.as_ref().map(|s| s.mean),
    of_block: &|b| mean(b.requests.iter().filter_map(|r| r.e2el_ms())),
};

/// Output tokens of completed requests per second.
pub const THROUGHPUT: Quantity<'static> = Quantity {
    of_run: &|r| Some(r.summary.output_throughput),
    of_block: &|b| {
        let complete = b.requests.iter().filter(|r| r.is_complete());
        rate(complete.map(|r| r.output_tokens as f64).sum(), b)
    },
};

/// Mean time from arrival to the first step, in ms.
pub const QUEUE: Quantity<'static> = Quantity {
    of_run: &|r| r.summary.queue_ms.as_ref().map(|s| s.mean),
    of_block: &|b| {
        let waits = b
            .requests
            .iter()
            .map(|r| Some(r.scheduled_ms? - r.arrival_ms));
        mean(waits.flatten())
    },
};

/// Rows of a request-level batch.
pub const BATCH_SIZE: Quantity<'static> = Quantity {
    of_run: &|r| r.summary.actual_batch_size,
    of_block: &|b| {
        let batches = b.requests.chunk_by(|x, y| x.batch == y.batch).count();
        (batches > 0).then(|| b.requests.len() as f64 / batches as f64)
    },
};

/// Energy of an output token, in joules; only repeats tell how sure it is.
pub const ENERGY: Quantity<'static> = Quantity {
    of_run: &|r| r.j_per_output_token,
    of_block: &|_| None,
};

/// `count` things in a block, per second.
pub fn rate(count: f64, block: &Block<'_>) -> Option<f64> {
    (block.seconds > 0.0).then(|| count / block.seconds)
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (count, sum) = values.fold((0usize, 0.0), |(n, sum), v| (n + 1, sum + v));
    (count > 0).then(|| sum / count as f64)
}
