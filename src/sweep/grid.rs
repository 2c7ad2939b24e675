//! The settings of a sweep and the cells they span.

use std::collections::HashSet;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::batching::{Dynamic, Policy, Static};
use crate::workload::Load;

const MOST_CELLS: usize = 10_000;
const LARGEST_BATCH: usize = 4096;
const LONGEST_WINDOW_MS: f64 = 600_000.0;
const HIGHEST_RATE: f64 = 1e6;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PolicyKind {
    Static,
    Dynamic,
}

impl fmt::Display for PolicyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Static => "static",
            Self::Dynamic => "dynamic",
        })
    }
}

/// What `--load` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LoadChoice {
    /// Each cell under a closed loop, then under a Poisson load of half its throughput.
    Day2 {
        burstiness: f64,
    },
    /// None: as many clients as the batch size.
    Closed {
        concurrency: Option<usize>,
    },
    Poisson {
        rate: f64,
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
    /// Poisson, at half the throughput that the closed loop is measured to reach.
    HalfOfClosed {
        burstiness: f64,
    },
    Offline,
}

impl LoadSpec {
    /// `rate` is the resolved one of an open load.
    pub(super) fn resolve(&self, rate: Option<f64>) -> Load {
        match *self {
            Self::Closed { concurrency } => Load::Closed { concurrency },
            Self::Poisson { burstiness, .. } | Self::HalfOfClosed { burstiness } => Load::Open {
                rate: rate.unwrap_or_default(),
                burstiness,
            },
            Self::Offline => Load::Offline,
        }
    }
}

impl fmt::Display for LoadSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed { concurrency: 1 } => f.write_str("closed loop, 1 client"),
            Self::Closed { concurrency } => write!(f, "closed loop, {concurrency} clients"),
            Self::Poisson { rate, .. } => write!(f, "Poisson, {rate} req/s"),
            Self::HalfOfClosed { .. } => f.write_str("Poisson, half of closed loop"),
            Self::Offline => f.write_str("offline"),
        }
    }
}

/// The axes of a sweep.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Grid {
    pub policies: Vec<PolicyKind>,
    pub batch_sizes: Vec<usize>,
    /// The wait windows of `dynamic`; `static` has none.
    pub windows_ms: Vec<f64>,
    /// `--preferred-batch-size`, for `dynamic`.
    pub preferred_batch_sizes: Vec<usize>,
    /// Labels of the prompts, and length mixes of the outputs.
    pub prompts: Vec<String>,
    pub output_lens: Vec<String>,
    pub load: LoadChoice,
}

/// One setting to measure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CellSpec {
    pub policy: PolicyKind,
    pub batch_size: usize,
    /// None for `static`, which does not watch the time.
    pub window_ms: Option<f64>,
    pub prompts: String,
    pub output_len: String,
    pub load: LoadSpec,
}

impl CellSpec {
    /// True for cells that must face the same arrivals to be compared.
    pub(super) fn shares_load_with(&self, other: &Self) -> bool {
        self.batch_size == other.batch_size
            && self.prompts == other.prompts
            && self.output_len == other.output_len
    }

    pub(super) fn policy(&self, preferred: &[usize]) -> Box<dyn Policy> {
        match self.policy {
            PolicyKind::Static => Box::new(Static {
                batch_size: self.batch_size,
            }),
            PolicyKind::Dynamic => Box::new(Dynamic {
                max_batch_size: self.batch_size,
                window: Duration::from_secs_f64(self.window_ms.unwrap_or_default() / 1e3),
                preferred_sizes: preferred
                    .iter()
                    .copied()
                    .filter(|&size| size < self.batch_size)
                    .collect(),
            }),
        }
    }
}

impl fmt::Display for CellSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} batch {}", self.policy, self.batch_size)?;
        if let Some(window) = self.window_ms {
            write!(f, " window {window} ms")?;
        }
        write!(f, ", {}", self.load)
    }
}

