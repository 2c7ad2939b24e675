//! Static batching and the wait window (day2 §3.1, §3.2).

use super::{NO_INTERVAL, Ruling, Verdict, untested};
use crate::analysis::estimate::{BATCH_SIZE, Estimate, LATENCY, Order, QUEUE};
use crate::analysis::lines::{Axis, lines};
use crate::number::short;
use crate::sweep::{Measured, PolicyKind};

pub(super) fn static_explodes(cells: &[Measured]) -> Verdict {
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
    let latency = |policy| -> Option<Vec<Estimate>> {
        let of_policy = line.iter().filter(|c| c.result.cell.policy == policy);
        of_policy.map(|c| Estimate::of(c, LATENCY)).collect()
    };
    let both = latency(PolicyKind::Static).zip(latency(PolicyKind::Dynamic));
    let Some((fixed, dynamic)) = both.and_then(|(fixed, dynamic)| Some((*fixed.first()?, dynamic)))
    else {
        return untested(section, claim, "a cell has no completed request");
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
    let listed: Vec<String> = dynamic.iter().map(Estimate::to_string).collect();
    Verdict {
        section,
        claim: claim.into(),
        ruling,
        numbers: format!(
            "batch {} at {} req/s: static {} ms, dynamic {} ms",
            line[0].result.cell.batch_size,
            short(line[0].result.request_rate),
            fixed,
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

pub(super) fn window_balances(cells: &[Measured]) -> Verdict {
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
            b0,
            b1,
            q0,
            q1
        ),
        why,
    }
}
