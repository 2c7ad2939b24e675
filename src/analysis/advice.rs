//! Which setting fits a use (day2 §2.3): of the cells that keep the use's limits, the best by its
//! objective, with what speaks for it.

use std::fmt;

use super::estimate::{Block, ENERGY, Estimate, LATENCY, Order, Quantity, THROUGHPUT, rate};
use super::slo::{Slo, SloMetric};
use crate::metrics::{Interval, RequestTrace};
use crate::number::short;
use crate::sweep::{CellResult, Measured};

/// A use may miss its limits for this share of its requests: the limits are on p99.
const MOST_FAILED: f64 = 0.01;
/// An open load that serves less than this share of what is sent falls behind for ever.
const SERVED: f64 = 0.95;
/// So does one whose last third of requests waited this many times as long as its first third, and
/// longer than they were served.
const GROWTH: f64 = 3.0;
/// Means this close, whose interval holds zero, count as equal.
const NEAR: f64 = 0.05;
/// Means this close count as equal whatever the interval.
const EQUAL: f64 = 0.01;

/// What is wanted most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Objective {
    /// Output tokens per second.
    Throughput,
    /// Requests per second that keep every limit.
    Goodput,
    /// Least energy of an output token.
    Energy,
    /// Least mean latency.
    Latency,
}

impl Objective {
    /// Times this, less is better.
    fn sign(self) -> f64 {
        match self {
            Self::Throughput | Self::Goodput => -1.0,
            Self::Energy | Self::Latency => 1.0,
        }
    }

    /// As it is wanted.
    fn wanted(self) -> &'static str {
        match self {
            Self::Throughput => "higher throughput",
            Self::Goodput => "higher goodput",
            Self::Energy => "lower energy",
            Self::Latency => "lower mean latency",
        }
    }

    /// Its unit, after a number.
    pub fn unit(self) -> &'static str {
        match self {
            Self::Throughput => "tok/s",
            Self::Goodput => "req/s within the limits",
            Self::Energy => "J per output token",
            Self::Latency => "ms mean latency",
        }
    }

    fn of(self, cell: &Measured, slos: &[Slo]) -> Option<Estimate> {
        match self {
            Self::Throughput => Estimate::of(cell, THROUGHPUT),
            Self::Energy => Estimate::of(cell, ENERGY),
            Self::Latency => Estimate::of(cell, LATENCY),
            Self::Goodput => goodput(cell, slos),
        }
    }
}

/// Requests per second that keep every limit. None where the requests are not there any more.
pub fn goodput(cell: &Measured, slos: &[Slo]) -> Option<Estimate> {
    let good = |r: &RequestTrace| r.is_complete() && slos.iter().all(|slo| slo.is_met_by(r));
    let mut of_runs = vec![0usize; cell.result.runs.len()];
    for request in cell.requests.iter().filter(|r| good(r)) {
        *of_runs.get_mut(request.run)? += 1;
    }
    if cell.requests.is_empty() {
        return None;
    }
    let runs = cell.result.runs.iter().zip(of_runs);
    let rates: Vec<f64> = runs
        .map(|(run, good)| good as f64 / run.summary.duration_s.max(f64::MIN_POSITIVE))
        .collect();
    match rates.as_slice() {
        [one] => Estimate::of(
            cell,
            Quantity {
                of_run: &|_| Some(*one),
                of_block: &|b: &Block<'_>| {
                    let good = b.requests.iter().filter(|r| good(r)).count();
                    rate(good as f64, b)
                },
            },
        ),
        _ => Estimate::of_values(rates),
    }
}

/// How requests come in a use, where the sweep measured it so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrivals {
    /// Users who do not wait for one another: open loads.
    Open,
    /// Work that is there: closed loops and offline.
    Backlog,
    Any,
}

/// A use with its limits and its objective.
#[derive(Debug, Clone, PartialEq)]
pub struct Scenario {
    pub name: &'static str,
    /// Where the limits come from.
    pub source: &'static str,
    pub arrivals: Arrivals,
    /// On the 99th percentile.
    pub slos: Vec<Slo>,
    pub objective: Objective,
    /// Decides between settings that the objective cannot tell apart.
    pub then: Objective,
}

