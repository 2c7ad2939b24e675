//! Single requests as they were recorded (day2 §1.1, §1.2, §4.3).

use super::super::figure::{Drawn, Figure, NumberTable};
use crate::metrics::RequestTrace;
use crate::number::short;
use crate::report::chart::theme::Phase;
use crate::report::chart::{Markers, Row, Segment, Timeline};
use crate::sweep::Measured;

/// Requests of one picture.
const REQUESTS: usize = 24;

pub fn draw(cells: &[&Measured]) -> Drawn {
    let recorded = cells.iter().filter(|c| !c.requests.is_empty());
    recorded.map(|c| figure(c)).collect()
}

fn figure(cell: &Measured) -> Result<Figure, super::ChartError> {
    let of_run = cell.requests.iter().filter(|r| r.run == 0);
    let requests: Vec<&RequestTrace> = of_run.take(REQUESTS).collect();
    let begin = requests
        .iter()
        .map(|r| r.arrival_ms)
        .fold(f64::INFINITY, f64::min);
    let mut starts: Vec<f64> = requests
        .iter()
        .filter_map(|r| r.scheduled_ms)
        .map(|t| t - begin)
        .collect();
    starts.sort_by(f64::total_cmp);
    starts.dedup();
    let chart = Timeline {
        title: cell.result.cell.to_string(),
        rows: requests
            .iter()
            .map(|r| Row {
                label: format!("request {}", r.id + 1),
                segments: segments(r, begin),
            })
            .collect(),
        markers: Some(Markers {
            name: "batch starts".into(),
            at_ms: starts,
        }),
    };
    let rows = requests.iter().map(|r| {
        let since = |t: Option<f64>| short(t.map(|t| t - begin));
        [
            (r.id + 1).to_string(),
            r.batch.map_or("–".into(), |b| (b + 1).to_string()),
            r.prompt_tokens.to_string(),
            r.output_tokens.to_string(),
            since(Some(r.arrival_ms)),
            since(r.scheduled_ms),
            since(r.first_token_ms),
            since(r.last_token_ms),
            since(r.released_ms),
        ]
    });
    let work = &cell.result.cell;
    Ok(Figure {
        name: format!("timeline-cell-{:04}", cell.result.index),
        caption: format!(
            "The first {} requests of {}; output {} tokens; prompt: {}.",
            requests.len(),
            work,
            work.output_len,
            work.prompts
        ),
        picture: chart.picture()?,
        table: NumberTable::new(
            [
                "request",
                "batch",
                "prompt",
                "output",
                "arrival ms",
                "scheduled ms",
                "first token ms",
                "last token ms",
                "row free ms",
            ],
            rows.collect(),
        ),
    })
}

fn segments(r: &RequestTrace, begin: f64) -> Vec<Segment> {
    let parts = [
        (Phase::Waiting, Some(r.arrival_ms), r.scheduled_ms),
        (Phase::Prefill, r.scheduled_ms, r.first_token_ms),
        (Phase::Decode, r.first_token_ms, r.last_token_ms),
        (Phase::Idle, r.last_token_ms, r.released_ms),
    ];
    let segment = |(phase, from, to): (Phase, Option<f64>, Option<f64>)| {
        Some(Segment {
            start_ms: from? - begin,
            end_ms: to? - begin,
            phase,
        })
    };
    parts
        .into_iter()
        .filter_map(segment)
        .filter(|s| s.end_ms > s.start_ms)
        .collect()
}
