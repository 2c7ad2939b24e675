//! day2's expectations (§5.3, §6), each tested by the data of a sweep.

use std::fmt;

use super::advice::with_interval;
use super::costs::{idle_costs, padding_costs};
use super::estimate::{BATCH_SIZE, Estimate, LATENCY, Order, QUEUE, Quantity, THROUGHPUT};
use super::lines::{Axis, lines};
use super::scaling::ScalingPoint;
use crate::number::short;
use crate::sweep::{Measured, PolicyKind};

/// What the data say to a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ruling {
    Holds,
    DoesNotHold,
    CannotTell,
}

impl fmt::Display for Ruling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Holds => "holds",
            Self::DoesNotHold => "does not hold",
            Self::CannotTell => "cannot be told from this data",
        })
    }
}

/// A claim, tested.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// Where day2 makes the claim.
    pub section: &'static str,
    pub claim: String,
    pub ruling: Ruling,
    /// What was measured, with intervals.
    pub numbers: String,
    pub why: String,
}

/// What the claims are tested on.
pub struct Evidence<'a> {
    pub cells: &'a [Measured],
    /// Cells that differ in the batch size alone, ascending; empty without two sizes.
    pub ladder: &'a [&'a Measured],
    pub scaling: &'a [ScalingPoint],
    /// Peak of the KV cache for each cell of the ladder, in bytes.
    pub kv_bytes: &'a [(usize, f64)],
    /// Utilisation of each cell of the ladder; none where no GPU was watched.
    pub gpu_utilization: &'a [(usize, Option<Estimate>)],
}

/// Every claim, in day2's order.
pub fn verdicts(evidence: &Evidence<'_>) -> Vec<Verdict> {
    vec![
        swallows(evidence.scaling),
        trades_off(evidence.ladder),
        static_explodes(evidence.cells),
        window_balances(evidence.cells),
        padding_costs_something(evidence.cells),
        kv_grows_linearly(evidence.kv_bytes),
        idle_rows_cost(evidence.cells),
        smallest_is_fastest(evidence.ladder),
        largest_has_most_throughput(evidence.ladder),
        largest_uses_the_gpu_most(evidence.gpu_utilization),
    ]
}

/// Not tested: what is missing, and the sweep that has it.
fn untested(section: &'static str, claim: impl Into<String>, missing: &str) -> Verdict {
    Verdict {
        section,
        claim: claim.into(),
        ruling: Ruling::CannotTell,
        numbers: "–".into(),
        why: missing.into(),
    }
}

const NO_LADDER: &str = "the sweep has no two batch sizes that differ in nothing else";
const NO_INTERVAL: &str =
    "an interval is missing or holds zero: repeat with --num-runs 5, or with more --num-prompts";

fn swallows(scaling: &[ScalingPoint]) -> Verdict {
    let (section, claim) = (
        "§1.3",
        "B times the work takes far less than B times as long",
    );
    let Some(last) = scaling.last() else {
        return untested(section, claim, NO_LADDER);
    };
    let (work, slower) = (last.work, last.decode_ratio.max(last.prefill_ratio));
    // "Far less", in numbers: at most half.
    let ruling = match slower {
        r if r <= work / 2.0 => Ruling::Holds,
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

fn trades_off(ladder: &[&Measured]) -> Verdict {
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
        return untested(section, claim, NO_LADDER);
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
            sizes.0,
            sizes.1,
            with_interval(&t0),
            with_interval(&t1),
            with_interval(&l0),
            with_interval(&l1)
        ),
        why,
    }
}

fn static_explodes(cells: &[Measured]) -> Verdict {
    let (section, claim) = (
        "§3.1",
        "when requests are few, static batching's latency explodes and a wait window bounds it",
    );
    let beside = |line: &Vec<&Measured>| {
        let of = |policy| line.iter().any(|c| c.result.cell.policy == policy);
        let cell = &line[0].result.cell;
        let both = of(PolicyKind::Static) && of(PolicyKind::Dynamic);
        both && cell.load.is_open() && cell.batch_size > 1
    };
    let rate = |line: &Vec<&Measured>| line[0].result.request_rate.unwrap_or(f64::INFINITY);
    let rarest = lines(cells, Axis::Policy)
        .into_iter()
        .filter(beside)
        .min_by(|a, b| rate(a).total_cmp(&rate(b)));
    let Some(line) = rarest else {
        return untested(
            section,
            claim,
            "no static cell stands beside a dynamic one under the same arrivals; run --experiment few-requests",
        );
    };
    let latency = |policy| {
        let of_policy = line.iter().filter(move |c| c.result.cell.policy == policy);
        of_policy.filter_map(|c| Estimate::of(c, LATENCY))
    };
    let (Some(fixed), dynamic) = (
        latency(PolicyKind::Static).next(),
        latency(PolicyKind::Dynamic).collect::<Vec<_>>(),
    ) else {
        return untested(
            section,
            claim,
            "no request of the static cell was completed",
        );
    };
    let orders: Vec<Order> = dynamic.iter().map(|d| fixed.against(d)).collect();
    let ruling = if orders.contains(&Order::Below) {
        Ruling::DoesNotHold
    } else if !orders.is_empty() && orders.iter().all(|o| *o == Order::Above) {
        Ruling::Holds
    } else {
        Ruling::CannotTell
    };
    let slowest = dynamic.iter().map(|d| d.mean).fold(0.0, f64::max);
    let listed: Vec<String> = dynamic.iter().map(with_interval).collect();
    Verdict {
        section,
        claim: claim.into(),
        ruling,
        numbers: format!(
            "batch {} at {} req/s: static {} ms, dynamic {} ms",
            line[0].result.cell.batch_size,
            short(line[0].result.request_rate),
            with_interval(&fixed),
            listed.join(", ")
        ),
        why: match ruling {
            Ruling::Holds => format!(
                "static waits until the batch is full: {} times as long as the slowest window",
                short(Some(fixed.mean / slowest))
            ),
            Ruling::DoesNotHold => "some window of dynamic is slower than static".into(),
            Ruling::CannotTell => NO_INTERVAL.into(),
        },
    }
}

