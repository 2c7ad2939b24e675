//! Latency and throughput against the batch size, a line for each policy and window (day2 §5.3).

use super::super::figure::{Figure, Figures, NumberTable};
use super::{MOST_FIGURES, MOST_SERIES, mean_and_half};
use crate::analysis::{
    Analysis, Axis as CellAxis, Estimate, LATENCY, Premise, Quantity, THROUGHPUT, lines,
};
use crate::report::chart::{Axis, Lines, Scale, Series, SeriesPoint};
use crate::sweep::{CellSpec, LoadSpec, Measured, PolicyKind, Reference};

struct Wanted {
    name: &'static str,
    title: &'static str,
    unit: &'static str,
    quantity: Quantity<'static>,
}

const WANTED: [Wanted; 2] = [
    Wanted {
        name: "latency",
        title: "Latency",
        unit: "mean latency [ms]",
        quantity: LATENCY,
    },
    Wanted {
        name: "throughput",
        title: "Throughput",
        unit: "output tokens per second",
        quantity: THROUGHPUT,
    },
];

pub fn draw(analysis: &Analysis<'_>) -> Result<Figures, super::ChartError> {
    let mut families: Vec<(String, Vec<Vec<&Measured>>)> = Vec::new();
    let premise = Premise::of(analysis.cells);
    for line in lines(analysis.cells, CellAxis::BatchSize) {
        let Some(name) = family(&line[0].result.cell, &premise) else {
            continue;
        };
        match families.iter_mut().find(|(n, _)| *n == name) {
            Some((_, lines)) => lines.push(line),
            None => families.push((name, vec![line])),
        }
    }
    let mut wanted = Vec::new();
    for (index, (name, lines)) in families.iter().enumerate() {
        wanted.extend(WANTED.iter().map(|w| (index, name, lines, w)));
    }
    Figures::of(&wanted, MOST_FIGURES, |_, (index, name, lines, wanted)| {
        figure(*index, name, lines, wanted)
    })
}

/// Kind of load and work. None where the offered load is the axis to look along.
fn family(cell: &CellSpec, premise: &Premise) -> Option<String> {
    let load = match cell.load {
        LoadSpec::Closed { .. } if premise.holds_for(cell) => Premise::name(cell).into(),
        LoadSpec::Share {
            of: Reference::LargestBatch,
            ..
        } => return None,
        load => load.to_string(),
    };
    Some(format!(
        "{load}; output {} tokens; prompt: {}",
        cell.output_len, cell.prompts
    ))
}

fn figure(
    index: usize,
    family: &str,
    lines: &[Vec<&Measured>],
    wanted: &Wanted,
) -> Result<Figure, super::ChartError> {
    let shown = &lines[..lines.len().min(MOST_SERIES)];
    let mut rows = Vec::new();
    let mut series = Vec::new();
    for line in shown {
        let mut points = Vec::new();
        for cell in line {
            let Some(estimate) = Estimate::of(cell, wanted.quantity) else {
                continue;
            };
            let [mean, half] = mean_and_half(&estimate);
            rows.push([cell.result.cell.to_string(), mean, half]);
            points.push(SeriesPoint {
                x: cell.result.cell.batch_size as f64,
                y: estimate.mean,
                half: estimate.half_width(),
            });
        }
        series.push(Series {
            name: line[0].result.cell.setting(),
            points,
        });
    }
    let left_out = lines.len() - shown.len();
    let note = match left_out {
        0 => String::new(),
        n => format!(" {n} more lines are in summary.csv."),
    };
    let load = family.split("; ").next().unwrap_or(family);
    let axis = match lines[0][0].result.cell.policy {
        PolicyKind::Server => "clients",
        _ => "batch size",
    };
    let chart = Lines {
        title: format!("{} against {axis}: {load}", wanted.title),
        x: Axis {
            title: axis.into(),
            scale: Scale::Ordinal,
        },
        y: Axis {
            title: wanted.unit.into(),
            scale: Scale::FromZero,
        },
        series,
        references: Vec::new(),
    };
    Ok(Figure {
        name: format!("{}-by-batch-{}", wanted.name, index + 1),
        caption: format!("{family}.{note}"),
        picture: chart.picture()?,
        table: NumberTable::new(["setting", wanted.unit, "±"], rows),
    })
}
