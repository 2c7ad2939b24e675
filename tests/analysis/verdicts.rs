//! Every expectation: where it holds, where it does not, and where nobody can tell.

use batchlab::analysis::{
    Analysis, Context, Estimate, Ruling, THROUGHPUT, Verdict, idle_costs, policy_groups,
};
use batchlab::scheduler::Padding;
use batchlab::sweep::{CellSpec, LoadSpec, Measured, PolicyKind};

use crate::made::{SHAPE, Shape, cell, cell_of_runs, closed, poisson};

fn analysis(cells: &[Measured]) -> Analysis<'_> {
    let context = Context {
        kv_pool_bytes: 1000 << 20,
        samples: &|_| Ok(Vec::new()),
        own: None,
    };
    Analysis::of(cells, &context).unwrap()
}

fn verdict(cells: &[Measured], claim: &str) -> Verdict {
    let all = analysis(cells).verdicts;
    let found: Vec<_> = all.iter().filter(|v| v.claim.contains(claim)).collect();
    assert_eq!(found.len(), 1, "{claim}: {all:#?}");
    found[0].clone()
}

fn ruling(cells: &[Measured], claim: &str) -> Ruling {
    verdict(cells, claim).ruling
}

/// Batch sizes 1, 4 and 8 that serve in these times.
fn ladder(service_ms: [f64; 3], jitter_ms: f64) -> Vec<Measured> {
    let sizes = [1, 4, 8].into_iter().zip(service_ms).enumerate();
    let one = |(index, (rows, service_ms))| {
        let shape = Shape {
            rows,
            service_ms,
            jitter_ms,
            pages_used: 10 * rows,
            ..SHAPE
        };
        cell(index, closed(rows), shape)
    };
    sizes.map(one).collect()
}

#[test]
fn what_day2_expects_of_batch_sizes_holds_where_it_is_so() {
    let cells = ladder([100.0, 110.0, 130.0], 1.0);
    for claim in [
        "batch 1 has the lowest latency",
        "batch 8 has the highest throughput",
        "more throughput and more latency",
        "grows linearly",
        "far less than B times",
    ] {
        assert_eq!(ruling(&cells, claim), Ruling::Holds, "{claim}");
    }
    let latency = verdict(&cells, "lowest latency");
    // 20 batches of 100 ± 1 ms: t(0.975, 19) · 1.026 / √20 = 0.48.
    assert_eq!(
        latency.numbers,
        "batch 1 100.0 ±0.480 ms, batch 4 110.0 ±0.480 ms, batch 8 130.0 ±0.480 ms"
    );
    assert!(
        latency.why.contains("batch 4 by 10.00 %"),
        "{}",
        latency.why
    );
    let work = verdict(&cells, "far less");
    // (130 − 10) / (100 − 10): decode steps without their prefill.
    assert_eq!(
        work.numbers,
        "8.00× the rows: prefill takes 1.00× as long, a decode step 1.33×"
    );
}

#[test]
fn the_contrary_is_said_and_so_is_doubt() {
    let faster = ladder([100.0, 90.0, 130.0], 1.0);
    let v = verdict(&faster, "lowest latency");
    assert_eq!(v.ruling, Ruling::DoesNotHold);
    assert!(
        v.why.contains("batch 4 is -10.00 % from batch 1"),
        "{}",
        v.why
    );
    // Noise of ±60 ms on 20 batches: ±28 ms, so 10 ms cannot be told, 400 ms can.
    let noisy = ladder([100.0, 110.0, 500.0], 60.0);
    assert_eq!(ruling(&noisy, "lowest latency"), Ruling::CannotTell);
    assert_eq!(
        ruling(&noisy, "more throughput and more latency"),
        Ruling::Holds
    );
    // Eight times the work in eight times the time.
    let full = ladder([100.0, 370.0, 730.0], 1.0);
    assert_eq!(ruling(&full, "far less than B times"), Ruling::DoesNotHold);
    assert_eq!(ruling(&full, "highest throughput"), Ruling::Holds);
    let slower = ladder([100.0, 500.0, 1000.0], 1.0);
    assert_eq!(ruling(&slower, "highest throughput"), Ruling::DoesNotHold);
    assert_eq!(
        ruling(&slower, "more throughput and more latency"),
        Ruling::DoesNotHold
    );
}

#[test]
fn the_borders_of_far_less_are_half_the_growth_of_the_work_and_the_work() {
    // Decode of 90 ms at batch 1; eight times the work grows by 7, half of it is 4.5 times 90 ms.
    let at = |ms: f64| ruling(&ladder([100.0, 110.0, ms], 0.0), "far less than B times");
    assert_eq!(at(415.0), Ruling::Holds);
    assert_eq!(at(416.0), Ruling::CannotTell);
    assert_eq!(at(729.0), Ruling::CannotTell);
    assert_eq!(at(731.0), Ruling::DoesNotHold);
}