fn window_balances(cells: &[Measured]) -> Verdict {
    let (section, claim) = ("§3.2, §6", "a wait window buys larger batches with waiting");
    let line = lines(cells, Axis::Window)
        .into_iter()
        .filter(|line| {
            let cell = &line[0].result.cell;
            cell.policy == PolicyKind::Dynamic && cell.load.is_open() && cell.batch_size > 1
        })
        .rev()
        .max_by_key(|line| line[0].result.cell.batch_size);
    let window = |c: &&&Measured| c.result.cell.window_ms.unwrap_or_default();
    let ends = line.as_ref().and_then(|line| {
        let shortest = line.iter().min_by(|a, b| window(a).total_cmp(&window(b)))?;
        let longest = line.iter().max_by(|a, b| window(a).total_cmp(&window(b)))?;
        Some((*shortest, *longest))
    });
    let Some((shortest, longest)) = ends else {
        return untested(
            section,
            claim,
            "no two windows stand under the same open load; give --windows-ms 0,10 and --load day2",
        );
    };
    let both = |quantity| {
        Some((
            Estimate::of(shortest, quantity)?,
            Estimate::of(longest, quantity)?,
        ))
    };
    let (Some((b0, b1)), Some((q0, q1))) = (both(BATCH_SIZE), both(QUEUE)) else {
        return untested(section, claim, "a cell has no completed request");
    };
    let (ruling, why) = match (b1.against(&b0), q1.against(&q0)) {
        (Order::Above, Order::Above) => (
            Ruling::Holds,
            format!(
                "batches are {} % larger for {} ms more in the queue",
                short(Some(100.0 * (b1.mean / b0.mean - 1.0))),
                short(Some(q1.mean - q0.mean))
            ),
        ),
        (Order::Above, Order::Below) => (
            Ruling::DoesNotHold,
            "the longer window has larger batches and even shorter queues: at this load the larger batches win back more than the window costs".into(),
        ),
        (Order::Below, _) => (Ruling::DoesNotHold, "the longer window has smaller batches".into()),
        _ => (Ruling::CannotTell, NO_INTERVAL.into()),
    };
    Verdict {
        section,
        claim: claim.into(),
        ruling,
        numbers: format!(
            "batch {} at {} req/s, window {} → {} ms: {} → {} rows a batch, {} → {} ms in the queue",
            longest.result.cell.batch_size,
            short(longest.result.request_rate),
            window(&&shortest),
            window(&&longest),
            with_interval(&b0),
            with_interval(&b1),
            with_interval(&q0),
            with_interval(&q1)
        ),
        why,
    }
}

fn padding_costs_something(cells: &[Measured]) -> Verdict {
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

fn kv_grows_linearly(kv_bytes: &[(usize, f64)]) -> Verdict {
    let (section, claim) = (
        "§4.1, §6",
        "KV-cache memory grows linearly with the batch size",
    );
    let Some(&(first, bytes)) = kv_bytes
        .first()
        .filter(|(_, b)| *b > 0.0 && kv_bytes.len() > 1)
    else {
        return untested(section, claim, NO_LADDER);
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

fn idle_rows_cost(cells: &[Measured]) -> Verdict {
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
            with_interval(&mixed),
            with_interval(&even),
            equal.result.cell.output_len
        ),
        why: why.into(),
    }
}

fn smallest_is_fastest(ladder: &[&Measured]) -> Verdict {
    let size = ladder.first().map_or(1, |c| c.result.cell.batch_size);
    let values = estimates(ladder, LATENCY);
    Extreme {
        section: "§5.3",
        claim: format!("batch {size} has the lowest latency"),
        unit: "ms",
        at: values.first().copied(),
        others: values.get(1..).unwrap_or_default(),
        expected: Order::Above,
    }
    .verdict()
}

fn largest_has_most_throughput(ladder: &[&Measured]) -> Verdict {
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
    }
    .verdict()
}

fn largest_uses_the_gpu_most(utilization: &[(usize, Option<Estimate>)]) -> Verdict {
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
    }
    .verdict()
}

fn estimates(ladder: &[&Measured], quantity: Quantity<'_>) -> Vec<(usize, Estimate)> {
    let of = |c: &&Measured| Some((c.result.cell.batch_size, Estimate::of(c, quantity)?));
    ladder.iter().filter_map(of).collect()
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
}

impl Extreme<'_> {
    fn verdict(self) -> Verdict {
        let Some((size, value)) = self.at.filter(|_| !self.others.is_empty()) else {
            return untested(self.section, self.claim, NO_LADDER);
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
            .map(|(size, v)| format!("batch {size} {} {}", with_interval(v), self.unit));
        Verdict {
            section: self.section,
            claim: self.claim,
            ruling,
            numbers: listed.collect::<Vec<_>>().join(", "),
            why,
        }
    }
}
