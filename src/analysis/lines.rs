//! Cells that differ in one thing only, so that a difference between them has one cause.

use std::collections::{HashMap, HashSet};

use crate::scheduler::Padding;
use crate::sweep::{CellSpec, LoadSpec, Measured, PolicyKind};

/// The axis along which cells of a line differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Axis {
    /// Under closed loops whose clients are as many as the batch size, these differ along with it.
    BatchSize,
    Window,
    /// `static` beside every window of `dynamic` and of `continuous`.
    Policy,
    Padding,
    OutputLen,
    /// Open loads only.
    Load,
}

/// Groups of at least two cells that are equal but for `axis`, each in the order of the sweep.
pub fn lines(cells: &[Measured], axis: Axis) -> Vec<Vec<&Measured>> {
    let premise = Premise::of(cells);
    let mut groups: Vec<Vec<&Measured>> = Vec::new();
    let mut known: HashMap<String, usize> = HashMap::new();
    for cell in cells {
        if axis == Axis::Load && !cell.result.cell.load.is_open() {
            continue;
        }
        let key = format!("{:?}", blanked(&cell.result.cell, axis, &premise));
        let group = *known.entry(key).or_insert_with(|| {
            groups.push(Vec::new());
            groups.len() - 1
        });
        groups[group].push(cell);
    }
    groups.retain(|group| group.len() > 1);
    groups
}

/// The setting with one axis made the same for all.
fn blanked(cell: &CellSpec, axis: Axis, premise: &Premise) -> CellSpec {
    let mut cell = cell.clone();
    match axis {
        Axis::BatchSize => {
            if premise.holds_for(&cell) {
                cell.load = LoadSpec::Closed { concurrency: 0 };
            }
            cell.batch_size = 0;
        }
        Axis::Window => cell.window_ms = None,
        Axis::Policy => {
            cell.policy = PolicyKind::Static;
            cell.window_ms = None;
        }
        Axis::Padding => cell.padding = Padding::Padded,
        Axis::OutputLen => cell.output_len.clear(),
        Axis::Load => cell.load = LoadSpec::Offline,
    }
    cell
}

/// day2's premise: closed loops with as many clients as the batch size. A number of clients that
/// several batch sizes share was given for all of them, also for the one that it equals. A server's
/// closed loops hold to it by definition.
pub struct Premise {
    shared: HashSet<(String, String, usize)>,
}

impl Premise {
    pub fn of(cells: &[Measured]) -> Self {
        let mut sizes: HashMap<(String, String, usize), usize> = HashMap::new();
        let mut shared = HashSet::new();
        for cell in cells.iter().map(|c| &c.result.cell) {
            if let Some(clients) = clients(cell)
                && *sizes.entry(clients.clone()).or_insert(cell.batch_size) != cell.batch_size
            {
                shared.insert(clients);
            }
        }
        Self { shared }
    }

    pub fn holds_for(&self, cell: &CellSpec) -> bool {
        let own = |(.., concurrency): &(_, _, usize)| *concurrency == cell.batch_size;
        clients(cell).is_some_and(|clients| own(&clients) && !self.shared.contains(&clients))
    }

    /// The loads for which it holds, in words.
    pub fn name(cell: &CellSpec) -> &'static str {
        match cell.policy {
            PolicyKind::Server => "closed loop",
            _ => "closed loop, as many clients as the batch size",
        }
    }
}

/// The work of a closed loop and its clients.
fn clients(cell: &CellSpec) -> Option<(String, String, usize)> {
    match cell.load {
        LoadSpec::Closed { concurrency } => {
            Some((cell.prompts.clone(), cell.output_len.clone(), concurrency))
        }
        _ => None,
    }
}

/// The line that shows best what the batch size does: closed loops under day2's premise, else closed
/// loops, else anything; of these the one with the most sizes, the first of equals. Ascending, at
/// least two sizes.
pub fn batch_ladder(cells: &[Measured]) -> Option<Vec<&Measured>> {
    let premise = Premise::of(cells);
    let rank = |line: &[&Measured]| {
        let cell = &line[0].result.cell;
        match cell.load {
            LoadSpec::Closed { .. } if premise.holds_for(cell) => 2,
            LoadSpec::Closed { .. } => 1,
            _ => 0,
        }
    };
    let best = lines(cells, Axis::BatchSize)
        .into_iter()
        .rev()
        .max_by_key(|line| (rank(line), line.len()));
    best.map(|mut line| {
        line.sort_by_key(|c| c.result.cell.batch_size);
        line
    })
}
