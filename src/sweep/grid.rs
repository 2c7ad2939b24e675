//! The settings of a sweep and the cells they span.

use std::collections::HashSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::{CellSpec, LoadChoice, LoadSpec, PolicyKind};
use crate::Error;
use crate::scheduler::Padding;

const MOST_CELLS: usize = 10_000;
const LARGEST_BATCH: usize = 4096;
const LONGEST_WINDOW_MS: f64 = 600_000.0;

/// The axes of a sweep.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Grid {
    pub policies: Vec<PolicyKind>,
    /// Of a server: the clients of its closed loops.
    pub batch_sizes: Vec<usize>,
    /// The wait windows of `dynamic`; `static` has none.
    pub windows_ms: Vec<f64>,
    /// Those of `continuous`, for prefills; empty: one cell that holds nothing back.
    pub prefill_windows_ms: Vec<f64>,
    /// Of request-level batches; `continuous` has none.
    pub paddings: Vec<Padding>,
    /// Labels of the prompts, and length mixes of the outputs.
    pub prompts: Vec<String>,
    pub output_lens: Vec<String>,
    pub load: LoadChoice,
}

impl Grid {
    /// Refuses what cannot be measured, naming the option.
    pub fn validate(&self) -> Result<(), Error> {
        let usage = |message: String| Err(Error::Usage(message));
        let sizes = match self.policies.contains(&PolicyKind::Server) {
            true => "--max-concurrency",
            false => "--batch-sizes",
        };
        not_empty("--policies", &self.policies, "static,continuous")?;
        not_empty(sizes, &self.batch_sizes, "1,4,8")?;
        not_empty("--prompt", &self.prompts, "a text")?;
        not_empty("--output-len", &self.output_lens, "32")?;
        not_empty("--padding", &self.paddings, "padded")?;
        once("--policies", &self.policies)?;
        once(sizes, &self.batch_sizes)?;
        once("--prompt, --prompt-file and --input-len", &self.prompts)?;
        once("--output-len", &self.output_lens)?;
        once("--padding", &self.paddings)?;
        batch_sizes(sizes, &self.batch_sizes)?;
        windows("--windows-ms", &self.windows_ms)?;
        windows("--prefill-windows-ms", &self.prefill_windows_ms)?;
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
            .map(|&p| self.windows(p).len() * self.paddings(p).len())
            .sum::<usize>();
        [
            self.batch_sizes.len(),
            self.prompts.len(),
            self.output_lens.len(),
            self.load.count(),
        ]
        .into_iter()
        .try_fold(settings, usize::checked_mul)
    }

    /// Ascending: the first cell of a closed loop is the reference of its shares.
    fn windows(&self, policy: PolicyKind) -> Vec<Option<f64>> {
        let mut windows = match policy {
            PolicyKind::Continuous if !self.prefill_windows_ms.is_empty() => {
                self.prefill_windows_ms.clone()
            }
            PolicyKind::Static | PolicyKind::Continuous | PolicyKind::Server => return vec![None],
            PolicyKind::Dynamic => self.windows_ms.clone(),
        };
        windows.sort_by(f64::total_cmp);
        windows.into_iter().map(Some).collect()
    }

    fn paddings(&self, policy: PolicyKind) -> &[Padding] {
        match policy {
            PolicyKind::Static | PolicyKind::Dynamic => &self.paddings,
            PolicyKind::Continuous | PolicyKind::Server => &[Padding::Ragged],
        }
    }

    /// Every cell, in the order of measuring: load by load, so that every closed loop comes before
    /// its shares.
    pub fn cells(&self) -> Vec<CellSpec> {
        let mut cells = Vec::new();
        for prompts in &self.prompts {
            for output_len in &self.output_lens {
                let work = Work {
                    prompts,
                    output_len,
                };
                for load in 0..self.load.count() {
                    for &batch_size in &self.batch_sizes {
                        self.settings(
                            &work,
                            self.load.of(batch_size)[load],
                            batch_size,
                            &mut cells,
                        );
                    }
                }
            }
        }
        cells
    }

    fn settings(
        &self,
        work: &Work<'_>,
        load: LoadSpec,
        batch_size: usize,
        cells: &mut Vec<CellSpec>,
    ) {
        for &policy in &self.policies {
            for window_ms in self.windows(policy) {
                for &padding in self.paddings(policy) {
                    let cell = CellSpec {
                        policy,
                        batch_size,
                        window_ms,
                        padding,
                        prompts: work.prompts.into(),
                        output_len: work.output_len.into(),
                        load,
                    };
                    match policy {
                        PolicyKind::Server => add_load(cell, cells),
                        _ => cells.push(cell),
                    }
                }
            }
        }
    }
}

