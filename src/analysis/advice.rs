//! Which setting fits a use: of the cells that keep the use's limits, the best by its objective, with
//! what speaks for it.

use super::estimate::{Estimate, Order};
use super::feasibility::{Obstacle, obstacles};
use super::objective::Objective;
use super::scenario::Scenario;
use super::slo::Slo;
use crate::metrics::Interval;
use crate::number::short;
use crate::sweep::{Measured, PolicyKind};

/// Means this close, whose interval holds zero, count as equal.
const NEAR: f64 = 0.05;
/// Means this close count as equal whatever the interval.
const EQUAL: f64 = 0.01;

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
    /// The feasible cells by the objective, the best first; those that do not know it are missing.
    pub ranked: Vec<Candidate<'a>>,
    /// Where none is feasible: the cell that came nearest, and what stopped it.
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
    /// Requests per second that were sent to it, under an open load, and whether no judged cell was
    /// sent more.
    pub sent: Option<(f64, bool)>,
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

/// Judges the cells of the sweep's first work: other prompts or output lengths are not comparable. The
/// feasible ones are ranked by the objective; of those that it cannot tell from the best, the better
/// one by `scenario.then` is chosen.
pub fn advise(cells: &[Measured], scenario: Scenario) -> Advice<'_> {
    let first_work = |c: &&Measured| c.result.cell.same_work(&cells[0].result.cell);
    let of_work: Vec<&Measured> = cells.iter().filter(first_work).collect();
    let fitting = of_work.iter().filter(|c| scenario.admits(&c.result));
    let mut judged: Vec<&Measured> = fitting.copied().collect();
    let other_arrivals = judged.is_empty() && !of_work.is_empty();
    if other_arrivals {
        judged.clone_from(&of_work);
    }
    let (mut feasible, mut nearest) = (Vec::new(), None::<(f64, &Measured, Obstacle)>);
    for &cell in &judged {
        let found = obstacles(cell, &scenario.slos);
        match found
            .iter()
            .max_by(|a, b| a.excess().total_cmp(&b.excess()))
        {
            None => feasible.push(cell),
            Some(worst) if nearest.is_none_or(|(e, ..)| worst.excess() < e) => {
                nearest = Some((worst.excess(), cell, *worst));
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
        pick: pick(&ranked, &scenario, &judged, largest_of_several(&of_work)),
        nearest: nearest
            .filter(|_| feasible.is_empty())
            .map(|(_, cell, obstacle)| (cell, obstacle)),
        ranked,
        scenario,
    }
}

/// The largest batch size, where there is a smaller one.
fn largest_of_several(cells: &[&Measured]) -> Option<usize> {
    let sizes = || cells.iter().map(|c| c.result.cell.batch_size);
    sizes()
        .max()
        .filter(|&largest| sizes().any(|size| size < largest))
}

fn pick<'a>(
    ranked: &[Candidate<'a>],
    scenario: &Scenario,
    judged: &[&Measured],
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
        sent: sent(chosen.cell, judged),
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

fn sent(chosen: &Measured, judged: &[&Measured]) -> Option<(f64, bool)> {
    let rate = chosen.result.request_rate?;
    let rates = judged.iter().filter_map(|c| c.result.request_rate);
    Some((rate, rates.fold(0.0, f64::max) <= rate))
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
            (None, Some((cell, obstacle))) => {
                let keeps = match self.scenario.slos.is_empty() {
                    true => String::new(),
                    false => format!(
                        ": none of {} cells keeps {}",
                        self.considered,
                        self.scenario.limits()
                    ),
                };
                vec![format!(
                    "no feasible configuration{keeps}; nearest is {}, where {obstacle}",
                    cell.result.cell
                )]
            }
            (None, None) => {
                let unit = self.scenario.objective.unit();
                vec![match self.feasible {
                    0 => "no cell was measured, so none can be chosen".into(),
                    n => format!(
                        "{n} cells are feasible, but none of them knows {unit}, so none can be chosen"
                    ),
                }]
            }
        }
    }

    fn reasons_for(&self, pick: &Pick<'_>) -> Vec<String> {
        let server = pick.chosen.cell.result.cell.policy == PolicyKind::Server;
        let mut reasons = vec![format!(
            "{} {}, the best of {} feasible cells of {}",
            pick.chosen.value,
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
        if let Some((rate, highest)) = pick.sent {
            let rate = short(Some(rate));
            let finder = match server {
                true => "a higher --request-rate",
                false => "--experiment saturation",
            };
            reasons.push(match highest {
                true => format!(
                    "{rate} req/s were sent, and nobody was sent more: {finder} finds the limit"
                ),
                false => format!("{rate} req/s were sent"),
            });
        }
        if pick.at_largest_batch {
            reasons.push(match server {
                true => "no more clients were measured: more may be better still".into(),
                false => "no larger batch size was measured: one may be better still".into(),
            });
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
