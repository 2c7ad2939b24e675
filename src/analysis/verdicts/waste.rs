//! Padding, idle rows, and what becomes of them under continuous batching (day2 §3.3, §4.3).

use super::{NO_INTERVAL, Ruling, Verdict, untested};
use crate::analysis::costs::{idle_costs, padding_costs};
use crate::analysis::estimate::{Estimate, Order, THROUGHPUT};
use crate::analysis::lines::{Axis, lines};
use crate::number::short;
use crate::sweep::{Measured, PolicyKind};

pub(super) fn padding_costs_something(cells: &[Measured]) -> Verdict {
    let (section, claim) = (
        "§3.3, §6",
        "padding costs computation that nobody asked for",
    );
    let costs = padding_costs(cells);
    let worst = costs
        .iter()
        .max_by(|a, b| a.waste_percent.total_cmp(&b.waste_percent));
    let Some(cost) = worst else {
        return untested(
            section,
            claim,
            "no padded cell with prompts of mixed lengths stands beside a ragged one; run --experiment padding",
        );
    };
    let (ruling, why) = match cost.latency_interval {
        Some(d) if d.mean - d.half_width > 0.0 => (
            Ruling::Holds,
            "the padded positions are computed, and every request answers later for it".into(),
        ),
        Some(d) if d.mean + d.half_width < 0.0 => {
            (Ruling::DoesNotHold, "the padded cell answers sooner".to_string())
        }
        Some(_) => (
            Ruling::CannotTell,
            "positions are wasted, but the interval of the latency difference holds zero: repeat with --num-runs 5".into(),
        ),
        None => (Ruling::CannotTell, NO_INTERVAL.into()),
    };
    let mut numbers = format!(
        "batch {}: {} % of all positions are padding, {} a request; {} ms of computing and {} ms of latency more than ragged",
        cost.padded.result.cell.batch_size,
        short(Some(cost.waste_percent)),
        short(Some(cost.positions)),
        short(Some(cost.busy_ms)),
        short(Some(cost.latency_ms))
    );
    if let Some(d) = cost.latency_interval {
        numbers += &format!(" (±{})", short(Some(d.half_width)));
    }
    if let Some(joules) = cost.energy_j {
        numbers += &format!(", {} J a request", short(Some(joules)));
    }
    Verdict {
        section,
        claim: claim.into(),
        ruling,
        numbers,
        why,
    }
}

pub(super) fn idle_rows_cost(cells: &[Measured]) -> Verdict {
    let (section, claim) = (
        "§4.3",
        "a batch whose rows end at different times idles until the slowest ends",
    );
    let costs = idle_costs(cells);
    let worst = costs
        .iter()
        .filter(|c| c.beside.is_some())
        .max_by(|a, b| a.percent().total_cmp(&b.percent()));
    let Some((cost, equal)) = worst.and_then(|c| Some((c, c.beside?))) else {
        return untested(
            section,
            claim,
            "no cell with mixed output lengths stands beside one with equal lengths; run --experiment idle-rows",
        );
    };
    let both = (
        Estimate::of(cost.cell, THROUGHPUT),
        Estimate::of(equal, THROUGHPUT),
    );
    let (Some(mixed), Some(even)) = both else {
        return untested(section, claim, "a cell has no completed request");
    };
    let (ruling, why) = match mixed.against(&even) {
        Order::Below => (Ruling::Holds, "the same rows give fewer tokens per second"),
        Order::Above => (
            Ruling::DoesNotHold,
            "mixed lengths give more tokens per second",
        ),
        Order::Unsure => (Ruling::CannotTell, NO_INTERVAL),
    };
    Verdict {
        section,
        claim: claim.into(),
        ruling,
        numbers: format!(
            "batch {}, output {}: {} % of the row-steps are idle, {} ms of decoding a request; {} tok/s against {} at output {}",
            cost.cell.result.cell.batch_size,
            cost.cell.result.cell.output_len,
            short(Some(cost.percent())),
            short(Some(cost.idle_ms)),
            mixed,
            even,
            equal.result.cell.output_len
        ),
        why: why.into(),
    }
}

fn idle(cell: &Measured) -> Option<f64> {
    cell.result.mean(|r| r.summary.idle_percent())
}

/// How much idles under static, in percent, and both cells. Not under open loads: what can be served
/// as it comes gives as many tokens under every policy.
fn static_beside_continuous<'a>(
    line: &[&'a Measured],
) -> Option<(f64, &'a Measured, &'a Measured)> {
    let of = |policy| {
        line.iter()
            .find(|c| c.result.cell.policy == policy)
            .copied()
    };
    let (fixed, continuous) = (of(PolicyKind::Static)?, of(PolicyKind::Continuous)?);
    let idles = idle(fixed).filter(|percent| *percent > 0.0)?;
    (!fixed.result.cell.load.is_open()).then_some((idles, fixed, continuous))
}

pub(super) fn continuous_fills_them(cells: &[Measured]) -> Verdict {
    let (section, claim) = (
        "§4.3",
        "where rows join and leave between steps, none idles, and there are more tokens per second",
    );
    let pairs = lines(cells, Axis::Policy);
    let pairs = pairs
        .iter()
        .filter_map(|line| static_beside_continuous(line));
    let most = pairs.max_by(|a, b| a.0.total_cmp(&b.0));
    let Some((idles, fixed, continuous)) = most else {
        return untested(
            section,
            claim,
            "no ragged static cell with idle rows stands beside a continuous one; run --experiment mixed-lengths",
        );
    };
    let throughput = |c| Estimate::of(c, THROUGHPUT);
    let (Some(a), Some(b)) = (throughput(fixed), throughput(continuous)) else {
        return untested(section, claim, "a cell has no completed request");
    };
    let still_idle = idle(continuous).unwrap_or_default();
    let (ruling, why) = match b.against(&a) {
        Order::Above if still_idle == 0.0 => (
            Ruling::Holds,
            format!(
                "{} % more tokens per second",
                short(Some(100.0 * (b.mean / a.mean - 1.0)))
            ),
        ),
        Order::Above => (Ruling::DoesNotHold, "rows of continuous idle".into()),
        Order::Below => (
            Ruling::DoesNotHold,
            "continuous gives fewer tokens per second".into(),
        ),
        Order::Unsure => (Ruling::CannotTell, NO_INTERVAL.into()),
    };
    let cell = &fixed.result.cell;
    Verdict {
        section,
        claim: claim.into(),
        ruling,
        numbers: format!(
            "batch {}, output {}, {}: {} % of the row-steps idle under static, {} % under continuous; {a} tok/s against {b}",
            cell.batch_size,
            cell.output_len,
            cell.load,
            short(Some(idles)),
            short(Some(still_idle)),
        ),
        why,
    }
}
