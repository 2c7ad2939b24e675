//! When batches leave, by the policies and on a manual clock.

use std::time::Duration;

use crate::scripted::{FIRST_TOKEN, STEP, ScriptedRunner, engine, ms, request};
use batchlab::batching::{CloseReason, Dynamic, Static};
use batchlab::clock::{Clock, ManualClock};
use batchlab::engine::{Engine, EngineConfig, Next, SubmitError};
use batchlab::request::{FinishReason, Finished};
use batchlab::scheduler::{Padding, Refusal, StepShape};

fn dynamic(max_batch_size: usize, window: u64) -> Dynamic {
    Dynamic {
        max_batch_size,
        window: ms(window),
        preferred_sizes: Vec::new(),
    }
}

/// Steps until the engine waits; what ended, and for what it waits.
fn run(engine: &mut Engine<'_>) -> (Vec<Finished>, Next) {
    let mut ended = Vec::new();
    loop {
        let progress = engine.step().unwrap();
        ended.extend(progress.finished);
        if progress.next != Next::Step {
            return (ended, progress.next);
        }
    }
}

fn closes(engine: &Engine<'_>) -> Vec<(usize, CloseReason)> {
    let batches = engine.records().batches.iter();
    batches.map(|b| (b.size, b.close_reason)).collect()
}

fn steps(engine: &Engine<'_>) -> impl Iterator<Item = StepShape> {
    engine.records().steps.iter().map(|s| s.shape)
}

#[test]
fn a_full_dynamic_batch_leaves_at_once() {
    let clock = ManualClock::default();
    let mut runner = ScriptedRunner::new(&clock, 64);
    let mut engine = engine(&mut runner, &clock, dynamic(2, 50), Padding::Ragged);
    engine.submit(request(0, 0, 3, 1)).unwrap();
    assert_eq!(run(&mut engine).1, Next::WaitUntil(ms(50)));
    clock.advance(ms(5));
    engine.submit(request(1, 5, 3, 1)).unwrap();
    let (ended, next) = run(&mut engine);
    assert_eq!(next, Next::WaitForArrival);
    assert_eq!(ended.len(), 2);
    assert_eq!(ended[0].finished, ms(5) + STEP, "did not sleep the window");
    assert_eq!(closes(&engine), [(2, CloseReason::Full)]);
    assert_eq!(engine.records().batches[0].wait, ms(5));
}

#[test]
fn the_window_counts_from_the_oldest_request() {
    let clock = ManualClock::default();
    let mut runner = ScriptedRunner::new(&clock, 64);
    let mut engine = engine(&mut runner, &clock, dynamic(8, 10), Padding::Ragged);
    engine.submit(request(0, 0, 3, 1)).unwrap();
    clock.advance(ms(9));
    engine.submit(request(1, 9, 3, 1)).unwrap();
    // The newer request does not restart the window.
    assert_eq!(run(&mut engine).1, Next::WaitUntil(ms(10)));
    clock.sleep_until(ms(10));
    let (ended, _) = run(&mut engine);
    assert_eq!(ended.iter().map(|r| r.id).collect::<Vec<_>>(), [0, 1]);
    assert_eq!(ended[0].scheduled, Some(ms(10)));
    assert_eq!(closes(&engine), [(2, CloseReason::Window)]);
}

#[test]
fn a_batch_grows_while_another_one_runs() {
    let clock = ManualClock::default();
    let mut runner = ScriptedRunner::new(&clock, 64);
    let mut engine = engine(&mut runner, &clock, dynamic(4, 0), Padding::Ragged);
    engine.submit(request(0, 0, 3, 5)).unwrap();
    engine.step().unwrap();
    for id in 1..=3 {
        engine.submit(request(id, 1, 3, 1)).unwrap();
    }
    run(&mut engine);
    assert_eq!(
        closes(&engine),
        [(1, CloseReason::Window), (3, CloseReason::Window)]
    );
}

#[test]
fn a_preferred_size_leaves_before_the_window() {
    let clock = ManualClock::default();
    let mut runner = ScriptedRunner::new(&clock, 64);
    let policy = Dynamic {
        preferred_sizes: vec![2, 4],
        ..dynamic(8, 50)
    };
    let mut engine = engine(&mut runner, &clock, policy, Padding::Ragged);
    for id in 0..5 {
        engine.submit(request(id, 0, 3, 1)).unwrap();
    }
    assert_eq!(run(&mut engine).1, Next::WaitUntil(ms(50)));
    assert_eq!(closes(&engine), [(4, CloseReason::PreferredSize)]);
}

