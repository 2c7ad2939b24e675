//! Steps submitted one ahead: everybody is told what they are told by one step at a time.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use crate::scripted::{PAGE, STEP, ScriptedRunner, engine, hashed, ms, request};
use batchlab::batching::{Continuous, Dynamic, Policy, Static};
use batchlab::clock::{Clock, ManualClock};
use batchlab::engine::{Engine, EngineConfig, Records};
use batchlab::request::{FinishReason, Finished};
use batchlab::sampling::Sampling;
use batchlab::scheduler::Padding;
use batchlab::workload::{Arrivals, Ask, Load, RequestOptions, drive};
use proptest::prelude::*;

#[derive(Debug, Clone, Copy)]
enum Kind {
    Static,
    Dynamic,
    Continuous,
}

#[derive(Debug, Clone)]
struct Case {
    kind: Kind,
    rows: usize,
    padding: Padding,
    pages: usize,
    load: Load,
    /// Prompt and output lengths.
    lengths: Vec<(usize, usize)>,
    stop_token: Option<u32>,
    /// A token after which the listener ends the request, as by a stop string.
    stop_string: Option<u32>,
}

fn cases() -> impl Strategy<Value = Case> {
    let load = prop_oneof![
        Just(Load::Offline),
        (1usize..12).prop_map(|concurrency| Load::Closed { concurrency }),
        (1f64..2000.0, 0.2f64..4.0).prop_map(|(rate, burstiness)| Load::Open { rate, burstiness }),
    ];
    (
        prop_oneof![
            Just(Kind::Static),
            Just(Kind::Dynamic),
            Just(Kind::Continuous)
        ],
        1usize..9,
        prop_oneof![Just(Padding::Padded), Just(Padding::Ragged)],
        20usize..60,
        load,
        prop::collection::vec((1usize..40, 1usize..30), 1..40),
        prop::option::of(0u32..50),
        prop::option::of(0u32..50),
    )
        .prop_map(
            |(kind, rows, padding, pages, load, lengths, stop_token, stop_string)| Case {
                kind,
                rows,
                padding,
                pages,
                load,
                lengths,
                stop_token,
                stop_string,
            },
        )
}

fn policy(case: &Case) -> Box<dyn Policy> {
    match case.kind {
        Kind::Static => Box::new(Static {
            batch_size: case.rows,
        }),
        Kind::Dynamic => Box::new(Dynamic {
            max_batch_size: case.rows,
            window: ms(3),
            preferred_sizes: Vec::new(),
        }),
        Kind::Continuous => Box::new(Continuous {
            max_num_seqs: case.rows,
            max_num_batched_tokens: case.rows.max(PAGE) + 7,
            prefill_window: ms(0),
        }),
    }
}

fn run(case: &Case, depth: usize) -> (Vec<Finished>, Records) {
    let clock = ManualClock::default();
    let mut runner = ScriptedRunner::new(&clock, case.pages);
    runner.model = hashed;
    runner.depth = depth;
    let config = EngineConfig {
        policy: policy(case),
        padding: case.padding,
        max_queue_size: case.lengths.len(),
        max_positions: 256,
    };
    let mut engine = Engine::new(&mut runner, &clock, config);
    let asks = case.lengths.iter().enumerate();
    let asks = asks.map(|(id, &(prompt, output))| Ask {
        prompt: (0..prompt).map(|i| (id * 7 + i * 3) as u32 % 50).collect(),
        output_len: output,
    });
    let options = RequestOptions {
        stop_tokens: case.stop_token.into_iter().collect(),
        sampling: Sampling::GREEDY,
        timeout: None,
    };
    let mut arrivals = Arrivals::new(asks.collect(), case.load, options, ms(0), 1).unwrap();
    let ended = drive(&mut engine, &mut arrivals, |progress| {
        let stopped = progress.tokens.iter();
        let stopped = stopped.filter(|token| Some(token.id) == case.stop_string);
        ControlFlow::Continue(stopped.map(|token| token.request).collect())
    })
    .unwrap();
    let records = engine.records().clone();
    (ended, records)
}

