//! Loads driven through the engine on a manual clock.

use std::ops::ControlFlow;

use crate::scripted::{STEP, ScriptedRunner, engine, ms};
use batchlab::batching::{Dynamic, Policy, Static};
use batchlab::clock::ManualClock;
use batchlab::metrics::Summary;
use batchlab::request::{FinishReason, Finished};
use batchlab::sampling::Sampling;
use batchlab::scheduler::Padding;
use batchlab::workload::{Arrivals, Load, RequestOptions, drive, random};
use proptest::prelude::*;

fn options() -> RequestOptions {
    RequestOptions {
        stop_tokens: Vec::new(),
        sampling: Sampling::GREEDY,
        timeout: None,
    }
}

/// Runs `count` requests; the ends, and the summary.
fn serve(
    policy: impl Policy + 'static,
    padding: Padding,
    pages: usize,
    load: Load,
    count: usize,
    (input, output): (&str, &str),
    seed: u64,
) -> (Vec<Finished>, Summary) {
    let clock = ManualClock::default();
    let mut runner = ScriptedRunner::new(&clock, pages);
    let mut engine = engine(&mut runner, &clock, policy, padding);
    let (input, output) = (input.parse().unwrap(), output.parse().unwrap());
    let asks = random(&input, &output, 500, count, seed);
    let mut arrivals = Arrivals::new(asks, load, options(), ms(0), seed).unwrap();
    let ended = drive(&mut engine, &mut arrivals, |_| {
        ControlFlow::Continue(Vec::new())
    })
    .unwrap();
    let records = engine.records();
    let summary = Summary::of(&ended, &records.batches, &records.steps, &[]);
    (ended, summary)
}

fn dynamic(max_batch_size: usize, window: u64) -> Dynamic {
    Dynamic {
        max_batch_size,
        window: ms(window),
        preferred_sizes: Vec::new(),
    }
}

#[test]
fn a_stop_string_ends_a_request_like_a_stop_token() {
    let clock = ManualClock::default();
    let mut runner = ScriptedRunner::new(&clock, 64);
    let policy = Static { batch_size: 2 };
    let mut engine = engine(&mut runner, &clock, policy, Padding::Ragged);
    let (input, output) = ("4".parse().unwrap(), "8".parse().unwrap());
    let asks = random(&input, &output, 500, 3, 0);
    let mut arrivals = Arrivals::new(asks, Load::Offline, options(), ms(0), 0).unwrap();
    let mut heard = [0; 3];
    let mut ended = drive(&mut engine, &mut arrivals, |progress| {
        for token in &progress.tokens {
            heard[token.request as usize] += 1;
        }
        // In the middle of request 0, and with the last token of request 1.
        let stopped = progress.tokens.iter().map(|token| token.request);
        let stopped = stopped.filter(|&id| [3, 8, 9][id as usize] == heard[id as usize]);
        ControlFlow::Continue(stopped.collect())
    })
    .unwrap();
    ended.sort_by_key(|r| r.id);
    let ends: Vec<_> = ended.iter().map(|r| (r.reason, r.output.len())).collect();
    let expected = [
        (FinishReason::Stop, 3),
        (FinishReason::Stop, 8),
        (FinishReason::Length, 8),
    ];
    assert_eq!(ends, expected);
    assert_eq!(heard, [3, 8, 8], "no token after the stop");
}

#[test]
fn a_closed_loop_with_as_many_clients_as_rows_hides_the_window() {
    let load = Load::Closed { concurrency: 4 };
    for window in [0, 50] {
        let (_, s) = serve(
            dynamic(4, window),
            Padding::Ragged,
            64,
            load,
            20,
            ("8", "5"),
            1,
        );
        assert_eq!((s.completed, s.executed.unwrap().batches), (20, 5));
        assert_eq!(s.batch_utilization_percent, Some(100.0));
        let step = STEP.as_secs_f64() * 1e3;
        assert!((s.e2el_ms.unwrap().mean - 5.0 * step).abs() < 1e-9);
        assert!((s.output_throughput - 100.0 / (25.0 * STEP.as_secs_f64())).abs() < 1e-6);
    }
}

