//! Padding (day2 §3.3) and idle rows (§4.3).

use super::super::figure::{Drawn, Figure, NumberTable};
use crate::analysis::{Analysis, IdleCost, PaddingCost};
use crate::metrics::Executed;
use crate::number::short;
use crate::report::chart::theme::{PALETTE, WASTE};
use crate::report::chart::{Bar, Part, StackedBars};

pub fn draw(analysis: &Analysis<'_>) -> Drawn {
    let mut figures = Vec::new();
    if !analysis.padding.is_empty() {
        figures.push(padding(&analysis.padding)?);
    }
    if !analysis.idle.is_empty() {
        figures.push(idle(&analysis.idle)?);
    }
    Ok(figures)
}

fn parts(useful: &str, wasted: &str) -> Vec<Part> {
    let part = |name: &str, color| Part {
        name: name.into(),
        color,
    };
    vec![part(useful, PALETTE[0]), part(wasted, WASTE)]
}

fn padding(costs: &[PaddingCost<'_>]) -> Result<Figure, super::ChartError> {
    let bars = costs.iter().flat_map(|cost| {
        [cost.padded, cost.ragged].map(|c| {
            let runs = || c.result.runs.iter().map(|r| &r.summary);
            let sum = |of: fn(&Executed) -> usize| {
                let executed = runs().filter_map(|s| s.executed.as_ref());
                executed.map(of).sum::<usize>() as f64
            };
            let requests = runs().map(|s| s.completed).sum::<usize>().max(1) as f64;
            let (all, padded) = (sum(|e| e.positions), sum(|e| e.padded_positions));
            Bar {
                label: format!(
                    "batch {} {}",
                    c.result.cell.batch_size, c.result.cell.padding
                ),
                values: vec![(all - padded) / requests, padded / requests],
                end: None,
            }
        })
    });
    let chart = StackedBars {
        title: "Positions computed for a request, padded and ragged".into(),
        x_title: "positions per request".into(),
        unit: "positions".into(),
        parts: parts("asked for", "padding"),
        bars: bars.collect(),
    };
    let rows = costs.iter().map(|c| {
        [
            c.padded.result.cell.to_string(),
            short(Some(c.waste_percent)),
            short(Some(c.positions)),
            short(Some(c.busy_ms)),
            short(Some(c.latency_ms)),
            short(c.latency_interval.map(|i| i.half_width)),
            short(c.energy_j),
        ]
    });
    Ok(Figure {
        name: "padding".into(),
        caption: "Padded beside ragged, everything else equal. The table has what padding adds to a request.".into(),
        picture: chart.picture()?,
        table: NumberTable::new(
            [
                "setting",
                "padding % of positions",
                "positions more",
                "computing ms more",
                "latency ms more",
                "±",
                "J more",
            ],
            rows.collect(),
        ),
    })
}

fn idle(costs: &[IdleCost<'_>]) -> Result<Figure, super::ChartError> {
    let output = |c: &IdleCost<'_>| c.cell.result.cell.output_len.clone();
    let one_output = costs.iter().all(|c| output(c) == output(&costs[0]));
    let setting = |c: &IdleCost<'_>| c.cell.result.cell.sized_setting();
    // What all bars share would only make their labels long.
    let label = |c: &IdleCost<'_>| match one_output {
        true => setting(c),
        false => format!("{} output {}", setting(c), output(c)),
    };
    let bars = costs.iter().map(|c| Bar {
        label: label(c),
        values: vec![100.0 - c.percent(), c.percent()],
        end: Some(format!("{} % idle", short(Some(c.percent())))),
    });
    let chart = StackedBars {
        title: "Row-steps of decoding, working and idle".into(),
        x_title: "share of all row-steps [%]".into(),
        unit: "%".into(),
        parts: parts("working", "idle"),
        bars: bars.collect(),
    };
    let rows = costs.iter().map(|c| {
        let throughput =
            |m: &crate::sweep::Measured| m.result.mean(|r| Some(r.summary.output_throughput));
        [
            setting(c),
            output(c),
            c.cell.result.cell.load.to_string(),
            c.row_steps.to_string(),
            c.idle_row_steps.to_string(),
            short(Some(c.percent())),
            short(Some(c.idle_ms)),
            short(throughput(c.cell)),
            short(c.beside.and_then(throughput)),
        ]
    });
    Ok(Figure {
        name: "idle-rows".into(),
        caption: match one_output {
            true => format!(
                "A batch runs until its slowest row ends; output {} tokens.",
                output(&costs[0])
            ),
            false => "A batch runs until its slowest row ends.".into(),
        },
        picture: chart.picture()?,
        table: NumberTable::new(
            [
                "setting",
                "output",
                "load",
                "row-steps",
                "idle",
                "idle %",
                "idle ms a request",
                "tok/s",
                "tok/s with equal outputs",
            ],
            rows.collect(),
        ),
    })
}