impl Scenario {
    pub fn presets() -> [Self; 3] {
        let slo = |metric, limit_ms| Slo { metric, limit_ms };
        [
            Self {
                name: "real-time chat",
                source: "guidellm's chat limits",
                arrivals: Arrivals::Open,
                slos: vec![slo(SloMetric::Ttft, 200.0), slo(SloMetric::Itl, 50.0)],
                objective: Objective::Goodput,
                then: Objective::Latency,
            },
            Self {
                name: "API service",
                source: "MLPerf Server's limits for Llama-2-70B",
                arrivals: Arrivals::Open,
                slos: vec![slo(SloMetric::Ttft, 2000.0), slo(SloMetric::Tpot, 100.0)],
                objective: Objective::Goodput,
                then: Objective::Latency,
            },
            Self {
                name: "batch documents",
                source: "MLPerf Offline: no limit on latency",
                arrivals: Arrivals::Backlog,
                slos: vec![],
                objective: Objective::Throughput,
                then: Objective::Energy,
            },
        ]
    }

    /// The user's own.
    pub fn own(slos: Vec<Slo>, objective: Objective) -> Self {
        Self {
            name: "your own",
            source: "--goodput and --objective",
            arrivals: Arrivals::Any,
            slos,
            objective,
            then: Objective::Latency,
        }
    }

    /// "p99 TTFT ≤ 200 ms, p99 ITL ≤ 50 ms"
    pub fn limits(&self) -> String {
        match self.slos.is_empty() {
            true => "no limits".into(),
            false => {
                let limit = |s: &Slo| format!("p99 {} ≤ {} ms", s.metric, s.limit_ms);
                self.slos.iter().map(limit).collect::<Vec<_>>().join(", ")
            }
        }
    }

    fn admits(&self, cell: &CellResult) -> bool {
        match self.arrivals {
            Arrivals::Open => cell.cell.load.is_open(),
            Arrivals::Backlog => !cell.cell.load.is_open(),
            Arrivals::Any => true,
        }
    }
}

/// Why a cell does not fit a use.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Obstacle {
    NothingCompleted,
    Failed {
        percent: f64,
    },
    /// Requests come faster than they are served.
    OverSaturated {
        served: f64,
        sent: f64,
    },
    /// The same, seen from waits that grow through the run.
    GrowingQueue {
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
            Self::OverSaturated { served, sent } => write!(
                f,
                "over-saturated: {} of {} req/s were served",
                short(Some(*served)),
                short(Some(*sent))
            ),
            Self::GrowingQueue { first_ms, last_ms } => write!(
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

/// Under an open load, where requests come faster than they are served: the queue grows for as long as
/// the load lasts, whatever a short run's percentiles say.
pub fn over_saturated(cell: &Measured) -> Option<Obstacle> {
    let sent = cell.result.request_rate?;
    let served = cell.result.mean(|r| Some(r.summary.request_throughput))?;
    if served < SERVED * sent {
        return Some(Obstacle::OverSaturated { served, sent });
    }
    let runs = cell.requests.chunk_by(|a, b| a.run == b.run);
    let growth = runs.filter_map(growing_queue).next();
    growth.map(|(first_ms, last_ms)| Obstacle::GrowingQueue { first_ms, last_ms })
}

/// Mean waits of the first and the last third of a run's requests, where they tell of a queue that
/// grows without end.
fn growing_queue(run: &[RequestTrace]) -> Option<(f64, f64)> {
    let third = run.len() / 3;
    let mean = |part: &[RequestTrace], of: fn(&RequestTrace) -> Option<f64>| {
        let values: Vec<f64> = part.iter().filter_map(of).collect();
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    };
    let wait = |r: &RequestTrace| Some(r.scheduled_ms? - r.arrival_ms);
    let service = |r: &RequestTrace| Some(r.last_token_ms? - r.scheduled_ms?);
    let (first, last) = (&run[..third], &run[run.len() - third..]);
    let (first_ms, last_ms) = (mean(first, wait)?, mean(last, wait)?);
    let grows = last_ms > GROWTH * first_ms && last_ms > mean(last, service)?;
    grows.then_some((first_ms, last_ms))
}

/// A cell that keeps the limits, with its value.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    pub cell: &'a Measured,
    pub value: Estimate,
}

/// What a use is advised.
#[derive(Debug)]
pub struct Advice<'a> {
    pub scenario: Scenario,
    /// Cells that were judged, and how many of them kept the limits.
    pub considered: usize,
    pub feasible: usize,
    /// True when the sweep had none of the arrivals that the use has, so that all cells were judged.
    pub other_arrivals: bool,
    pub pick: Option<Pick<'a>>,
    /// Without a pick: the cell that came nearest, and what stopped it.
    pub nearest: Option<(&'a Measured, Obstacle)>,
}

#[derive(Debug)]
pub struct Pick<'a> {
    pub chosen: Candidate<'a>,
    /// Cells that the objective cannot tell from the best one, the chosen one among them.
    pub tied: usize,
    /// What decided between them.
    pub decided_by: Objective,
    /// No larger batch size was measured.
    pub at_largest_batch: bool,
    /// The next best.
    pub runner_up: Option<RunnerUp<'a>>,
    /// For each limit: the p99 of the worst run, and how many requests that run had.
    pub margins: Vec<(Slo, f64, usize)>,
}

