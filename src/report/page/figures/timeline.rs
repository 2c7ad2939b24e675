//! Single requests as they were recorded, and the rows in which they ran (day2 §1.1, §1.2, §4.3).

use super::super::figure::{Drawn, Figure, NumberTable};
use crate::metrics::RequestTrace;
use crate::number::short;
use crate::report::chart::theme::Phase;
use crate::report::chart::{Markers, Row, Segment, Timeline};
use crate::sweep::{Measured, PolicyKind};

/// Lines of one picture.
const LINES: usize = 24;
/// Requests that follow one another in a row, about.
const IN_A_ROW: usize = 6;

pub fn draw(cells: &[&Measured]) -> Drawn {
    let recorded = cells.iter().filter(|c| !c.requests.is_empty());
    let both = recorded.map(|c| {
        let first = |count| -> Vec<&RequestTrace> {
            let requests = c.requests.iter().filter(|r| r.run == 0);
            requests.take(count).collect()
        };
        let mut figures = vec![by_request(c, &first(LINES))?];
        // A server's rows are its own.
        if c.result.cell.policy != PolicyKind::Server {
            let requests = first(IN_A_ROW * c.result.cell.batch_size);
            figures.push(by_row(c, &requests)?);
        }
        Ok(figures)
    });
    Ok(both
        .collect::<Result<Vec<_>, _>>()?
        .into_iter()
        .flatten()
        .collect())
}

fn by_request(cell: &Measured, requests: &[&RequestTrace]) -> Result<Figure, super::ChartError> {
    let begin = begin(requests);
    let chart = Timeline {
        title: cell.result.cell.to_string(),
        rows: requests
            .iter()
            .map(|r| Row {
                label: format!("request {}", r.id + 1),
                segments: segments(r, begin),
            })
            .collect(),
        markers: batch_starts(cell, requests, begin),
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
            r.preempted_ms.len().to_string(),
        ]
    });
    Ok(Figure {
        name: format!("timeline-cell-{:04}", cell.result.index),
        caption: caption(cell, requests),
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
                "preempted",
            ],
            rows.collect(),
        ),
    })
}

/// A line for each row: who ran there, one after another.
fn by_row(cell: &Measured, requests: &[&RequestTrace]) -> Result<Figure, super::ChartError> {
    let begin = begin(requests);
    let mut rows = rows(requests);
    rows.truncate(LINES);
    let service = |r: &&RequestTrace| {
        let all = segments(r, begin).into_iter();
        all.filter(|s| s.phase != Phase::Waiting)
            .collect::<Vec<_>>()
    };
    let chart = Timeline {
        title: format!("Rows of {}", cell.result.cell),
        rows: rows
            .iter()
            .enumerate()
            .map(|(row, requests)| Row {
                label: format!("row {}", row + 1),
                segments: requests.iter().flat_map(service).collect(),
            })
            .collect(),
        markers: batch_starts(cell, requests, begin),
    };
    let table = rows.iter().enumerate().map(|(row, requests)| {
        let ids: Vec<String> = requests.iter().map(|r| (r.id + 1).to_string()).collect();
        [(row + 1).to_string(), ids.join(", ")]
    });
    Ok(Figure {
        name: format!("rows-cell-{:04}", cell.result.index),
        caption: format!(
            "{} At most {LINES} rows are shown.",
            caption(cell, requests)
        ),
        picture: chart.picture()?,
        table: NumberTable::new(["row", "requests"], table.collect()),
    })
}

/// Requests in the fewest rows in which none runs while another does, each in the first that is free.
fn rows<'a>(requests: &[&'a RequestTrace]) -> Vec<Vec<&'a RequestTrace>> {
    let span = |r: &RequestTrace| Some((r.scheduled_ms?, r.released_ms?));
    let mut ran: Vec<_> = requests
        .iter()
        .filter_map(|r| Some((span(r)?, *r)))
        .collect();
    ran.sort_by(|((a, _), _), ((b, _), _)| a.total_cmp(b));
    let mut rows: Vec<(f64, Vec<&RequestTrace>)> = Vec::new();
    for ((start, end), request) in ran {
        match rows.iter_mut().find(|(free, _)| *free <= start) {
            Some((free, row)) => {
                *free = end;
                row.push(request);
            }
            None => rows.push((end, vec![request])),
        }
    }
    rows.into_iter().map(|(_, row)| row).collect()
}

fn begin(requests: &[&RequestTrace]) -> f64 {
    let arrivals = requests.iter().map(|r| r.arrival_ms);
    arrivals.fold(f64::INFINITY, f64::min)
}