/// Why and with what each request ended.
fn told(ended: &[Finished]) -> BTreeMap<u64, (FinishReason, Vec<u32>)> {
    let told = ended.iter().map(|r| (r.id, (r.reason, r.output.clone())));
    told.collect()
}

proptest! {
    #[test]
    fn everybody_is_told_the_same(case in cases()) {
        let (in_order, _) = run(&case, 1);
        let (ahead, records) = run(&case, 2);
        prop_assert_eq!(told(&ahead), told(&in_order));
        prop_assert_eq!(ahead.len(), case.lengths.len());
        for r in &ahead {
            prop_assert_eq!(r.token_times.len(), r.output.len());
            prop_assert!(r.token_times.is_sorted() && r.scheduled >= Some(r.arrival));
        }
        let one_after_another = records.steps.windows(2);
        for pair in one_after_another.map(|w| [w[0], w[1]]) {
            prop_assert!(pair[0].start + pair[0].duration <= pair[1].start);
        }
        let request_level = !matches!(case.kind, Kind::Continuous);
        prop_assert!(records.batches.iter().all(|b| b.end.is_some() == request_level));
    }
}

/// When the last of four requests of ten tokens has ended, where the listener takes 1 ms a step.
fn ends_at(policy: impl Policy + 'static, depth: usize) -> std::time::Duration {
    let clock = ManualClock::default();
    let mut runner = ScriptedRunner::new(&clock, 64);
    runner.depth = depth;
    let mut engine = engine(&mut runner, &clock, policy, Padding::Ragged);
    for id in 0..4 {
        engine.submit(request(id, 0, 3, 10)).unwrap();
    }
    while engine.step().unwrap().finished.is_empty() {
        clock.sleep_until(clock.now() + ms(1));
    }
    clock.now()
}

#[test]
fn the_hosts_work_is_hidden_behind_the_step_that_runs() {
    let continuous = || Continuous {
        max_num_seqs: 4,
        max_num_batched_tokens: 64,
        prefill_window: ms(0),
    };
    let fixed = || Static { batch_size: 4 };
    for (depth, waits) in [(1, 9), (2, 0)] {
        let expected = 10 * STEP + ms(waits);
        assert_eq!(ends_at(continuous(), depth), expected);
        assert_eq!(ends_at(fixed(), depth), expected);
    }
}

#[test]
fn a_token_that_comes_after_the_end_is_dropped_and_its_pages_are_free() {
    let clock = ManualClock::default();
    // Each fills the pool, so that the second starts only with the first one's pages.
    let mut runner = ScriptedRunner::new(&clock, 4);
    runner.model = hashed;
    runner.depth = 2;
    let policy = Continuous {
        max_num_seqs: 4,
        max_num_batched_tokens: 64,
        prefill_window: ms(0),
    };
    let mut engine = engine(&mut runner, &clock, policy, Padding::Ragged);
    for id in 0..2 {
        engine.submit(request(id, 0, 3 * PAGE, PAGE + 1)).unwrap();
    }
    let first = engine.step().unwrap();
    assert_eq!(first.tokens.len(), 1);
    let cancelled = engine.cancel(0).unwrap();
    assert_eq!(cancelled.output.len(), 1);
    // The step that was under way then: nobody is told anything.
    let junk = engine.step().unwrap();
    assert_eq!((junk.tokens, junk.finished), (vec![], vec![]));
    let mut ended = Vec::new();
    while ended.is_empty() {
        let progress = engine.step().unwrap();
        assert!(progress.tokens.iter().all(|token| token.request == 1));
        ended = progress.finished;
    }
    assert_eq!((ended[0].id, ended[0].output.len()), (1, PAGE + 1));
    let steps = &engine.records().steps;
    let idle: Vec<usize> = steps.iter().map(|s| s.shape.idle_rows).collect();
    assert_eq!(idle[..3], [0, 1, 0]);
}