#[test]
fn two_batches_of_one_run_tell_nothing_and_three_runs_do() {
    let short = |rows, service_ms| Shape {
        rows,
        service_ms,
        batches: 2,
        ..SHAPE
    };
    let once = [
        cell(0, closed(1), short(1, 100.0)),
        cell(1, closed(8), short(8, 200.0)),
    ];
    let v = verdict(&once, "lowest latency");
    assert_eq!(v.ruling, Ruling::CannotTell);
    assert!(v.why.contains("--num-runs 5"), "{}", v.why);
    let runs = |rows, ms: f64| {
        [
            short(rows, ms),
            short(rows, ms + 1.0),
            short(rows, ms + 2.0),
        ]
    };
    let repeated = [
        cell_of_runs(0, closed(1), &runs(1, 100.0)),
        cell_of_runs(1, closed(8), &runs(8, 200.0)),
    ];
    assert_eq!(ruling(&repeated, "lowest latency"), Ruling::Holds);
}

#[test]
fn rows_that_leave_one_by_one_are_counted_in_batches() {
    let interval = |policy, rows| {
        let spec = CellSpec {
            policy,
            ..closed(8)
        };
        // One row after another.
        let shape = Shape {
            batches: rows,
            ..SHAPE
        };
        let throughput = Estimate::of(&cell(0, spec, shape), THROUGHPUT).unwrap();
        throughput.error.map(|e| e.degrees)
    };
    assert_eq!(interval(PolicyKind::Dynamic, 20), Some(19.0));
    assert_eq!(interval(PolicyKind::Continuous, 23), None);
    // The four left over go with the third batch.
    assert_eq!(interval(PolicyKind::Continuous, 28), Some(2.0));
    assert_eq!(interval(PolicyKind::Continuous, 8 * 50), Some(19.0));
}

#[test]
fn kv_memory_is_linear_within_two_percent() {
    let with_pages = |pages: [usize; 2]| {
        let shape = |rows, pages_used| Shape {
            rows,
            pages_used,
            ..SHAPE
        };
        [
            cell(0, closed(1), shape(1, pages[0])),
            cell(1, closed(8), shape(8, pages[1])),
        ]
    };
    assert_eq!(
        ruling(&with_pages([100, 800]), "grows linearly"),
        Ruling::Holds
    );
    assert_eq!(
        ruling(&with_pages([100, 815]), "grows linearly"),
        Ruling::Holds
    );
    let v = verdict(&with_pages([100, 817]), "grows linearly");
    assert_eq!(v.ruling, Ruling::DoesNotHold);
    // 100 of 1000 pages of a pool of 1000 MiB.
    assert_eq!(v.numbers, "batch 1 100.0 MiB, batch 8 817.0 MiB");
}

#[test]
fn few_requests_under_static_and_dynamic() {
    let at = |policy, queue_ms| {
        let mut spec = poisson(8, 2.0);
        spec.policy = policy;
        spec.window_ms = (policy == PolicyKind::Dynamic).then_some(10.0);
        let shape = Shape {
            rows: 2,
            queue_ms,
            rate: Some(2.0),
            ..SHAPE
        };
        cell(0, spec, shape)
    };
    let cells = [
        at(PolicyKind::Static, 3000.0),
        at(PolicyKind::Dynamic, 10.0),
    ];
    let v = verdict(&cells, "static batching");
    assert_eq!(v.ruling, Ruling::Holds);
    assert_eq!(
        v.numbers,
        "batch 8 at 2.00 req/s: static 3100 ±0.480 ms, dynamic 110.0 ±0.480 ms"
    );
    let cells = [at(PolicyKind::Static, 3.0), at(PolicyKind::Dynamic, 10.0)];
    assert_eq!(ruling(&cells, "static batching"), Ruling::DoesNotHold);
    let missing = verdict(&cells[..1], "static batching");
    assert_eq!(missing.ruling, Ruling::CannotTell);
    assert!(missing.why.contains("--experiment few-requests"));
}

/// The same requests under static, with idle rows, and under continuous.
fn mixed_lengths(fixed_ms: f64, continuous_ms: f64, load: LoadSpec) -> [Measured; 2] {
    let of = |index, policy, service_ms, idle_share| {
        let spec = CellSpec {
            policy,
            window_ms: None,
            padding: Padding::Ragged,
            load,
            ..closed(4)
        };
        let shape = Shape {
            rows: 4,
            service_ms,
            idle_share,
            ..SHAPE
        };
        cell(index, spec, shape)
    };
    [
        of(0, PolicyKind::Static, fixed_ms, 0.25),
        of(1, PolicyKind::Continuous, continuous_ms, 0.0),
    ]
}

