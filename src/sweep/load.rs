//! The loads that cells are put under.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::workload::Load;

const HIGHEST_RATE: f64 = 1e6;

/// The closed loop whose request throughput an open load is a share of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reference {
    /// At the cell's own batch size.
    OwnBatch,
    /// At the largest batch size, so that cells of all batch sizes face the same arrivals.
    LargestBatch,
    /// The one that reached most: what a server can do.
    Best,
}

/// What `--load` asks for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LoadChoice {
    /// A closed loop, then Poisson arrivals at each of `percents` of its request throughput.
    Shares {
        /// None: as many clients as the batch size.
        concurrency: Option<usize>,
        percents: Vec<f64>,
        of: Reference,
        burstiness: f64,
    },
    /// None: as many clients as the batch size.
    Closed {
        concurrency: Option<usize>,
    },
    Poisson {
        rates: Vec<f64>,
        burstiness: f64,
    },
    Offline,
}

/// The load of one cell.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LoadSpec {
    Closed {
        concurrency: usize,
    },
    Poisson {
        rate: f64,
        burstiness: f64,
    },
    /// Poisson, at a share of the throughput that a closed loop is measured to reach.
    Share {
        percent: f64,
        of: Reference,
        burstiness: f64,
    },
    Offline,
}

impl LoadSpec {
    /// `rate` is the resolved one of an open load.
    pub(super) fn resolve(&self, rate: Option<f64>) -> Load {
        match *self {
            Self::Closed { concurrency } => Load::Closed { concurrency },
            Self::Poisson { burstiness, .. } | Self::Share { burstiness, .. } => Load::Open {
                rate: rate.unwrap_or_default(),
                burstiness,
            },
            Self::Offline => Load::Offline,
        }
    }

    /// Arrivals do not wait for completions.
    pub fn is_open(&self) -> bool {
        matches!(self, Self::Poisson { .. } | Self::Share { .. })
    }
}

impl fmt::Display for LoadSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed { concurrency: 1 } => f.write_str("closed loop, 1 client"),
            Self::Closed { concurrency } => write!(f, "closed loop, {concurrency} clients"),
            Self::Poisson { rate, .. } => write!(f, "Poisson, {rate} req/s"),
            Self::Share {
                percent,
                of: Reference::OwnBatch,
                ..
            } => write!(f, "Poisson, {percent} % of closed loop"),
            Self::Share { percent, .. } => write!(f, "Poisson, {percent} % of capacity"),
            Self::Offline => f.write_str("offline"),
        }
    }
}

impl LoadChoice {
    /// day2's premise: as many clients as the batch size, then half of the throughput they reach.
    pub fn day2(burstiness: f64) -> Self {
        Self::Shares {
            concurrency: None,
            percents: vec![50.0],
            of: Reference::OwnBatch,
            burstiness,
        }
    }

    /// Every setting under the same loads: a closed loop with enough clients for a full batch to
    /// wait behind a running one, then Poisson from little to more than the largest batch serves.
    pub fn saturation(batch_sizes: &[usize], burstiness: f64) -> Self {
        Self::Shares {
            concurrency: batch_sizes.iter().max().map(|largest| 2 * largest),
            percents: vec![10.0, 25.0, 50.0, 75.0, 90.0, 110.0],
            of: Reference::LargestBatch,
            burstiness,
        }
    }

    /// Of a server: closed loops, then Poisson from little to more than the best of them served.
    pub fn server(burstiness: f64) -> Self {
        Self::Shares {
            concurrency: None,
            percents: vec![25.0, 50.0, 75.0, 90.0, 110.0],
            of: Reference::Best,
            burstiness,
        }
    }

    /// Loads per batch size.
    pub(super) fn count(&self) -> usize {
        match self {
            Self::Shares { percents, .. } => 1 + percents.len(),
            Self::Poisson { rates, .. } => rates.len(),
            Self::Closed { .. } | Self::Offline => 1,
        }
    }

    /// The loads of a batch size, in the order of measuring: a reference before its shares.
    pub(super) fn of(&self, batch_size: usize) -> Vec<LoadSpec> {
        let closed = |concurrency: Option<usize>| LoadSpec::Closed {
            concurrency: concurrency.unwrap_or(batch_size),
        };
        match *self {
            Self::Shares {
                concurrency,
                ref percents,
                of,
                burstiness,
            } => {
                let shares = percents.iter().map(|&percent| LoadSpec::Share {
                    percent,
                    of,
                    burstiness,
                });
                std::iter::once(closed(concurrency)).chain(shares).collect()
            }
            Self::Closed { concurrency } => vec![closed(concurrency)],
            Self::Poisson {
                ref rates,
                burstiness,
            } => rates
                .iter()
                .map(|&rate| LoadSpec::Poisson { rate, burstiness })
                .collect(),
            Self::Offline => vec![LoadSpec::Offline],
        }
    }

    pub(super) fn validate(&self) -> Result<(), Error> {
        let positive = |option: &str, value: f64, most: f64| match value > 0.0 && value <= most {
            true => Ok(()),
            false => Err(Error::Usage(format!(
                "{option} is {value}; give a number above 0, at most {most}"
            ))),
        };
        match self {
            Self::Poisson { rates, burstiness } => {
                for &rate in rates {
                    positive("--request-rate", rate, HIGHEST_RATE)?;
                }
                positive("--burstiness", *burstiness, 1e3)?;
            }
            Self::Shares { burstiness, .. } => positive("--burstiness", *burstiness, 1e3)?,
            Self::Closed { .. } | Self::Offline => {}
        }
        match self {
            Self::Shares {
                concurrency: Some(0),
                ..
            }
            | Self::Closed {
                concurrency: Some(0),
            } => Err(Error::Usage(
                "--max-concurrency is 0; give at least one client".into(),
            )),
            _ => Ok(()),
        }
    }
}
