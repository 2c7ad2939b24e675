//! Latency against throughput with the frontier and its knee (day2 §2.2).

use super::super::figure::{Figure, Figures, NumberTable};
use super::MOST_FIGURES;
use crate::analysis::{Analysis, Estimate, LATENCY, Quantity, THROUGHPUT, TradeOff};
use crate::number::short;
use crate::report::chart::{Axis, Frontier, Group, Knee, Mark, Scale, Scatter};
use crate::scheduler::Padding;
use crate::sweep::{CellSpec, Measured, PolicyKind};

pub fn draw(analysis: &Analysis<'_>) -> Result<Figures, super::ChartError> {
    let with_choice = analysis.trade_offs.iter().filter(|t| t.cells.len() > 1);
    let with_choice: Vec<&TradeOff<'_>> = with_choice.collect();
    Figures::of(&with_choice, MOST_FIGURES, |i, t| figure(i, t))
}

fn figure(index: usize, t: &TradeOff<'_>) -> Result<Figure, super::ChartError> {
    let mut sizes: Vec<(usize, String)> = t.cells.iter().map(|c| size(c)).collect();
    sizes.sort_unstable();
    sizes.dedup();
    let groups = sizes.into_iter().map(|size| Group {
        marks: marks(t, &size),
        name: size.1,
    });
    let at = |&i: &usize| (t.points[i].throughput, t.points[i].latency);
    let scatter = Scatter {
        title: format!("Latency against throughput: {}", t.load),
        x: Axis {
            title: "output tokens per second".into(),
            scale: Scale::FromZero,
        },
        y: Axis {
            title: "mean latency [ms]".into(),
            scale: latency_scale(t),
        },
        groups: groups.collect(),
        frontier: Some(Frontier {
            name: "Pareto frontier".into(),
            points: t.frontier.iter().map(at).collect(),
        }),
        knee: t.knee.map(|i| Knee {
            x: t.points[i].throughput,
            y: t.points[i].latency,
            name: "knee".into(),
            label: format!("knee: {}", of_knee(t, t.cells[i])),
        }),
    };
    Ok(Figure {
        name: format!("trade-off-{}", index + 1),
        caption: format!(
            "{}; output {} tokens; prompt: {}",
            t.load, t.output_len, t.prompts
        ),
        picture: scatter.picture()?,
        table: table(t),
    })
}

/// Beyond this ratio of the largest to the least latency only a logarithmic axis shows both.
const WIDE: f64 = 20.0;

fn latency_scale(t: &TradeOff<'_>) -> Scale {
    let latencies = || t.points.iter().map(|p| p.latency);
    let (low, high) = (
        latencies().fold(f64::INFINITY, f64::min),
        latencies().fold(0.0, f64::max),
    );
    match high > WIDE * low {
        true => Scale::Log,
        false => Scale::FromZero,
    }
}

/// What gives a mark its colour.
fn size(cell: &Measured) -> (usize, String) {
    let cell = &cell.result.cell;
    match cell.policy {
        PolicyKind::Server => (0, cell.setting()),
        _ => (cell.batch_size, cell.size()),
    }
}

fn marks(t: &TradeOff<'_>, of_size: &(usize, String)) -> Vec<Mark> {
    let cells = t.cells.iter().zip(&t.points);
    cells
        .filter(|(c, _)| size(c) == *of_size)
        .map(|(c, p)| Mark {
            x: p.throughput,
            y: p.latency,
            label: label(t, c),
            x_half: half(c, THROUGHPUT),
            y_half: half(c, LATENCY),
        })
        .collect()
}

/// What tells the mark from the others of its colour: the setting, or the load where all of them have
/// one setting.
fn label(t: &TradeOff<'_>, cell: &Measured) -> String {
    let CellSpec {
        policy,
        window_ms,
        padding,
        ..
    } = cell.result.cell;
    let of_color = |c: &&&Measured| size(c) == size(cell);
    let same = |c: &&Measured| {
        let other = &c.result.cell;
        (other.policy, other.window_ms, other.padding) == (policy, window_ms, padding)
    };
    let mut others = t.cells.iter().filter(of_color);
    match (cell.result.request_rate, window_ms) {
        (Some(rate), _) if others.clone().count() > 1 && others.all(same) => {
            format!("{} req/s", short(Some(rate)))
        }
        _ if policy == PolicyKind::Server => cell.result.cell.size(),
        (_, Some(window)) if padding == Padding::Padded => format!("{window} ms"),
        _ => cell.result.cell.setting(),
    }
}

/// The size, or the load of a server that is sent several.
fn of_knee(t: &TradeOff<'_>, cell: &Measured) -> String {
    match cell.result.cell.policy {
        PolicyKind::Server => label(t, cell),
        _ => cell.result.cell.size(),
    }
}

fn half(cell: &Measured, quantity: Quantity<'_>) -> Option<f64> {
    Estimate::of(cell, quantity)?.half_width()
}

fn table(t: &TradeOff<'_>) -> NumberTable {
    let rows = t
        .cells
        .iter()
        .zip(&t.points)
        .enumerate()
        .map(|(i, (c, p))| {
            [
                c.result.cell.to_string(),
                short(Some(p.throughput)),
                short(half(c, THROUGHPUT)),
                short(Some(p.latency)),
                short(half(c, LATENCY)),
                match (t.knee == Some(i), t.frontier.contains(&i)) {
                    (true, _) => "knee".into(),
                    (false, true) => "frontier".into(),
                    (false, false) => String::new(),
                },
            ]
        });
    NumberTable::new(
        ["setting", "tok/s", "±", "latency ms", "±", ""],
        rows.collect(),
    )
}
