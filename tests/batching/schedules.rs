//! Any schedule under continuous batching: nothing is lost, shared or starved, whatever the pool.

use std::cell::Cell;
use std::collections::HashMap;
use std::time::Duration;

use crate::scripted::{PAGE, STEP, ScriptedRunner, engine, hashed, ms, request};
use batchlab::batching::Continuous;
use batchlab::clock::{Clock, ManualClock};
use batchlab::engine::{Engine, Next};
use batchlab::plan::{RowPlan, StepPlan};
use batchlab::request::{FinishReason, Finished, Request};
use batchlab::scheduler::Padding;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

#[derive(Debug, Clone)]
struct Schedule {
    asked: Vec<Asked>,
    max_num_seqs: usize,
    budget: usize,
    window: u64,
    /// Pages beyond those of the largest request.
    spare_pages: usize,
    /// Steps that may be under way.
    depth: usize,
}

#[derive(Debug, Clone)]
struct Asked {
    gap_ms: u64,
    prompt: usize,
    output: usize,
    /// Ends it so many steps after it came, if it has not ended by then.
    cancel_after: Option<usize>,
    stop_token: Option<u32>,
    penalised: bool,
}

fn schedules() -> impl Strategy<Value = Schedule> {
    let asked = (
        prop_oneof![2 => Just(0u64), 1 => 0u64..120],
        1usize..40,
        1usize..40,
        prop::option::weighted(0.1, 0usize..60),
        prop::option::weighted(0.3, 0u32..50),
        prop::bool::weighted(0.1),
    );
    let asked = asked.prop_map(
        |(gap_ms, prompt, output, cancel_after, stop_token, penalised)| Asked {
            gap_ms,
            prompt,
            output,
            cancel_after,
            stop_token,
            penalised,
        },
    );
    (
        prop::collection::vec(asked, 1..60),
        1usize..12,
        0usize..40,
        prop_oneof![2 => Just(0u64), 1 => 0u64..60],
        prop_oneof![2 => 0usize..6, 1 => 0usize..60],
        1usize..3,
    )
        .prop_map(
            |(asked, max_num_seqs, more, window, spare_pages, depth)| Schedule {
                asked,
                max_num_seqs,
                budget: max_num_seqs.max(PAGE) + more,
                window,
                spare_pages,
                depth,
            },
        )
}

/// What the scripted model says after a prompt.
fn expected(request: &Request) -> Vec<u32> {
    let mut history = request.prompt.clone();
    for _ in 0..request.max_new_tokens {
        let token = hashed(&history);
        history.push(token);
        if request.stop_tokens.contains(&token) {
            break;
        }
    }
    history.split_off(request.prompt.len())
}

/// Steps, counted when something happened to a request.
#[derive(Default)]
struct Seen {
    came: HashMap<u64, usize>,
    ended: HashMap<u64, (usize, Finished)>,
}

impl Seen {
    fn end(&mut self, steps: usize, ended: impl IntoIterator<Item = Finished>) {
        for request in ended {
            let before = self.ended.insert(request.id, (steps, request));
            assert!(before.is_none(), "ended twice: {before:?}");
        }
    }
}

/// Sends everything as it falls due and steps until all have ended.
fn drive(
    engine: &mut Engine<'_>,
    clock: &ManualClock,
    schedule: &Schedule,
    all: &[Request],
) -> Seen {
    let mut seen = Seen::default();
    let mut coming = all.iter().peekable();
    while seen.ended.len() < all.len() {
        let steps = engine.records().steps.len();
        while let Some(request) = coming.next_if(|r| r.arrival <= clock.now()) {
            engine.submit(request.clone()).unwrap();
            seen.came.insert(request.id, steps);
        }
        for (id, asked) in schedule.asked.iter().enumerate() {
            let id = id as u64;
            let due = |came: &usize| {
                asked
                    .cancel_after
                    .is_some_and(|after| steps >= came + after)
            };
            if !seen.ended.contains_key(&id) && seen.came.get(&id).is_some_and(due) {
                seen.end(steps, engine.cancel(id));
            }
        }
        let progress = engine.step().unwrap();
        for token in &progress.tokens {
            assert!(
                !seen.ended.contains_key(&token.request),
                "a token after the end"
            );
        }
        seen.end(engine.records().steps.len(), progress.finished);
        let due = coming.peek().map(|r| r.arrival);
        match (progress.next, due) {
            (Next::Step, _) => {}
            (Next::WaitUntil(t), due) => clock.sleep_until(due.map_or(t, |due| due.min(t))),
            (Next::WaitForArrival, Some(due)) => clock.sleep_until(due),
            (Next::WaitForArrival, None) => break,
        }
    }
    seen
}