impl Grid {
    /// Refuses what cannot be measured, naming the option.
    pub fn validate(&self) -> Result<(), Error> {
        let usage = |message: String| Err(Error::Usage(message));
        not_empty("--policies", &self.policies, "static,dynamic")?;
        not_empty("--batch-sizes", &self.batch_sizes, "1,4,8")?;
        not_empty("--prompt", &self.prompts, "a text")?;
        not_empty("--output-len", &self.output_lens, "32")?;
        once("--policies", &self.policies)?;
        once("--batch-sizes", &self.batch_sizes)?;
        once("--prompt, --prompt-file and --input-len", &self.prompts)?;
        once("--output-len", &self.output_lens)?;
        for (option, sizes) in [
            ("--batch-sizes", &self.batch_sizes),
            ("--preferred-batch-size", &self.preferred_batch_sizes),
        ] {
            if let Some(size) = sizes.iter().find(|&&b| b == 0 || b > LARGEST_BATCH) {
                return usage(format!(
                    "{option}: {size} is not a batch size; use 1 to {LARGEST_BATCH}"
                ));
            }
        }
        for window in &self.windows_ms {
            if !(0.0..=LONGEST_WINDOW_MS).contains(window) {
                return usage(format!(
                    "--windows-ms: {window} is not a wait window; use 0 to {LONGEST_WINDOW_MS} ms"
                ));
            }
        }
        let windows: Vec<String> = self.windows_ms.iter().map(f64::to_string).collect();
        once("--windows-ms", &windows)?;
        if self.policies.contains(&PolicyKind::Dynamic) {
            not_empty("--windows-ms", &self.windows_ms, "0,10,50")?;
        }
        self.load.validate()?;
        match self.size() {
            Some(1..=MOST_CELLS) => Ok(()),
            size => usage(format!(
                "the grid has {} cells, the most is {MOST_CELLS}; shorten --batch-sizes, \
                 --windows-ms or --policies",
                size.map_or("too many".into(), |n| n.to_string())
            )),
        }
    }

    fn size(&self) -> Option<usize> {
        let settings = self
            .policies
            .iter()
            .map(|p| self.windows(*p).len())
            .sum::<usize>();
        let loads = match self.load {
            LoadChoice::Day2 { .. } => 2,
            _ => 1,
        };
        [
            self.batch_sizes.len(),
            self.prompts.len(),
            self.output_lens.len(),
            loads,
        ]
        .into_iter()
        .try_fold(settings, usize::checked_mul)
    }

    /// Ascending: the smallest window is the reference of the day2 load.
    fn windows(&self, policy: PolicyKind) -> Vec<Option<f64>> {
        match policy {
            PolicyKind::Static => vec![None],
            PolicyKind::Dynamic => {
                let mut windows = self.windows_ms.clone();
                windows.sort_by(f64::total_cmp);
                windows.into_iter().map(Some).collect()
            }
        }
    }

    /// Every cell, in the order of measuring.
    pub fn cells(&self) -> Vec<CellSpec> {
        let mut cells = Vec::new();
        for prompts in &self.prompts {
            for output_len in &self.output_lens {
                for &batch_size in &self.batch_sizes {
                    for load in self.load.of(batch_size) {
                        for &policy in &self.policies {
                            for window_ms in self.windows(policy) {
                                cells.push(CellSpec {
                                    policy,
                                    batch_size,
                                    window_ms,
                                    prompts: prompts.clone(),
                                    output_len: output_len.clone(),
                                    load,
                                });
                            }
                        }
                    }
                }
            }
        }
        cells
    }
}

impl LoadChoice {
    fn of(self, batch_size: usize) -> Vec<LoadSpec> {
        match self {
            Self::Day2 { burstiness } => vec![
                LoadSpec::Closed {
                    concurrency: batch_size,
                },
                LoadSpec::HalfOfClosed { burstiness },
            ],
            Self::Closed { concurrency } => vec![LoadSpec::Closed {
                concurrency: concurrency.unwrap_or(batch_size),
            }],
            Self::Poisson { rate, burstiness } => vec![LoadSpec::Poisson { rate, burstiness }],
            Self::Offline => vec![LoadSpec::Offline],
        }
    }

    fn validate(&self) -> Result<(), Error> {
        let positive = |option: &str, value: f64, most: f64| match value > 0.0 && value <= most {
            true => Ok(()),
            false => Err(Error::Usage(format!(
                "{option} is {value}; give a number above 0, at most {most}"
            ))),
        };
        match *self {
            Self::Poisson { rate, burstiness } => {
                positive("--request-rate", rate, HIGHEST_RATE)?;
                positive("--burstiness", burstiness, 1e3)
            }
            Self::Day2 { burstiness } => positive("--burstiness", burstiness, 1e3),
            Self::Closed {
                concurrency: Some(0),
            } => Err(Error::Usage(
                "--max-concurrency is 0; give at least one client".into(),
            )),
            Self::Closed { .. } | Self::Offline => Ok(()),
        }
    }
}