#[test]
fn continuous_batching_beside_static() {
    let claim = "join and leave";
    let v = verdict(&mixed_lengths(100.0, 80.0, LoadSpec::Offline), claim);
    assert_eq!(v.ruling, Ruling::Holds);
    assert!(
        v.numbers.starts_with("batch 4, output 10, offline: 25.00 % of the row-steps idle under static, 0 % under continuous; "),
        "{}",
        v.numbers
    );
    let slower = mixed_lengths(80.0, 100.0, LoadSpec::Offline);
    assert_eq!(ruling(&slower, claim), Ruling::DoesNotHold);
    let alike = mixed_lengths(100.0, 100.1, LoadSpec::Offline);
    assert_eq!(ruling(&alike, claim), Ruling::CannotTell);
    // What can be served as it comes gives as many tokens under every policy.
    let rate = LoadSpec::Poisson {
        rate: 1.0,
        burstiness: 1.0,
    };
    let missing = verdict(&mixed_lengths(100.0, 80.0, rate), claim);
    assert_eq!(missing.ruling, Ruling::CannotTell);
    assert!(missing.why.contains("--experiment mixed-lengths"));
}

#[test]
fn what_does_not_idle_stands_beside_what_does() {
    let idle = |cells: &[Measured]| -> Vec<(usize, f64)> {
        let costs = idle_costs(cells).into_iter();
        costs.map(|c| (c.cell.result.index, c.percent())).collect()
    };
    let mut cells = mixed_lengths(100.0, 80.0, LoadSpec::Offline);
    assert_eq!(idle(&cells), [(0, 25.0), (1, 0.0)]);
    // Not under another load, and not where nothing idles.
    cells[1].result.cell.load = LoadSpec::Closed { concurrency: 4 };
    assert_eq!(idle(&cells), [(0, 25.0)]);
    assert_eq!(idle(&cells[1..]), []);
}

#[test]
fn a_setting_is_called_beaten_only_where_the_intervals_say_so() {
    let conclusion = |cells: &[Measured]| analysis(cells).conclusion.join(" ");
    let text = conclusion(&mixed_lengths(100.0, 80.0, LoadSpec::Offline));
    let best = "the best throughput (continuous batch 4, offline); ";
    assert!(
        text.contains(&format!("{best}the other 1 is beaten")),
        "{text}"
    );
    let text = conclusion(&mixed_lengths(100.0, 99.9, LoadSpec::Offline));
    assert!(
        text.contains(&format!("{best}whether the other 1 is beaten")),
        "{text}"
    );
}

#[test]
fn policies_under_the_same_load_stand_beside_static() {
    let mut cells: Vec<Measured> = mixed_lengths(100.0, 80.0, LoadSpec::Offline).into();
    let mut padded = cells[0].clone();
    padded.result.cell.padding = Padding::Padded;
    cells.push(padded);
    // Of another load, and alone there.
    cells.push(cell(3, closed(4), SHAPE));
    let groups = policy_groups(cells.iter().map(|c| &c.result));
    assert_eq!(groups.len(), 1);
    let of_group = &groups[0].cells;
    let settings: Vec<&str> = of_group.iter().map(|c| c.setting.as_str()).collect();
    assert_eq!(settings, ["static ragged", "continuous", "static"]);
    assert_eq!(of_group[1].idle_row_steps_percent, Some(0.0));
    assert_eq!(of_group[0].output_throughput.times_static, Some(1.0));
    let times = of_group[1].output_throughput.times_static.unwrap();
    assert!((times / (100.0 / 80.0) - 1.0).abs() < 1e-9, "{times}");
    assert_eq!(of_group[1].e2el_ms_mean.value, Some(80.0));
}

#[test]
fn a_window_buys_rows_with_waiting() {
    let at = |window, rows, queue_ms| {
        let mut spec = poisson(8, 50.0);
        spec.window_ms = Some(window);
        let shape = Shape {
            rows,
            queue_ms,
            batches: 40,
            rate: Some(50.0),
            ..SHAPE
        };
        cell(0, spec, shape)
    };
    // The shape gives every batch the same rows: vary them over runs.
    let varied = |window, rows: usize, queue: f64| {
        let one = |r, q| Shape {
            rows: r,
            queue_ms: q,
            rate: Some(50.0),
            ..SHAPE
        };
        let mut spec = poisson(8, 50.0);
        spec.window_ms = Some(window);
        cell_of_runs(
            0,
            spec,
            &[
                one(rows, queue),
                one(rows, queue + 0.1),
                one(rows + 1, queue),
            ],
        )
    };
    let claim = "buys larger batches";
    assert_eq!(
        ruling(&[varied(0.0, 1, 2.0), varied(50.0, 5, 40.0)], claim),
        Ruling::Holds
    );
    assert_eq!(
        ruling(&[varied(0.0, 5, 2.0), varied(50.0, 1, 40.0)], claim),
        Ruling::DoesNotHold
    );
    assert_eq!(
        ruling(&[varied(0.0, 1, 40.0), varied(50.0, 5, 2.0)], claim),
        Ruling::DoesNotHold
    );
    assert_eq!(
        ruling(&[varied(0.0, 2, 2.0), varied(50.0, 2, 40.0)], claim),
        Ruling::CannotTell
    );
    assert_eq!(ruling(&[at(0.0, 2, 2.0)], claim), Ruling::CannotTell);
}