/// None under continuous batching, where every row has its own, and of a server.
fn batch_starts(cell: &Measured, requests: &[&RequestTrace], begin: f64) -> Option<Markers> {
    let scheduled = requests.iter().filter_map(|r| r.scheduled_ms);
    let mut at_ms: Vec<f64> = scheduled.map(|t| t - begin).collect();
    at_ms.sort_by(f64::total_cmp);
    at_ms.dedup();
    let policy = cell.result.cell.policy;
    (!matches!(policy, PolicyKind::Continuous | PolicyKind::Server)).then(|| Markers {
        name: "batch starts".into(),
        at_ms,
    })
}

fn caption(cell: &Measured, requests: &[&RequestTrace]) -> String {
    let work = &cell.result.cell;
    format!(
        "The first {} requests of {}; output {} tokens; prompt: {}.",
        requests.len(),
        work,
        work.output_len,
        work.prompts
    )
}

fn segments(r: &RequestTrace, begin: f64) -> Vec<Segment> {
    let untold = r.scheduled_ms.is_none().then_some(r.arrival_ms);
    let parts = [
        (Phase::FirstToken, untold, r.first_token_ms),
        (Phase::Waiting, Some(r.arrival_ms), r.scheduled_ms),
        (Phase::Prefill, r.scheduled_ms, r.first_token_ms),
        (Phase::Decode, r.first_token_ms, r.last_token_ms),
        (Phase::Idle, r.last_token_ms, r.released_ms),
    ];
    let mut segments = Vec::new();
    let mut add = |phase, from: f64, until: f64| {
        if until > from {
            segments.push(Segment {
                start_ms: from - begin,
                end_ms: until - begin,
                phase,
            });
        }
    };
    for (phase, from, until) in parts {
        let (Some(mut from), Some(until)) = (from, until) else {
            continue;
        };
        // Stretches of preemption are cut out of it.
        for &(lost, recovered) in &r.preempted_ms {
            if lost >= from && recovered <= until {
                add(phase, from, lost);
                add(Phase::Preempted, lost, recovered);
                from = recovered;
            }
        }
        add(phase, from, until);
    }
    segments
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::FinishReason;

    fn request(
        id: u64,
        arrival: f64,
        [scheduled, first, last, released]: [f64; 4],
    ) -> RequestTrace {
        RequestTrace {
            run: 0,
            id,
            batch: Some(0),
            reason: FinishReason::Length,
            prompt_tokens: 1,
            output_tokens: 2,
            arrival_ms: arrival,
            scheduled_ms: Some(scheduled),
            first_token_ms: Some(first),
            last_token_ms: Some(last),
            released_ms: Some(released),
            itl_p99_ms: None,
            preempted_ms: Vec::new(),
        }
    }

    #[test]
    fn a_request_takes_the_first_row_that_is_free() {
        let all = [
            request(0, 0.0, [0.0, 2.0, 9.0, 9.0]),
            request(1, 0.0, [0.0, 2.0, 5.0, 5.0]),
            request(2, 0.0, [5.0, 6.0, 7.0, 7.0]),
            request(3, 0.0, [8.0, 8.5, 20.0, 20.0]),
            request(4, 0.0, [8.5, 9.5, 20.0, 20.0]),
        ];
        let rows = rows(&all.iter().collect::<Vec<_>>());
        let ids = rows
            .iter()
            .map(|row| row.iter().map(|r| r.id).collect::<Vec<_>>());
        assert_eq!(ids.collect::<Vec<_>>(), [vec![0], vec![1, 2, 3], vec![4]]);
    }

    #[test]
    fn stretches_of_preemption_are_cut_out_of_what_they_stop() {
        let mut r = request(0, 10.0, [12.0, 20.0, 40.0, 45.0]);
        // One during the prompt, up to its first token, and two later.
        r.preempted_ms = vec![(15.0, 20.0), (22.0, 25.0), (30.0, 40.0)];
        let parts = segments(&r, 10.0).into_iter();
        let parts: Vec<_> = parts.map(|s| (s.phase, s.start_ms, s.end_ms)).collect();
        assert_eq!(
            parts,
            [
                (Phase::Waiting, 0.0, 2.0),
                (Phase::Prefill, 2.0, 5.0),
                (Phase::Preempted, 5.0, 10.0),
                (Phase::Decode, 10.0, 12.0),
                (Phase::Preempted, 12.0, 15.0),
                (Phase::Decode, 15.0, 20.0),
                (Phase::Preempted, 20.0, 30.0),
                (Phase::Idle, 30.0, 35.0),
            ]
        );
    }
}
