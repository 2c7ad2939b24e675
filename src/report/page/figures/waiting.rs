//! Latency split into waiting and service.

use super::super::figure::{Figure, Figures, NumberTable};
use super::MOST_FIGURES;
use crate::analysis::{Analysis, TradeOff};
use crate::metrics::Statistics;
use crate::number::short;
use crate::report::chart::theme::Phase;
use crate::report::chart::{Bar, Part, StackedBars};
use crate::sweep::Measured;

/// Bars of one picture.
const MOST_BARS: usize = 30;

pub fn draw(analysis: &Analysis<'_>) -> Result<Figures, super::ChartError> {
    // A server does not say how long a request waited.
    let known = |c: &Measured| c.result.mean(|r| Some(r.summary.queue_ms.as_ref()?.mean));
    let told = analysis.trade_offs.iter();
    let told: Vec<&TradeOff<'_>> = told
        .filter(|t| t.cells.iter().any(|c| known(c).is_some()))
        .collect();
    Figures::of(&told, MOST_FIGURES, |i, t| figure(i, t))
}

fn figure(index: usize, t: &TradeOff<'_>) -> Result<Figure, super::ChartError> {
    // Of too many cells, those worth considering.
    let shown: Vec<&Measured> = match t.cells.len() > MOST_BARS {
        false => t.cells.clone(),
        true => t
            .frontier
            .iter()
            .take(MOST_BARS)
            .map(|&i| t.cells[i])
            .collect(),
    };
    let label = |c: &Measured| {
        let cell = &c.result.cell;
        let rate = c
            .result
            .request_rate
            .map_or(String::new(), |r| format!(" at {} req/s", short(Some(r))));
        format!("{}{rate}", cell.sized_setting())
    };
    let bars = shown.iter().map(|c| Bar {
        label: label(c),
        values: split(c).to_vec(),
        end: None,
    });
    let phases = [Phase::Waiting, Phase::Prefill, Phase::Decode];
    let chart = StackedBars {
        title: format!("Where a request's time goes: {}", t.load),
        x_title: "mean per request [ms]".into(),
        unit: "ms".into(),
        parts: phases
            .map(|phase| Part {
                name: phase.name().into(),
                color: phase.color(),
            })
            .into(),
        bars: bars.collect(),
    };
    let rows = t.cells.iter().map(|c| {
        let [waiting, prefill, decode] = split(c);
        let all = waiting + prefill + decode;
        [
            label(c),
            short(Some(waiting)),
            short(Some(prefill)),
            short(Some(decode)),
            short(Some(100.0 * waiting / all)),
        ]
    });
    let note = match t.cells.len() - shown.len() {
        0 => String::new(),
        n => format!(" Only the Pareto frontier is drawn; {n} other cells are in the table."),
    };
    Ok(Figure {
        name: format!("waiting-{}", index + 1),
        caption: format!(
            "{}; output {} tokens; prompt: {}.{note}",
            t.load, t.output_len, t.prompts
        ),
        picture: chart.picture()?,
        table: NumberTable::new(
            [
                "setting",
                "waiting ms",
                "prefill ms",
                "decode ms",
                "waiting %",
            ],
            rows.collect(),
        ),
    })
}

/// Means of waiting, prefill and decode; they add up to the mean latency.
fn split(cell: &Measured) -> [f64; 3] {
    let mean = |of: fn(&crate::metrics::Summary) -> Option<&Statistics>| {
        cell.result
            .mean(|r| Some(of(&r.summary)?.mean))
            .unwrap_or(0.0)
    };
    let (latency, ttft) = (mean(|s| s.e2el_ms.as_ref()), mean(|s| s.ttft_ms.as_ref()));
    [
        mean(|s| s.queue_ms.as_ref()),
        mean(|s| s.prefill_ms.as_ref()),
        latency - ttft,
    ]
}