#[test]
fn static_waits_for_exactly_n() {
    let clock = ManualClock::default();
    let mut runner = ScriptedRunner::new(&clock, 64);
    let policy = Static { batch_size: 3 };
    let mut engine = engine(&mut runner, &clock, policy, Padding::Ragged);
    for id in 0..2 {
        engine.submit(request(id, 0, 3, 1)).unwrap();
    }
    clock.advance(Duration::from_secs(3600));
    assert_eq!(run(&mut engine).1, Next::WaitForArrival);
    for id in 2..5 {
        engine.submit(request(id, 3_600_000, 3, 1)).unwrap();
    }
    assert_eq!(run(&mut engine).0.len(), 3);
    engine.flush();
    assert_eq!(run(&mut engine).0.len(), 2);
    assert_eq!(
        closes(&engine),
        [(3, CloseReason::Full), (2, CloseReason::NoMoreRequests)]
    );
}

#[test]
fn a_full_pool_makes_requests_wait_in_order() {
    let clock = ManualClock::default();
    // Prompt 6 + 3 outputs fill 8 positions = 2 pages: a pool of 5 pages holds two such rows.
    let mut runner = ScriptedRunner::new(&clock, 5);
    let mut engine = engine(&mut runner, &clock, dynamic(4, 0), Padding::Ragged);
    for id in 0..5 {
        engine.submit(request(id, 0, 6, 3)).unwrap();
    }
    let (ended, _) = run(&mut engine);
    assert_eq!(
        ended.iter().map(|r| r.id).collect::<Vec<_>>(),
        [0, 1, 2, 3, 4]
    );
    assert!(ended.iter().all(|r| r.reason == FinishReason::Length));
    assert_eq!(
        closes(&engine),
        [
            (2, CloseReason::KvFull),
            (2, CloseReason::KvFull),
            (1, CloseReason::Window)
        ]
    );
    let peak = engine.records().steps[0].shape;
    assert_eq!((peak.kv_pages_used, peak.kv_pages_total), (4, 5));
}

#[test]
fn what_can_never_fit_is_refused_with_the_numbers() {
    let clock = ManualClock::default();
    let mut runner = ScriptedRunner::new(&clock, 5);
    let mut engine = engine(&mut runner, &clock, dynamic(4, 0), Padding::Ragged);
    let refusal = |e: SubmitError| match e {
        SubmitError::Refused(r) => r,
        other => panic!("{other:?}"),
    };
    let pool = refusal(engine.submit(request(0, 0, 20, 2)).unwrap_err());
    assert_eq!(
        pool.to_string(),
        "the request needs 6 KV pages, the whole pool has 5 (pages of 4 tokens); \
         raise --kv-cache-memory or --gpu-memory-utilization"
    );
    let context = refusal(engine.submit(request(0, 0, 200, 57)).unwrap_err());
    assert!(
        context
            .to_string()
            .contains("prompt 200 + output 57 tokens exceed the model's context of 256")
    );
    refusal(engine.submit(request(0, 0, 1, usize::MAX)).unwrap_err());
    assert_eq!(
        refusal(engine.submit(request(0, 0, 0, 1)).unwrap_err()),
        Refusal::EmptyPrompt
    );
    assert_eq!(
        refusal(engine.submit(request(0, 0, 1, 0)).unwrap_err()),
        Refusal::NoOutput
    );
}

#[test]
fn queued_requests_time_out_and_are_cancelled() {
    let clock = ManualClock::default();
    let mut runner = ScriptedRunner::new(&clock, 64);
    let policy = Static { batch_size: 3 };
    let mut engine = engine(&mut runner, &clock, policy, Padding::Ragged);
    let mut hurried = request(0, 0, 3, 1);
    hurried.timeout = Some(ms(20));
    engine.submit(hurried).unwrap();
    engine.submit(request(1, 0, 3, 1)).unwrap();
    assert_eq!(run(&mut engine).1, Next::WaitUntil(ms(20)));
    clock.sleep_until(ms(20));
    let (ended, next) = run(&mut engine);
    assert_eq!((ended[0].id, ended[0].reason), (0, FinishReason::TimedOut));
    assert_eq!(next, Next::WaitForArrival);
    assert_eq!(engine.cancel(1).unwrap().reason, FinishReason::Cancelled);
    assert_eq!(engine.cancel(1), None);
}