fn not_empty<T>(option: &str, list: &[T], example: &str) -> Result<(), Error> {
    match list.is_empty() {
        false => Ok(()),
        true => Err(Error::Usage(format!(
            "{option} is empty, so the grid has no cells; give {example}"
        ))),
    }
}

fn once<T: fmt::Display + Eq + std::hash::Hash>(option: &str, list: &[T]) -> Result<(), Error> {
    let mut seen = HashSet::new();
    match list.iter().find(|item| !seen.insert(*item)) {
        None => Ok(()),
        Some(twice) => Err(Error::Usage(format!(
            "{option} names '{twice}' twice; name it once"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day2() -> Grid {
        Grid {
            policies: vec![PolicyKind::Dynamic],
            batch_sizes: vec![1, 4, 8],
            windows_ms: vec![0.0, 10.0, 50.0],
            preferred_batch_sizes: vec![],
            prompts: vec!["p".into()],
            output_lens: vec!["32".into()],
            load: LoadChoice::Day2 { burstiness: 1.0 },
        }
    }

    #[test]
    fn day2_is_three_by_three_under_two_loads() {
        let grid = day2();
        grid.validate().unwrap();
        let cells = grid.cells();
        assert_eq!(cells.len(), 18);
        // Each batch size meets its closed loop before the load that is half of it.
        for batch in [1, 4, 8] {
            let of_batch: Vec<_> = cells.iter().filter(|c| c.batch_size == batch).collect();
            assert_eq!(of_batch[0].load, LoadSpec::Closed { concurrency: batch });
            assert_eq!(of_batch[0].window_ms, Some(0.0));
            assert_eq!(of_batch[3].load, LoadSpec::HalfOfClosed { burstiness: 1.0 });
        }
    }

    #[test]
    fn static_has_no_window_axis() {
        let grid = Grid {
            policies: vec![PolicyKind::Static, PolicyKind::Dynamic],
            load: LoadChoice::Offline,
            ..day2()
        };
        assert_eq!(grid.cells().len(), 3 * (1 + 3));
        let only_static = Grid {
            policies: vec![PolicyKind::Static],
            windows_ms: vec![],
            ..grid
        };
        only_static.validate().unwrap();
        assert!(only_static.cells().iter().all(|c| c.window_ms.is_none()));
    }

    #[test]
    fn each_impossible_grid_names_its_option() {
        let refused = |change: fn(&mut Grid)| {
            let mut grid = day2();
            change(&mut grid);
            match grid.validate() {
                Err(Error::Usage(message)) => message,
                other => panic!("{other:?}"),
            }
        };
        assert!(refused(|g| g.batch_sizes = vec![0]).starts_with("--batch-sizes: 0 "));
        assert!(refused(|g| g.batch_sizes = vec![]).contains("--batch-sizes is empty"));
        assert!(refused(|g| g.batch_sizes = vec![4, 4]).contains("'4' twice"));
        assert!(refused(|g| g.batch_sizes = vec![usize::MAX]).contains("--batch-sizes"));
        assert!(refused(|g| g.windows_ms = vec![]).contains("--windows-ms is empty"));
        assert!(refused(|g| g.windows_ms = vec![f64::NAN]).contains("NaN"));
        assert!(refused(|g| g.windows_ms = vec![-1.0]).contains("-1"));
        assert!(refused(|g| g.windows_ms = vec![f64::INFINITY]).contains("inf"));
        assert!(refused(|g| g.windows_ms = vec![1e9]).contains("--windows-ms"));
        assert!(refused(|g| g.policies = vec![]).contains("--policies"));
        assert!(refused(|g| g.output_lens = vec![]).contains("--output-len"));
        let absurd = |g: &mut Grid| {
            g.batch_sizes = (1..=200).collect();
            g.windows_ms = (0..200).map(f64::from).collect();
        };
        assert!(refused(absurd).contains("80000 cells"));
        let rate = |g: &mut Grid| {
            g.load = LoadChoice::Poisson {
                rate: f64::NAN,
                burstiness: 1.0,
            };
        };
        assert!(refused(rate).contains("--request-rate is NaN"));
        let clients = |g: &mut Grid| {
            g.load = LoadChoice::Closed {
                concurrency: Some(0),
            };
        };
        assert!(refused(clients).contains("--max-concurrency is 0"));
    }
}
