//! A few sentences, each written from the numbers.

use super::advice::Advice;
use super::estimate::{Estimate, LATENCY, Order, THROUGHPUT};
use super::tradeoff::TradeOff;
use super::verdicts::{Ruling, Verdict};
use crate::number::short;
use crate::sweep::Measured;

pub fn conclusion(
    ladder: &[&Measured],
    trade_offs: &[TradeOff<'_>],
    verdicts: &[Verdict],
    advice: &[Advice<'_>],
) -> Vec<String> {
    let mut sentences = Vec::new();
    sentences.extend(batching(ladder));
    sentences.extend(trade_offs.iter().find(|t| !t.open).and_then(frontier));
    sentences.extend(expectations(verdicts));
    sentences.extend(advice.iter().map(pick));
    sentences
}

fn batching(ladder: &[&Measured]) -> Option<String> {
    let (first, last) = (ladder.first()?, ladder.last()?);
    let throughput = |c: &Measured| c.result.mean(|r| Some(r.summary.output_throughput));
    let latency = |c: &Measured| c.result.mean(|r| Some(r.summary.e2el_ms.as_ref()?.mean));
    let (t0, t1) = (throughput(first)?, throughput(last)?);
    let (l0, l1) = (latency(first)?, latency(last)?);
    Some(format!(
        "From {} to {} output throughput goes from {} to {} tok/s ({}×) and mean latency from {} to {} ms ({}×), under {} and {}.",
        first.result.cell.size(),
        last.result.cell.size(),
        short(Some(t0)),
        short(Some(t1)),
        short(Some(t1 / t0)),
        short(Some(l0)),
        short(Some(l1)),
        short(Some(l1 / l0)),
        first.result.cell.load,
        last.result.cell.load
    ))
}

fn frontier(t: &TradeOff<'_>) -> Option<String> {
    let name = |&i: &usize| t.cells[i].result.cell.to_string();
    let (first, last) = (t.frontier.first()?, t.frontier.last()?);
    let others = others(t)?;
    Some(match (t.frontier.len(), t.knee) {
        (1, _) => format!(
            "One setting has the best mean latency and the best throughput ({}); {others}.",
            name(first)
        ),
        (n, Some(knee)) => format!(
            "{n} settings are worth considering; {others}; the knee is {}: {} tok/s at {} ms.",
            name(&knee),
            short(Some(t.points[knee].throughput)),
            short(Some(t.points[knee].latency))
        ),
        (n, None) => format!(
            "{n} settings are worth considering, from {} to {}; no knee stands out; {others}.",
            name(first),
            name(last)
        ),
    })
}

/// What the intervals say of the settings off the frontier; none of a single setting.
fn others(t: &TradeOff<'_>) -> Option<String> {
    let estimate = |c: &&Measured| Some((Estimate::of(c, THROUGHPUT)?, Estimate::of(c, LATENCY)?));
    let all: Vec<_> = t.cells.iter().map(estimate).collect::<Option<_>>()?;
    let loses = |i: &usize| {
        let (throughput, latency) = all[*i];
        t.frontier.iter().any(|&on_it| {
            all[on_it].0.against(&throughput) == Order::Above
                && all[on_it].1.against(&latency) == Order::Below
        })
    };
    let off: Vec<usize> = (0..all.len()).filter(|i| !t.frontier.contains(i)).collect();
    let (n, sure) = (off.len(), off.iter().filter(|i| loses(i)).count());
    let beaten = |count| match count {
        1 => "is beaten in latency and throughput at once",
        _ => "are beaten in latency and throughput at once",
    };
    match (n, sure) {
        (0, _) if all.len() == 1 => None,
        (0, _) => Some("none was beaten in both".into()),
        (_, 0) => Some(format!(
            "whether the other {n} {} cannot be told",
            beaten(n)
        )),
        _ if sure == n => Some(format!("the other {n} {}", beaten(n))),
        _ => Some(format!(
            "of the other {n} {sure} {}, of the rest it cannot be told",
            beaten(sure)
        )),
    }
}

/// None where none was to be tested.
fn expectations(verdicts: &[Verdict]) -> Option<String> {
    if verdicts.is_empty() {
        return None;
    }
    let of = |ruling| verdicts.iter().filter(move |v| v.ruling == ruling);
    let mut text = format!(
        "Of {} expectations {} hold",
        verdicts.len(),
        of(Ruling::Holds).count()
    );
    let not: Vec<&str> = of(Ruling::DoesNotHold).map(|v| v.claim.as_str()).collect();
    if !not.is_empty() {
        text += &format!(", {} do not ({})", not.len(), not.join("; "));
    }
    match of(Ruling::CannotTell).count() {
        0 => {}
        n => text += &format!(", {n} cannot be told from this data"),
    }
    Some(text + ".")
}

fn pick(advice: &Advice<'_>) -> String {
    let name = advice.scenario.name;
    match &advice.pick {
        Some(pick) => format!(
            "For {name}: {}, with {} {}.",
            pick.chosen.cell.result.cell,
            short(Some(pick.chosen.value.mean)),
            advice.scenario.objective.unit()
        ),
        None => format!("For {name}: {}.", advice.reasons().join("; ")),
    }
}