#[derive(Debug)]
pub struct RunnerUp<'a> {
    pub candidate: Candidate<'a>,
    /// Chosen minus this one; none where one has no interval.
    pub difference: Option<Interval>,
}

/// Judges the cells. The feasible ones are ranked by the objective; of those that it cannot tell from
/// the best, the better one by `scenario.then` is chosen.
pub fn advise(cells: &[Measured], scenario: Scenario) -> Advice<'_> {
    let fitting = cells.iter().filter(|c| scenario.admits(&c.result));
    let mut judged: Vec<&Measured> = fitting.collect();
    let other_arrivals = judged.is_empty();
    if other_arrivals {
        judged = cells.iter().collect();
    }
    let (mut feasible, mut nearest) = (Vec::new(), None::<(f64, &Measured, Obstacle)>);
    for &cell in &judged {
        let found = obstacles(cell, &scenario.slos);
        match found.iter().max_by(|a, b| excess(a).total_cmp(&excess(b))) {
            None => feasible.push(cell),
            Some(worst) if nearest.is_none_or(|(e, ..)| excess(worst) < e) => {
                nearest = Some((excess(worst), cell, *worst));
            }
            Some(_) => {}
        }
    }
    let value = |cell: &&'_ Measured| scenario.objective.of(cell, &scenario.slos);
    let mut ranked: Vec<Candidate<'_>> = feasible
        .iter()
        .filter_map(|cell| {
            Some(Candidate {
                cell,
                value: value(cell)?,
            })
        })
        .collect();
    let sign = scenario.objective.sign();
    ranked.sort_by(|a, b| (sign * a.value.mean).total_cmp(&(sign * b.value.mean)));
    Advice {
        considered: judged.len(),
        feasible: feasible.len(),
        other_arrivals,
        pick: pick(&ranked, &scenario, largest_of_several(cells)),
        nearest: nearest.map(|(_, cell, obstacle)| (cell, obstacle)),
        scenario,
    }
}

/// How far from feasible, in times of the limit.
fn excess(obstacle: &Obstacle) -> f64 {
    match obstacle {
        Obstacle::Limit { slo, p99_ms } => p99_ms / slo.limit_ms,
        Obstacle::OverSaturated { served, sent } => sent / served.max(f64::MIN_POSITIVE),
        Obstacle::GrowingQueue { first_ms, last_ms } => last_ms / first_ms.max(1.0),
        Obstacle::Failed { percent } => percent / 100.0 / MOST_FAILED,
        Obstacle::NothingCompleted => f64::INFINITY,
    }
}

/// The largest batch size, where there is a smaller one.
fn largest_of_several(cells: &[Measured]) -> Option<usize> {
    let sizes = || cells.iter().map(|c| c.result.cell.batch_size);
    sizes()
        .max()
        .filter(|&largest| sizes().any(|size| size < largest))
}