#[test]
fn padding_and_idle_rows_cost_what_they_cost() {
    let padded = |padding, service_ms, padded_positions| {
        let mut spec = closed(4);
        spec.padding = padding;
        let shape = Shape {
            rows: 4,
            service_ms,
            positions: 100 + padded_positions,
            padded_positions,
            ..SHAPE
        };
        cell(0, spec, shape)
    };
    let cells = [
        padded(Padding::Padded, 130.0, 60),
        padded(Padding::Ragged, 100.0, 0),
    ];
    let v = verdict(&cells, "padding costs");
    assert_eq!(v.ruling, Ruling::Holds);
    // 60 of 160 positions; 60 more for 4 requests; 30 ms more for each batch of 4.
    assert!(
        v.numbers.starts_with(
            "batch 4: 37.50 % of all positions are padding, 15.00 a request; 7.50 ms of computing \
             and 30.00 ms of latency more than ragged (±"
        ),
        "{}",
        v.numbers
    );
    let no_gain = [
        padded(Padding::Padded, 90.0, 60),
        padded(Padding::Ragged, 100.0, 0),
    ];
    assert_eq!(ruling(&no_gain, "padding costs"), Ruling::DoesNotHold);
    let nothing_padded = [
        padded(Padding::Padded, 100.0, 0),
        padded(Padding::Ragged, 100.0, 0),
    ];
    assert_eq!(ruling(&nothing_padded, "padding costs"), Ruling::CannotTell);

    let mixed = |output_len: &str, output, idle_share, service_ms| {
        let mut spec = closed(4);
        spec.output_len = output_len.into();
        let shape = Shape {
            rows: 4,
            output,
            idle_share,
            service_ms,
            ..SHAPE
        };
        cell(0, spec, shape)
    };
    let cells = [
        mixed("8-64", 6, 0.5, 150.0),
        mixed("6", 6, 0.0, 100.0),
        mixed("512", 60, 0.0, 100.0),
    ];
    let v = verdict(&cells, "idles until the slowest");
    assert_eq!(v.ruling, Ruling::Holds);
    // 10 of 20 row-steps; half of 140 ms of decoding, shared by 4 requests.
    assert!(
        v.numbers
            .contains("50.00 % of the row-steps are idle, 17.50 ms"),
        "{}",
        v.numbers
    );
    assert!(v.numbers.ends_with("at output 6"), "{}", v.numbers);
    // Another mean length is no twin, and neither is a cell that idles itself.
    let cells = [
        mixed("8-64", 6, 0.5, 150.0),
        mixed("512", 60, 0.0, 100.0),
        mixed("1-9", 6, 0.2, 90.0),
    ];
    assert_eq!(
        ruling(&cells, "idles until the slowest"),
        Ruling::CannotTell
    );
}

#[test]
fn a_number_of_clients_that_was_given_for_all_sizes_keeps_them_together() {
    let at = |(index, rows): (usize, usize)| {
        let mut spec = closed(rows);
        spec.load = LoadSpec::Closed { concurrency: 8 };
        let shape = Shape {
            rows,
            service_ms: 100.0 + rows as f64,
            pages_used: 10 * rows,
            ..SHAPE
        };
        cell(index, spec, shape)
    };
    let cells: Vec<Measured> = [1, 4, 8].into_iter().enumerate().map(at).collect();
    assert_eq!(
        ruling(&cells, "batch 8 has the highest throughput"),
        Ruling::Holds
    );
}

#[test]
fn a_size_that_completed_nothing_leaves_its_claims_open() {
    let mut cells = ladder([100.0, 110.0, 130.0], 1.0);
    let failed = Shape {
        failed: 20,
        ..SHAPE
    };
    cells[0] = cell(0, closed(1), failed);
    let v = verdict(&cells, "batch 1 has the lowest latency");
    assert_eq!(v.ruling, Ruling::CannotTell);
    assert!(v.why.contains("no completed request"), "{}", v.why);
}

#[test]
fn a_single_cell_and_no_cell_leave_every_expectation_open() {
    for cells in [vec![], vec![cell(0, closed(4), SHAPE)]] {
        let all = analysis(&cells).verdicts;
        assert_eq!(all.len(), 11);
        for v in all {
            assert_eq!(v.ruling, Ruling::CannotTell, "{}", v.claim);
            assert!(!v.why.is_empty());
        }
    }
}
