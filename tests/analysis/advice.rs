//! Picks for made cells, borders included.

use batchlab::analysis::{Objective, Obstacle, Scenario, advise, goodput, obstacles};
use batchlab::sweep::Measured;

use crate::made::{SHAPE, Shape, cell, closed, poisson};

fn chat() -> Scenario {
    let [chat, _, _] = Scenario::presets();
    chat
}

/// Under Poisson arrivals, with this TTFT for every request.
fn with_ttft(index: usize, rows: usize, ttft_ms: f64) -> Measured {
    let shape = Shape {
        rows,
        queue_ms: ttft_ms - SHAPE.prefill_ms,
        jitter_ms: 0.0,
        batches: 40,
        rate: Some(index as f64 + 1.0),
        ..SHAPE
    };
    cell(index, poisson(8, index as f64 + 1.0), shape)
}

#[test]
fn a_limit_is_kept_at_its_border() {
    let slos = chat().slos;
    assert_eq!(obstacles(&with_ttft(0, 1, 200.0), &slos), []);
    let over = obstacles(&with_ttft(0, 1, 200.5), &slos);
    assert!(matches!(over[..], [Obstacle::Limit { p99_ms, .. }] if (p99_ms - 200.5).abs() < 1e-6));
    // ITL: gaps of 90 / 9 = 10 ms; ten times that is over 50.
    let slow = Shape {
        service_ms: 910.0,
        ..SHAPE
    };
    let found = obstacles(&cell(0, closed(1), slow), &slos);
    assert!(matches!(found[..], [Obstacle::Limit { .. }]), "{found:?}");
}

#[test]
fn the_best_feasible_setting_is_picked_and_the_reason_has_the_numbers() {
    // Four rows a batch serve more, but too late; two rows are the best in time.
    let cells = [
        with_ttft(0, 1, 50.0),
        with_ttft(1, 2, 150.0),
        with_ttft(2, 4, 900.0),
    ];
    let advice = advise(&cells, chat());
    assert_eq!((advice.considered, advice.feasible), (3, 2));
    let pick = advice.pick.as_ref().unwrap();
    assert_eq!(pick.chosen.cell.result.index, 1);
    let reason = advice.reasons().join("; ");
    assert!(reason.contains("best of 2 feasible cells of 3"), "{reason}");
    assert!(
        reason.contains("p99 TTFT 150.0 of 200 ms allowed (n = 80)"),
        "{reason}"
    );
    assert!(
        reason.contains("against the next, dynamic batch 8 window 0 ms, Poisson, 1 req/s"),
        "{reason}"
    );
}

#[test]
fn where_nothing_is_feasible_it_says_so_and_names_the_nearest() {
    let cells = [with_ttft(0, 1, 900.0), with_ttft(1, 2, 300.0)];
    let advice = advise(&cells, chat());
    assert!(advice.pick.is_none());
    let only = advise(&cells[1..], Scenario::own(vec![], Objective::Goodput));
    assert!(
        only.reasons()
            .iter()
            .any(|r| r.starts_with("2.00 req/s were sent, and nobody"))
    );
    let reason = advice.reasons().join("; ");
    assert!(
        reason.starts_with("no feasible configuration: none of 2 cells keeps"),
        "{reason}"
    );
    assert!(
        reason.contains("2 req/s, where p99 TTFT is 300.0 ms, the limit 200 ms"),
        "{reason}"
    );
    let [_, _, documents] = Scenario::presets();
    let failed = Shape {
        failed: 20,
        ..SHAPE
    };
    let without_limits = advise(&[cell(0, closed(1), failed)], documents)
        .reasons()
        .join("; ");
    assert!(
        without_limits.starts_with("no feasible configuration; nearest is dynamic batch 1"),
        "{without_limits}"
    );
    // No cells at all.
    let none = advise(&[], chat());
    assert!(none.pick.is_none() && none.reasons()[0].contains("no cell was measured"));
}

#[test]
fn errors_count_against_a_setting() {
    let failing = |failed| {
        let shape = Shape {
            failed,
            batches: 200,
            jitter_ms: 0.0,
            ..SHAPE
        };
        obstacles(&cell(0, closed(1), shape), &[])
    };
    assert_eq!(failing(2), []);
    assert_eq!(failing(3), [Obstacle::Failed { percent: 1.5 }]);
    assert_eq!(failing(200), [Obstacle::NothingCompleted]);
}

#[test]
fn a_load_that_outruns_its_setting_is_not_feasible() {
    let growing = |batches, by_ms| {
        let shape = Shape {
            queue_growth_ms: by_ms,
            batches,
            rate: Some(10.0),
            ..SHAPE
        };
        obstacles(&cell(0, poisson(1, 10.0), shape), &[])
    };
    // Means of the thirds: 4.5 and 24.5 times the growth; the service takes 100 ms.
    assert_eq!(growing(30, 12.0), []);
    assert!(matches!(
        growing(30, 12.5)[..],
        [Obstacle::OverSaturated { .. }]
    ));
    // A short run under half of what is served ends with one service after the last arrival.
    let half = Shape {
        batches: 3,
        rate: Some(5.0),
        ..SHAPE
    };
    assert_eq!(obstacles(&cell(0, poisson(1, 5.0), half), &[]), []);
}