fn pick<'a>(
    ranked: &[Candidate<'a>],
    scenario: &Scenario,
    largest: Option<usize>,
) -> Option<Pick<'a>> {
    let best = ranked.first()?;
    let equal = |c: &&Candidate<'_>| {
        let apart = (c.value.mean - best.value.mean).abs();
        let near = |share: f64| apart <= share * best.value.mean.abs();
        near(EQUAL) || near(NEAR) && c.value.against(&best.value) == Order::Unsure
    };
    let tied: Vec<&Candidate<'_>> = ranked.iter().filter(equal).collect();
    let by = |objective: Objective, c: &Candidate<'_>| objective.of(c.cell, &scenario.slos);
    // Energy is not known everywhere; latency is.
    let decided_by = match tied.iter().all(|c| by(scenario.then, c).is_some()) {
        true => scenario.then,
        false => Objective::Latency,
    };
    let sign = decided_by.sign();
    let second = |c: &Candidate<'_>| by(decided_by, c).map_or(f64::INFINITY, |v| sign * v.mean);
    // The first of equals: the best by the objective.
    let chosen = **tied.iter().min_by(|a, b| second(a).total_cmp(&second(b)))?;
    let next = ranked.iter().find(|c| !std::ptr::eq(c.cell, chosen.cell));
    Some(Pick {
        tied: tied.len(),
        decided_by,
        at_largest_batch: largest == Some(chosen.cell.result.cell.batch_size),
        runner_up: next.map(|next| RunnerUp {
            candidate: *next,
            difference: chosen.value.minus(&next.value),
        }),
        margins: scenario
            .slos
            .iter()
            .filter_map(|slo| margin(chosen.cell, *slo))
            .collect(),
        chosen,
    })
}

fn margin(cell: &Measured, slo: Slo) -> Option<(Slo, f64, usize)> {
    let runs = cell.result.runs.iter();
    let statistics = runs.filter_map(|r| {
        slo.metric
            .of(&r.summary)
            .map(|s| (s.p99, r.summary.completed))
    });
    let (p99, n) = statistics.max_by(|a, b| a.0.total_cmp(&b.0))?;
    Some((slo, p99, n))
}

impl Advice<'_> {
    /// Why this pick, or why none, with the numbers.
    pub fn reasons(&self) -> Vec<String> {
        match (&self.pick, &self.nearest) {
            (Some(pick), _) => self.reasons_for(pick),
            (None, Some((cell, obstacle))) => vec![format!(
                "no feasible configuration: none of {} cells keeps {}; nearest is {}, where {obstacle}",
                self.considered,
                self.scenario.limits(),
                cell.result.cell
            )],
            (None, None) => {
                let unit = self.scenario.objective.unit();
                vec![format!("no cell knows {unit}, so none can be chosen")]
            }
        }
    }

    fn reasons_for(&self, pick: &Pick<'_>) -> Vec<String> {
        let mut reasons = vec![format!(
            "{} {}, the best of {} feasible cells of {}",
            with_interval(&pick.chosen.value),
            self.scenario.objective.unit(),
            self.feasible,
            self.considered
        )];
        if pick.tied > 1 {
            reasons.push(format!(
                "{} of them cannot be told apart; this one was taken for its {}",
                pick.tied,
                pick.decided_by.wanted()
            ));
        }
        reasons.extend(pick.runner_up.as_ref().map(|next| next.words(&pick.chosen)));
        if pick.at_largest_batch {
            reasons.push("no larger batch size was measured: one may be better still".into());
        }
        for (slo, p99, n) in &pick.margins {
            reasons.push(format!(
                "p99 {} {} of {} ms allowed (n = {n})",
                slo.metric,
                short(Some(*p99)),
                slo.limit_ms
            ));
        }
        reasons
    }
}

impl RunnerUp<'_> {
    fn words(&self, chosen: &Candidate<'_>) -> String {
        let percent = |v: f64| 100.0 * v / self.candidate.value.mean.abs();
        let apart = percent(chosen.value.mean - self.candidate.value.mean);
        let interval = match self.difference {
            Some(d) => format!("±{} %", short(Some(percent(d.half_width)))),
            None => "no interval, use --num-runs 5".into(),
        };
        format!(
            "{}{} % ({interval}) against the next, {}",
            if apart < 0.0 { "" } else { "+" },
            short(Some(apart)),
            self.candidate.cell.result.cell
        )
    }
}

/// "45.2 ±0.8"
pub fn with_interval(estimate: &Estimate) -> String {
    let mean = short(Some(estimate.mean));
    match estimate.half_width() {
        Some(half_width) => format!("{mean} ±{}", short(Some(half_width))),
        None => mean,
    }
}