/// A server knows no batch sizes: a load that is no closed loop stands there once.
fn add_load(mut cell: CellSpec, cells: &mut Vec<CellSpec>) {
    if !matches!(cell.load, LoadSpec::Closed { .. }) {
        cell.batch_size = 0;
    }
    if !cells.contains(&cell) {
        cells.push(cell);
    }
}

struct Work<'a> {
    prompts: &'a str,
    output_len: &'a str,
}

/// The cells of several grids, each once.
pub fn all_cells(grids: &[Grid]) -> Vec<CellSpec> {
    let mut cells: Vec<CellSpec> = Vec::new();
    for grid in grids {
        // A grid's own cells all differ.
        let earlier = cells.len();
        for cell in grid.cells() {
            if !cells[..earlier].contains(&cell) {
                cells.push(cell);
            }
        }
    }
    cells
}

/// Refuses what is no batch size.
pub(super) fn batch_sizes(option: &str, sizes: &[usize]) -> Result<(), Error> {
    match sizes.iter().find(|&&b| b == 0 || b > LARGEST_BATCH) {
        None => Ok(()),
        Some(size) => Err(Error::Usage(format!(
            "{option}: {size} is not a batch size; use 1 to {LARGEST_BATCH}"
        ))),
    }
}

/// Refuses what is no wait window, and one that is named twice.
fn windows(option: &str, windows_ms: &[f64]) -> Result<(), Error> {
    let wrong = |ms: &&f64| !(0.0..=LONGEST_WINDOW_MS).contains(*ms);
    if let Some(ms) = windows_ms.iter().find(wrong) {
        return Err(Error::Usage(format!(
            "{option}: {ms} is not a wait window; use 0 to {LONGEST_WINDOW_MS} ms"
        )));
    }
    let windows: Vec<String> = windows_ms.iter().map(f64::to_string).collect();
    once(option, &windows)
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
    use crate::sweep::Reference;

    fn day2() -> Grid {
        Grid {
            policies: vec![PolicyKind::Dynamic],
            batch_sizes: vec![1, 4, 8],
            windows_ms: vec![0.0, 10.0, 50.0],
            prefill_windows_ms: vec![],
            paddings: vec![Padding::Padded],
            prompts: vec!["p".into()],
            output_lens: vec!["32".into()],
            load: LoadChoice::day2(1.0),
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
            assert_eq!(
                of_batch[3].load,
                LoadSpec::Share {
                    percent: 50.0,
                    of: Reference::OwnBatch,
                    burstiness: 1.0,
                }
            );
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
    fn continuous_is_ragged_and_has_windows_only_where_asked() {
        let grid = |prefill_windows_ms: Vec<f64>| Grid {
            policies: vec![PolicyKind::Continuous],
            windows_ms: vec![],
            prefill_windows_ms,
            paddings: vec![Padding::Padded, Padding::Ragged],
            load: LoadChoice::Offline,
            ..day2()
        };
        let windows = |grid: Grid| {
            grid.validate().unwrap();
            let cells = grid.cells();
            assert!(cells.iter().all(|c| c.padding == Padding::Ragged));
            let of_size = cells.iter().filter(|c| c.batch_size == 4);
            of_size.map(|c| c.window_ms).collect::<Vec<_>>()
        };
        assert_eq!(windows(grid(vec![])), [None]);
        assert_eq!(windows(grid(vec![20.0, 0.0])), [Some(0.0), Some(20.0)]);
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
        let prefills = |g: &mut Grid| g.prefill_windows_ms = vec![-1.0];
        assert!(refused(prefills).contains("--prefill-windows-ms: -1"));
        assert!(refused(|g| g.policies = vec![]).contains("--policies"));
        assert!(refused(|g| g.output_lens = vec![]).contains("--output-len"));
        let absurd = |g: &mut Grid| {
            g.batch_sizes = (1..=200).collect();
            g.windows_ms = (0..200).map(f64::from).collect();
        };
        assert!(refused(absurd).contains("80000 cells"));
        let rate = |g: &mut Grid| {
            g.load = LoadChoice::Poisson {
                rates: vec![1.0, f64::NAN],
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