#[test]
fn a_slow_poisson_load_shows_the_window() {
    let load = Load::Open {
        rate: 2.0,
        burstiness: 1.0,
    };
    let queue = |window| {
        let (_, s) = serve(
            dynamic(8, window),
            Padding::Ragged,
            64,
            load,
            300,
            ("8", "2"),
            5,
        );
        s.queue_ms.unwrap().mean
    };
    assert!(queue(0) < 1.0);
    assert!((40.0..51.0).contains(&queue(50)));
}

#[test]
fn static_latency_explodes_when_requests_are_few() {
    let load = Load::Open {
        rate: 1.0,
        burstiness: 1.0,
    };
    let mean = |s: Summary| s.e2el_ms.unwrap().mean;
    let (_, fixed) = serve(
        Static { batch_size: 8 },
        Padding::Ragged,
        64,
        load,
        80,
        ("8", "2"),
        3,
    );
    let (_, window) = serve(dynamic(8, 10), Padding::Ragged, 64, load, 80, ("8", "2"), 3);
    assert!(mean(fixed) > 1000.0 && mean(window) < 20.0);
}

#[test]
fn a_static_batch_larger_than_the_clients_still_ends() {
    let load = Load::Closed { concurrency: 2 };
    let (ended, s) = serve(
        Static { batch_size: 8 },
        Padding::Ragged,
        64,
        load,
        7,
        ("8", "2"),
        3,
    );
    assert_eq!((ended.len(), s.executed.unwrap().batches), (7, 4));
}

#[test]
fn poisson_gaps_have_the_rate_and_the_spread() {
    let gaps = |burstiness: f64| {
        let load = Load::Open {
            rate: 50.0,
            burstiness,
        };
        let asks = random(&"1".parse().unwrap(), &"1".parse().unwrap(), 9, 20_000, 1);
        let mut arrivals = Arrivals::new(asks, load, options(), ms(0), 9).unwrap();
        let mut times = vec![0.0];
        while let Some(r) = arrivals.pop_due(std::time::Duration::MAX) {
            times.push(r.arrival.as_secs_f64());
        }
        let gaps: Vec<f64> = times.windows(2).map(|w| w[1] - w[0]).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let var = gaps.iter().map(|g| (g - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        (mean, var.sqrt() / mean)
    };
    for (burstiness, variation) in [(1.0, 1.0), (4.0, 0.5), (0.25, 2.0)] {
        let (mean, seen) = gaps(burstiness);
        assert!((mean * 50.0 - 1.0).abs() < 0.05, "{mean}");
        assert!((seen / variation - 1.0).abs() < 0.1, "{seen}");
    }
    for rate in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let load = Load::Open {
            rate,
            burstiness: 1.0,
        };
        assert!(Arrivals::new(Vec::new(), load, options(), ms(0), 0).is_err());
    }
}

proptest! {
    /// Any load ends with every request ended exactly once and whole, oldest first within a batch's
    /// start, and (checked by the scripted runner at each step) no page with two owners.
    #[test]
    fn every_request_ends_exactly_once(
        seed: u64,
        batch in 1usize..9,
        window in 0u64..30,
        fixed: bool,
        padded: bool,
        pages in 20usize..60,
        load in prop_oneof![
            Just(Load::Offline),
            (1usize..12).prop_map(|concurrency| Load::Closed { concurrency }),
            (1f64..2000.0, 0.2f64..4.0).prop_map(|(rate, burstiness)| Load::Open { rate, burstiness }),
        ],
    ) {
        let padding = if padded { Padding::Padded } else { Padding::Ragged };
        let lengths = ("1-40", "1-20");
        let (ended, s) = if fixed {
            serve(Static { batch_size: batch }, padding, pages, load, 50, lengths, seed)
        } else {
            serve(dynamic(batch, window), padding, pages, load, 50, lengths, seed)
        };
        let mut ids: Vec<u64> = ended.iter().map(|r| r.id).collect();
        ids.sort_unstable();
        prop_assert_eq!(ids, (0..50).collect::<Vec<u64>>());
        prop_assert_eq!(s.completed, 50);
        let mut by_id = ended.clone();
        by_id.sort_by_key(|r| (r.arrival, r.id));
        prop_assert!(by_id.windows(2).all(|w| w[0].scheduled <= w[1].scheduled), "FCFS");
        for r in &ended {
            prop_assert_eq!(r.token_times.len(), r.output.len());
            prop_assert!(r.token_times.is_sorted() && r.scheduled >= Some(r.arrival));
        }
        prop_assert!(padded || s.padding_waste_percent == Some(0.0));
    }
}