/// Runs one schedule and returns its steps and preemptions.
fn check(schedule: &Schedule) -> (usize, usize) {
    let mut arrival = 0;
    let all: Vec<Request> = schedule
        .asked
        .iter()
        .enumerate()
        .map(|(id, asked)| {
            arrival += asked.gap_ms;
            let mut request = request(id as u64, arrival, asked.prompt, asked.output);
            request
                .prompt
                .iter_mut()
                .for_each(|token| *token = (*token * 7 + id as u32) % 50);
            request.sampling.seed = id as u64;
            request.stop_tokens.extend(asked.stop_token);
            if asked.penalised {
                request.sampling.repetition_penalty = 1.1;
            }
            request
        })
        .collect();
    let largest = all
        .iter()
        .map(|r| (r.prompt.len() + r.max_new_tokens - 1).div_ceil(PAGE));
    let pages = largest.max().unwrap() + schedule.spare_pages;

    let clock = ManualClock::default();
    let mut runner = ScriptedRunner::new(&clock, pages);
    runner.model = hashed;
    runner.depth = schedule.depth;
    let policy = Continuous {
        max_num_seqs: schedule.max_num_seqs,
        max_num_batched_tokens: schedule.budget,
        prefill_window: ms(schedule.window),
    };
    let mut engine = engine(&mut runner, &clock, policy, Padding::Padded);
    let seen = drive(&mut engine, &clock, schedule, &all);
    assert_eq!(seen.ended.len(), all.len(), "every request ends");

    let mut started = Duration::ZERO;
    for request in &all {
        let (end, ended) = &seen.ended[&request.id];
        let wanted = expected(request);
        let stops = wanted
            .last()
            .is_some_and(|t| request.stop_tokens.contains(t));
        match ended.reason {
            FinishReason::Cancelled => assert!(wanted.starts_with(&ended.output)),
            reason => {
                assert_eq!(ended.output, wanted);
                assert_eq!(reason == FinishReason::Stop, stops);
            }
        }
        assert_eq!(ended.output.len(), ended.token_times.len());
        assert!(ended.token_times.is_sorted());
        if let Some(scheduled) = ended.scheduled {
            assert!(
                started <= scheduled && request.arrival <= scheduled,
                "first come, first served"
            );
            started = scheduled;
        }
        for s in &ended.preempted {
            assert!(
                s.until
                    .is_some_and(|until| s.from <= until && until <= ended.finished)
            );
        }
        // Every step brings the oldest one forward by a token at least, and at most all of its
        // tokens are computed twice: once before and once while it is the oldest.
        let ahead = all.iter().filter(|r| r.id <= request.id);
        // Each may have waited for a prefill window after the last start.
        let window = ms(schedule.window).as_nanos().div_ceil(STEP.as_nanos()) as usize;
        // A step that was planned ahead leaves out who came meanwhile, and has who has just ended.
        let late = 2 * (schedule.depth - 1);
        let bound: usize = ahead
            .map(|r| r.prompt.len() + 2 * r.max_new_tokens + window + late)
            .sum();
        let waited = end - seen.came[&request.id];
        assert!(
            waited <= bound,
            "request {} took {waited} of {bound} steps",
            request.id
        );
    }
    let shapes = engine.records().steps.iter().map(|s| s.shape);
    for shape in shapes.clone() {
        assert!(shape.rows <= schedule.max_num_seqs && shape.tokens <= schedule.budget);
        assert_eq!(shape.padded_tokens, 0);
    }
    // Planned once more before its end was known.
    let unforeseen = seen.ended.values();
    let unforeseen = unforeseen.filter(|(_, end)| end.reason != FinishReason::Length);
    let idle: usize = shapes.clone().map(|shape| shape.idle_rows).sum();
    assert!(idle <= (schedule.depth - 1) * unforeseen.count());
    let (steps, preemptions) = (shapes.clone().count(), shapes.map(|s| s.preemptions).sum());
    // All pages are free again: a request that takes the whole pool runs.
    let whole = (pages * PAGE).min(200);
    engine.submit(request(u64::MAX, 0, whole, 1)).unwrap();
    loop {
        let progress = engine.step().unwrap();
        match (progress.next, progress.finished.first()) {
            (_, Some(last)) => break assert_eq!(last.output.len(), 1),
            (Next::WaitUntil(t), None) => clock.sleep_until(t),
            (next, None) => assert_eq!(next, Next::Step),
        }
    }
    drop(engine);
    check_order(&runner);
    (steps, preemptions)
}

/// Rows that decode come before prompts, and move only into places that others have left.
fn check_order(runner: &ScriptedRunner<'_>) {
    let goes_on = |was: &RowPlan, is: &RowPlan| {
        let next = was.kv_len + 1 == is.kv_len && was.sample_index + 1 == is.sample_index;
        was.sampling.seed == is.sampling.seed && next && is.query_len == 1
    };
    let place = |row: &RowPlan, after: &StepPlan| after.rows.iter().position(|r| goes_on(row, r));
    for steps in runner.plans.windows(3) {
        let decoding = steps[0].rows.iter().filter_map(|row| place(row, &steps[1]));
        let places: Vec<_> = decoding
            .map(|was| (was, place(&steps[1].rows[was], &steps[2])))
            .collect();
        let left = places.iter().filter(|(_, is)| is.is_none()).count();
        let moved = places
            .iter()
            .filter(|(was, is)| is.is_some_and(|is| is != *was));
        assert!(moved.count() <= left, "{places:?}");
        let last = places.iter().filter_map(|(_, is)| *is).max().unwrap_or(0);
        assert!(steps[2].rows[..last].iter().all(|r| r.query_len == 1));
    }
}

#[test]
fn any_schedule_ends_whole_in_order_and_in_bounded_time() {
    let (steps, preemptions) = (Cell::new(0), Cell::new(0));
    let mut runner = TestRunner::new(Config {
        cases: 1000,
        ..Config::default()
    });
    runner
        .run(&schedules(), |schedule| {
            let (ran, preempted) = check(&schedule);
            steps.set(steps.get() + ran);
            preemptions.set(preemptions.get() + preempted);
            Ok(())
        })
        .unwrap();
    assert!(steps.get() >= 100_000, "only {} steps", steps.get());
    assert!(
        preemptions.get() >= 1_000,
        "only {} preemptions",
        preemptions.get()
    );
}