#[test]
fn other_work_is_not_judged_and_what_nobody_knows_is_said() {
    let mut short = cell(
        1,
        closed(4),
        Shape {
            rows: 4,
            output: 2,
            service_ms: 20.0,
            ..SHAPE
        },
    );
    short.result.cell.output_len = "2".into();
    let cells = [cell(0, closed(1), SHAPE), short];
    let advice = advise(&cells, Scenario::own(vec![], Objective::Latency));
    assert_eq!((advice.considered, advice.ranked.len()), (1, 1));
    assert_eq!(advice.pick.unwrap().chosen.cell.result.index, 0);
    // No cell knows its energy, and one is not feasible besides.
    let slow = Shape {
        queue_ms: 900.0,
        ..SHAPE
    };
    let cells = [cell(0, closed(1), SHAPE), cell(1, closed(4), slow)];
    let limits = vec!["ttft:500".parse().unwrap()];
    let advice = advise(&cells, Scenario::own(limits, Objective::Energy));
    assert!(advice.pick.is_none() && advice.nearest.is_none());
    assert!(advice.reasons()[0].starts_with("1 cells are feasible, but none of them knows J per"));
}

#[test]
fn settings_that_cannot_be_told_apart_are_decided_by_the_second_objective() {
    let with = |index, jitter_ms, queue_ms, service_ms| {
        let shape = Shape {
            jitter_ms,
            queue_ms,
            service_ms,
            ..SHAPE
        };
        cell(index, closed(1), shape)
    };
    let scenario = || Scenario::own(vec![], Objective::Throughput);
    // 2 % more throughput within the noise, but more waiting.
    let cells = [with(0, 20.0, 30.0, 100.0), with(1, 20.0, 0.0, 104.0)];
    let advice = advise(&cells, scenario());
    let pick = advice.pick.as_ref().unwrap();
    assert_eq!((pick.chosen.cell.result.index, pick.tied), (1, 2));
    // A single size has no edge.
    assert!(!pick.at_largest_batch);
    assert!(advice.reasons()[1].starts_with("2 of them cannot be told apart"));
    // The same 2 % without noise are told apart.
    let cells = [with(0, 0.1, 1.0, 100.0), with(1, 0.1, 0.0, 104.0)];
    let advice = advise(&cells, scenario());
    let pick = advice.pick.as_ref().unwrap();
    assert_eq!((pick.chosen.cell.result.index, pick.tied), (0, 1));
}

#[test]
fn a_pick_at_the_edge_of_what_was_measured_says_so() {
    let at = |index, rows| cell(index, closed(rows), Shape { rows, ..SHAPE });
    let cells = [at(0, 1), at(1, 16)];
    let advice = advise(&cells, Scenario::own(vec![], Objective::Throughput));
    assert_eq!(advice.pick.as_ref().unwrap().chosen.cell.result.index, 1);
    assert!(
        advice
            .reasons()
            .iter()
            .any(|r| r.starts_with("no larger batch size was measured"))
    );
}

#[test]
fn goodput_counts_requests_that_keep_every_limit() {
    // Batches of 100 + 50 and 100 − 50 ms in turn: half of the requests end within 100 ms.
    let shape = Shape {
        jitter_ms: 50.0,
        batches: 40,
        ..SHAPE
    };
    let one = cell(0, closed(1), shape);
    let within = |limit: &str| goodput(&one, &[limit.parse().unwrap()]).unwrap().mean;
    assert!((within("e2el:1000") - 10.0).abs() < 1e-6);
    assert!((within("e2el:100") - 5.0).abs() < 1e-6);
    assert_eq!(within("e2el:10"), 0.0);
    // Without the requests nobody knows.
    let forgotten = Measured {
        requests: vec![],
        ..one
    };
    assert!(goodput(&forgotten, &[]).is_none());
}

#[test]
fn documents_want_throughput_and_are_judged_without_open_loads() {
    let [_, _, documents] = Scenario::presets();
    let closed_loop = cell(0, closed(4), Shape { rows: 4, ..SHAPE });
    let cells = [closed_loop, with_ttft(1, 8, 5000.0)];
    let advice = advise(&cells, documents);
    assert_eq!(advice.considered, 1);
    let pick = advice.pick.unwrap();
    assert_eq!(pick.chosen.cell.result.index, 0);
    // Batch 8 was measured too, so 4 is not at the edge.
    assert!(!pick.at_largest_batch);
    // Chat has no open load here, so it judges what there is and says so.
    let advice = advise(&cells[..1], chat());
    assert!(advice.other_arrivals && advice.pick.is_some());
}
