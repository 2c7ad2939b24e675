//! Latency against throughput (day2 §2.2).

use super::frontier::{Point, knee, pareto};
use super::lines::Premise;
use crate::sweep::{CellSpec, LoadSpec, Measured};

/// The cells of one kind of work under one kind of load.
#[derive(Debug)]
pub struct TradeOff<'a> {
    /// The kind of load, in words.
    pub load: String,
    /// Open loads of all rates stand together: there a point is a setting under a load, and a setting
    /// that was sent less is no worse for it.
    pub open: bool,
    pub prompts: &'a str,
    pub output_len: &'a str,
    /// Cells with a completed request.
    pub cells: Vec<&'a Measured>,
    /// Of each cell: output tok/s, and mean latency in ms.
    pub points: Vec<Point>,
    /// Indices of `cells`, by ascending throughput.
    pub frontier: Vec<usize>,
    pub knee: Option<usize>,
}

/// One for each kind of load and work, in the order of the sweep.
pub fn trade_offs(cells: &[Measured]) -> Vec<TradeOff<'_>> {
    let premise = Premise::of(cells);
    let mut all: Vec<TradeOff<'_>> = Vec::new();
    for measured in cells {
        let Some(point) = point(measured) else {
            continue;
        };
        let cell = &measured.result.cell;
        let load = load(cell, &premise);
        let same = |t: &TradeOff<'_>| {
            t.load == load && t.prompts == cell.prompts && t.output_len == cell.output_len
        };
        let at = all.iter().position(same).unwrap_or_else(|| {
            all.push(TradeOff {
                load,
                open: cell.load.is_open(),
                prompts: &cell.prompts,
                output_len: &cell.output_len,
                cells: Vec::new(),
                points: Vec::new(),
                frontier: Vec::new(),
                knee: None,
            });
            all.len() - 1
        });
        all[at].cells.push(measured);
        all[at].points.push(point);
    }
    for t in &mut all {
        t.frontier = pareto(&t.points);
        t.knee = knee(&t.points, &t.frontier);
    }
    all
}

fn point(cell: &Measured) -> Option<Point> {
    Some(Point {
        throughput: cell.result.mean(|r| Some(r.summary.output_throughput))?,
        latency: cell
            .result
            .mean(|r| Some(r.summary.e2el_ms.as_ref()?.mean))?,
    })
}

fn load(cell: &CellSpec, premise: &Premise) -> String {
    match cell.load {
        LoadSpec::Closed { .. } if premise.holds_for(cell) => Premise::name(cell).into(),
        LoadSpec::Closed { .. } | LoadSpec::Offline => cell.load.to_string(),
        LoadSpec::Poisson { .. } | LoadSpec::Share { .. } => "Poisson arrivals".into(),
    }
}
