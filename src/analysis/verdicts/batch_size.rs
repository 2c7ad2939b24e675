//! What the batch size does to latency, throughput, memory and the GPU (day2 §1.3, §2, §4, §5.3).

use super::{INCOMPLETE, NO_INTERVAL, NO_LADDER, Ruling, Verdict, untested};
use crate::analysis::estimate::{Estimate, LATENCY, Order, Quantity, THROUGHPUT};
use crate::analysis::scaling::ScalingPoint;
use crate::number::short;
use crate::sweep::Measured;

pub(super) fn swallows(scaling: &[ScalingPoint]) -> Verdict {
    let (section, claim) = (
        "§1.3",
        "B times the work takes far less than B times as long",
    );
    let Some(last) = scaling.last() else {
        return untested(section, claim, INCOMPLETE);
    };
    let (work, slower) = (last.work, last.decode_ratio.max(last.prefill_ratio));
    // "Far less", in numbers: at most half of what the work grows by.
    let ruling = match slower {
        r if r - 1.0 <= (work - 1.0) / 2.0 => Ruling::Holds,
        r if r >= work => Ruling::DoesNotHold,
        _ => Ruling::CannotTell,
    };
    let times = |v: f64| format!("{}×", short(Some(v)));
    Verdict {
        section,
        claim: claim.into(),
        ruling,
        numbers: format!(
            "{} the rows: prefill takes {} as long, a decode step {}",
            times(work),
            times(last.prefill_ratio),
            times(last.decode_ratio)
        ),
        why: match ruling {
            Ruling::Holds => "even the slower of the two grows at most half as fast as the work",
            Ruling::DoesNotHold => "one of the two grows as fast as the work: there is nothing left to fill",
            Ruling::CannotTell => "one of the two grows more than half as fast as the work, which is less, but not far less",
        }
        .into(),
    }
}

pub(super) fn trades_off(ladder: &[&Measured]) -> Verdict {
    let (section, claim) = (
        "§2.1, §6",
        "a larger batch has more throughput and more latency",
    );
    let (Some(first), Some(last)) = (ladder.first(), ladder.last()) else {
        return untested(section, claim, NO_LADDER);
    };
    let both = |quantity| {
        Some((
            Estimate::of(first, quantity)?,
            Estimate::of(last, quantity)?,
        ))
    };
    let (Some((t0, t1)), Some((l0, l1))) = (both(THROUGHPUT), both(LATENCY)) else {
        return untested(section, claim, INCOMPLETE);
    };
    let (throughput, latency) = (t1.against(&t0), l1.against(&l0));
    let (ruling, why) = match (throughput, latency) {
        (Order::Above, Order::Above) => (Ruling::Holds, "both rise".to_string()),
        (Order::Below, _) => (Ruling::DoesNotHold, "throughput falls".into()),
        (_, Order::Below) => (Ruling::DoesNotHold, "latency falls".into()),
        _ => (Ruling::CannotTell, NO_INTERVAL.into()),
    };
    let sizes = (first.result.cell.batch_size, last.result.cell.batch_size);
    Verdict {
        section,
        claim: claim.into(),
        ruling,
        numbers: format!(
            "batch {} → {}: {} → {} tok/s, {} → {} ms",
            sizes.0, sizes.1, t0, t1, l0, l1
        ),
        why,
    }
}

pub(super) fn kv_grows_linearly(ladder: &[&Measured], kv_bytes: &[(&Measured, f64)]) -> Verdict {
    let (section, claim) = (
        "§4.1, §6",
        "KV-cache memory grows linearly with the batch size",
    );
    if ladder.len() < 2 {
        return untested(section, claim, NO_LADDER);
    }
    let sized = |(cell, bytes): &(&Measured, f64)| (cell.result.cell.batch_size, *bytes);
    let kv_bytes: Vec<(usize, f64)> = kv_bytes.iter().map(sized).collect();
    let known = kv_bytes.len() == ladder.len() && kv_bytes.iter().all(|(_, b)| *b > 0.0);
    let Some(&(first, bytes)) = kv_bytes.first().filter(|_| known) else {
        return untested(section, claim, INCOMPLETE);
    };
    let ratio = |&(rows, b): &(usize, f64)| b / bytes / (rows as f64 / first as f64);
    let ratios = kv_bytes.iter().map(ratio);
    let apart = ratios.map(|r| (r - 1.0).abs()).fold(0.0, f64::max);
    let ruling = match apart <= 0.02 {
        true => Ruling::Holds,
        false => Ruling::DoesNotHold,
    };
    let listed = kv_bytes
        .iter()
        .map(|(rows, b)| format!("batch {rows} {} MiB", short(Some(b / f64::from(1 << 20)))));
    Verdict {
        section,
        claim: claim.into(),
        ruling,
        numbers: listed.collect::<Vec<_>>().join(", "),
        why: format!(
            "pages in use at the fullest step; from proportional by at most {} %",
            short(Some(100.0 * apart))
        ),
    }
}

