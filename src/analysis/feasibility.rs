//! What speaks against a setting.

use std::fmt;

use super::slo::Slo;
use crate::metrics::RequestTrace;
use crate::number::short;
use crate::sweep::Measured;

/// A use may miss its limits for this share of its requests: the limits are on p99.
const MOST_FAILED: f64 = 0.01;
/// Requests come faster than they are served where the last third of a run's requests waited this many
/// times as long as its first third, and as they were served: a queue that grows evenly gives 5.
const GROWTH: f64 = 3.0;

/// Why a cell does not fit a use.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Obstacle {
    NothingCompleted,
    Failed {
        percent: f64,
    },
    /// Requests come faster than they are served: mean waits of the run's first and last third.
    OverSaturated {
        first_ms: f64,
        last_ms: f64,
    },
    Limit {
        slo: Slo,
        p99_ms: f64,
    },
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NothingCompleted => f.write_str("no request was completed"),
            Self::Failed { percent } => {
                write!(f, "{} % of the requests failed", short(Some(*percent)))
            }
            Self::OverSaturated { first_ms, last_ms } => write!(
                f,
                "over-saturated: the wait grew from {} to {} ms through the run",
                short(Some(*first_ms)),
                short(Some(*last_ms))
            ),
            Self::Limit { slo, p99_ms } => write!(
                f,
                "p99 {} is {} ms, the limit {} ms",
                slo.metric,
                short(Some(*p99_ms)),
                slo.limit_ms
            ),
        }
    }
}

/// What speaks against a cell, the worst over its runs.
pub fn obstacles(cell: &Measured, slos: &[Slo]) -> Vec<Obstacle> {
    let summaries = || cell.result.runs.iter().map(|r| &r.summary);
    let (all, failed) = summaries().fold((0, 0), |(a, f), s| (a + s.requests, f + s.failed));
    if all == failed {
        return vec![Obstacle::NothingCompleted];
    }
    let mut found = Vec::new();
    if failed as f64 > MOST_FAILED * all as f64 {
        let percent = 100.0 * failed as f64 / all as f64;
        found.push(Obstacle::Failed { percent });
    }
    found.extend(over_saturated(cell));
    for &slo in slos {
        let p99 = summaries().filter_map(|s| slo.metric.of(s).map(|s| s.p99));
        let p99_ms = p99.fold(0.0, f64::max);
        if p99_ms > slo.limit_ms {
            found.push(Obstacle::Limit { slo, p99_ms });
        }
    }
    found
}

/// Under an open load, where requests come faster than they are served in most of the runs: the queue
/// grows for as long as the load lasts, whatever a short run's percentiles say.
pub fn over_saturated(cell: &Measured) -> Option<Obstacle> {
    cell.result.request_rate?;
    let runs = || cell.requests.chunk_by(|a, b| a.run == b.run);
    let growing: Vec<(f64, f64)> = runs().filter_map(growing_queue).collect();
    let &(first_ms, last_ms) = growing
        .first()
        .filter(|_| 2 * growing.len() > runs().count())?;
    Some(Obstacle::OverSaturated { first_ms, last_ms })
}

/// Mean waits of the first and the last third of a run's requests, where they tell of a queue that
/// grows without end.
fn growing_queue(run: &[RequestTrace]) -> Option<(f64, f64)> {
    let third = run.len() / 3;
    let mean = |part: &[RequestTrace], of: fn(&RequestTrace) -> Option<f64>| {
        let values: Vec<f64> = part.iter().filter_map(of).collect();
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    };
    let wait = |r: &RequestTrace| Some(begun(r)? - r.arrival_ms);
    let service = |r: &RequestTrace| Some(r.last_token_ms? - begun(r)?);
    let (first, last) = (&run[..third], &run[run.len() - third..]);
    let (first_ms, last_ms) = (mean(first, wait)?, mean(last, wait)?);
    let grows = last_ms > GROWTH * first_ms.max(mean(last, service)?);
    grows.then_some((first_ms, last_ms))
}

/// When it began to be served; of a request that a server ran, the first token tells of it.
fn begun(r: &RequestTrace) -> Option<f64> {
    r.scheduled_ms.or(r.first_token_ms)
}

impl Obstacle {
    /// How far from feasible, in times of the limit.
    pub(super) fn excess(&self) -> f64 {
        match self {
            Self::Limit { slo, p99_ms } => p99_ms / slo.limit_ms,
            Self::OverSaturated { first_ms, last_ms } => last_ms / first_ms.max(1.0),
            Self::Failed { percent } => percent / 100.0 / MOST_FAILED,
            Self::NothingCompleted => f64::INFINITY,
        }
    }
}