#[test]
fn a_cancelled_row_idles_and_its_batch_goes_on() {
    let clock = ManualClock::default();
    let mut runner = ScriptedRunner::new(&clock, 64);
    let mut engine = engine(&mut runner, &clock, dynamic(2, 0), Padding::Ragged);
    engine.submit(request(0, 0, 3, 4)).unwrap();
    engine.submit(request(1, 0, 3, 4)).unwrap();
    engine.step().unwrap();
    let cancelled = engine.cancel(0).unwrap();
    assert_eq!(cancelled.output, [FIRST_TOKEN + 2]);
    let (ended, _) = run(&mut engine);
    assert_eq!((ended.len(), ended[0].id, ended[0].output.len()), (1, 1, 4));
    let idle: usize = steps(&engine).map(|s| s.idle_rows).sum();
    assert_eq!(idle, 3);
}

#[test]
fn the_queue_is_bounded() {
    let clock = ManualClock::default();
    let mut runner = ScriptedRunner::new(&clock, 64);
    let config = EngineConfig {
        policy: Box::new(dynamic(2, 50)),
        padding: Padding::Ragged,
        max_queue_size: 1,
        max_positions: 256,
    };
    let mut engine = Engine::new(&mut runner, &clock, config);
    engine.submit(request(0, 0, 3, 1)).unwrap();
    match engine.submit(request(1, 0, 3, 1)) {
        Err(SubmitError::QueueFull(r)) => assert_eq!((r.id, r.reason), (1, FinishReason::Rejected)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn padding_is_computed_and_counted() {
    // day2 §3.3: lengths 1, 4, 4, 1; then one decode step of four rows.
    for (padding, positions, padded) in [(Padding::Padded, 16 + 4, 6), (Padding::Ragged, 10 + 4, 0)]
    {
        let clock = ManualClock::default();
        let mut runner = ScriptedRunner::new(&clock, 64);
        let mut engine = engine(&mut runner, &clock, dynamic(4, 0), padding);
        for (id, len) in [1, 4, 4, 1].into_iter().enumerate() {
            engine.submit(request(id as u64, 0, len, 2)).unwrap();
        }
        let (ended, _) = run(&mut engine);
        for r in &ended {
            let first = FIRST_TOKEN + r.prompt_len as u32 - 1;
            assert_eq!(
                r.output,
                [first, first + 1],
                "positions count real tokens only"
            );
        }
        let computed: usize = steps(&engine).map(|s| s.tokens).sum();
        let wasted: usize = steps(&engine).map(|s| s.padded_tokens).sum();
        assert_eq!((computed, wasted), (positions, padded));
        drop(engine);
        let starts: Vec<usize> = runner.plans[1].rows.iter().map(|r| r.kv_start).collect();
        assert_eq!(starts, if padded > 0 { [3, 0, 0, 3] } else { [0; 4] });
    }
}

#[test]
fn finished_rows_idle_until_the_slowest_ends() {
    let clock = ManualClock::default();
    let mut runner = ScriptedRunner::new(&clock, 64);
    let mut engine = engine(&mut runner, &clock, dynamic(3, 0), Padding::Ragged);
    for (id, output) in [1, 3, 6].into_iter().enumerate() {
        engine.submit(request(id as u64, 0, 2, output)).unwrap();
    }
    let (ended, _) = run(&mut engine);
    assert_eq!(ended.iter().map(|r| r.id).collect::<Vec<_>>(), [0, 1, 2]);
    assert_eq!(
        ended[0].finished, STEP,
        "delivered when done, not when the batch ends"
    );
    let row_steps: usize = steps(&engine).map(|s| s.decode_rows).sum();
    let idle: usize = steps(&engine).map(|s| s.idle_rows).sum();
    assert_eq!((steps(&engine).count(), row_steps, idle), (6, 15, 5 + 3));
}

#[test]
fn a_stop_token_ends_a_request_early() {
    let clock = ManualClock::default();
    let mut runner = ScriptedRunner::new(&clock, 64);
    let mut engine = engine(&mut runner, &clock, dynamic(1, 0), Padding::Ragged);
    let mut asked = request(0, 0, 3, 10);
    asked.stop_tokens = vec![FIRST_TOKEN + 3];
    engine.submit(asked).unwrap();
    let (ended, _) = run(&mut engine);
    assert_eq!(ended[0].output, [FIRST_TOKEN + 2, FIRST_TOKEN + 3]);
    assert_eq!(ended[0].reason, FinishReason::Stop);
}