pub(super) fn smallest_is_fastest(ladder: &[&Measured]) -> Verdict {
    let size = ladder.first().map_or(1, |c| c.result.cell.batch_size);
    let values = estimates(ladder, LATENCY);
    Extreme {
        section: "§5.3",
        claim: format!("batch {size} has the lowest latency"),
        unit: "ms",
        at: values.first().copied(),
        others: values.get(1..).unwrap_or_default(),
        expected: Order::Above,
        missing: missing(ladder.len()),
    }
    .verdict()
}

pub(super) fn largest_has_most_throughput(ladder: &[&Measured]) -> Verdict {
    let size = ladder.last().map_or(8, |c| c.result.cell.batch_size);
    let values = estimates(ladder, THROUGHPUT);
    let (at, others) = values
        .split_last()
        .map_or((None, &[][..]), |(l, o)| (Some(*l), o));
    Extreme {
        section: "§5.3",
        claim: format!("batch {size} has the highest throughput"),
        unit: "tok/s",
        at,
        others,
        expected: Order::Below,
        missing: missing(ladder.len()),
    }
    .verdict()
}

pub(super) fn largest_uses_the_gpu_most(utilization: &[(usize, Option<Estimate>)]) -> Verdict {
    let size = utilization.last().map_or(8, |(size, _)| *size);
    let claim = format!("batch {size} has the highest GPU utilisation");
    let known: Option<Vec<(usize, Estimate)>> = utilization
        .iter()
        .map(|(size, estimate)| Some((*size, (*estimate)?)))
        .collect();
    let Some(known) = known else {
        return untested("§5.3", claim, "no GPU was watched");
    };
    let (at, others) = known
        .split_last()
        .map_or((None, &[][..]), |(l, o)| (Some(*l), o));
    Extreme {
        section: "§5.3",
        claim,
        unit: "%",
        at,
        others,
        expected: Order::Below,
        missing: missing(utilization.len()),
    }
    .verdict()
}

fn missing(sizes: usize) -> &'static str {
    match sizes {
        0 | 1 => NO_LADDER,
        _ => INCOMPLETE,
    }
}

/// Of every cell of the ladder, or of none.
fn estimates(ladder: &[&Measured], quantity: Quantity<'_>) -> Vec<(usize, Estimate)> {
    let of = |c: &&Measured| Some((c.result.cell.batch_size, Estimate::of(c, quantity)?));
    let all: Option<Vec<_>> = ladder.iter().map(of).collect();
    all.unwrap_or_default()
}

/// The claim that one batch size is beyond all others.
struct Extreme<'a> {
    section: &'static str,
    claim: String,
    unit: &'static str,
    at: Option<(usize, Estimate)>,
    others: &'a [(usize, Estimate)],
    /// Where every other one is expected to lie.
    expected: Order,
    /// What is missing where there is nothing to compare.
    missing: &'static str,
}

impl Extreme<'_> {
    fn verdict(self) -> Verdict {
        let Some((size, value)) = self.at.filter(|_| !self.others.is_empty()) else {
            return untested(self.section, self.claim, self.missing);
        };
        let orders = self
            .others
            .iter()
            .map(|(size, other)| (*size, other.against(&value), other));
        let contrary = orders
            .clone()
            .find(|(_, order, _)| *order != self.expected && *order != Order::Unsure);
        let unsure = orders.clone().find(|(_, order, _)| *order == Order::Unsure);
        let percent = |other: &Estimate| short(Some(100.0 * (other.mean / value.mean - 1.0)));
        let (ruling, why) = match (contrary, unsure) {
            (Some((other, _, estimate)), _) => (
                Ruling::DoesNotHold,
                format!(
                    "batch {other} is {} % from batch {size}, the other way",
                    percent(estimate)
                ),
            ),
            (None, Some((other, _, estimate))) => (
                Ruling::CannotTell,
                format!(
                    "batch {other} is {} % from batch {size}; {NO_INTERVAL}",
                    percent(estimate)
                ),
            ),
            (None, None) => {
                let apart = orders.map(|(other, _, estimate)| {
                    format!("batch {other} by {} %", percent(estimate))
                });
                (
                    Ruling::Holds,
                    format!(
                        "from batch {size} differ {}",
                        apart.collect::<Vec<_>>().join(", ")
                    ),
                )
            }
        };
        let mut all: Vec<&(usize, Estimate)> = self.others.iter().collect();
        let own = (size, value);
        all.push(&own);
        all.sort_by_key(|(size, _)| *size);
        let listed = all
            .iter()
            .map(|(size, v)| format!("batch {size} {} {}", v, self.unit));
        Verdict {
            section: self.section,
            claim: self.claim,
            ruling,
            numbers: listed.collect::<Vec<_>>().join(", "),
            why,
        }
    }
}
