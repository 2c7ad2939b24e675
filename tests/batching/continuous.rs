//! How rows join, share steps and leave under continuous batching, step by step.

use crate::scripted::{FIRST_TOKEN, PAGE, STEP, ScriptedRunner, engine, hashed, ms, request};
use batchlab::batching::{
    BudgetError, CloseReason, Continuous, Decision, Policy, QueueState, Static,
};
use batchlab::clock::ManualClock;
use batchlab::engine::{Engine, Next};
use batchlab::plan::StepPlan;
use batchlab::request::{FinishReason, Finished, Stretch};
use batchlab::scheduler::Padding;
use std::time::Duration;

fn continuous(max_num_seqs: usize, max_num_batched_tokens: usize) -> Continuous {
    Continuous {
        max_num_seqs,
        max_num_batched_tokens,
        prefill_window: ms(0),
    }
}

/// Steps until nothing is left to do.
fn run(engine: &mut Engine<'_>) -> Vec<Finished> {
    let mut ended = Vec::new();
    loop {
        let progress = engine.step().unwrap();
        ended.extend(progress.finished);
        if progress.next != Next::Step {
            return ended;
        }
    }
}

fn query_lens(plan: &StepPlan) -> Vec<usize> {
    plan.rows.iter().map(|r| r.query_len).collect()
}

/// Each row's first page, which tells rows apart.
fn rows(plan: &StepPlan) -> Vec<u32> {
    plan.rows.iter().map(|r| r.pages[0]).collect()
}

#[test]
fn prompts_go_in_parts_beside_decoding_rows() {
    let clock = ManualClock::default();
    let mut runner = ScriptedRunner::new(&clock, 64);
    let mut engine = engine(&mut runner, &clock, continuous(4, 8), Padding::Padded);
    for (id, len) in [3, 10, 6].into_iter().enumerate() {
        engine.submit(request(id as u64, 0, len, 4)).unwrap();
    }
    let ended = run(&mut engine);
    let shapes: Vec<_> = engine.records().steps.iter().map(|s| s.shape).collect();
    let counts: Vec<_> = shapes
        .iter()
        .map(|s| (s.rows, s.decode_rows, s.tokens))
        .collect();
    drop(engine);
    let lens: Vec<_> = runner.plans.iter().map(query_lens).collect();
    // 8 tokens a step: 3 + 5 of 10; one decodes, 5 more and 2 of 6; two decode, the last 4 of 6 …
    assert_eq!(
        lens[..4],
        [vec![3, 5], vec![1, 5, 2], vec![1, 1, 4], vec![1, 1, 1]]
    );
    assert_eq!(counts[..4], [(2, 0, 8), (3, 1, 8), (3, 2, 6), (3, 3, 3)]);
    assert!(shapes[1].is_mixed() && !shapes[0].is_mixed() && !shapes[3].prefills());
    assert!(
        shapes
            .iter()
            .all(|s| s.idle_rows == 0 && s.padded_tokens == 0)
    );
    // Requests 0 and 1 were in the first step, 2 in the second; first tokens came as prompts ended.
    let of = |id: usize| ended.iter().find(|r| r.id == id as u64).unwrap();
    let scheduled = [0, 1, 2].map(|id| of(id).scheduled.unwrap());
    assert_eq!(scheduled, [ms(0), ms(0), STEP]);
    let first = [0, 1, 2].map(|id| of(id).token_times[0]);
    assert_eq!(first, [STEP, 2 * STEP, 3 * STEP]);
}

#[test]
fn a_row_leaves_as_it_ends_and_the_next_takes_its_place() {
    let clock = ManualClock::default();
    let mut runner = ScriptedRunner::new(&clock, 64);
    let mut engine = engine(&mut runner, &clock, continuous(3, 64), Padding::Ragged);
    for (id, output) in [9, 2, 9, 9].into_iter().enumerate() {
        engine.submit(request(id as u64, 0, 2, output)).unwrap();
    }
    let ended = run(&mut engine);
    assert_eq!(ended[0].finished, 2 * STEP);
    let batches = &engine.records().batches;
    let starts: Vec<_> = batches
        .iter()
        .map(|b| (b.size, b.close_reason, b.start))
        .collect();
    assert_eq!(
        starts,
        [
            (3, CloseReason::Full, ms(0)),
            (1, CloseReason::Full, 2 * STEP)
        ]
    );
    assert!(batches.iter().all(|b| b.end.is_none() && b.max_size == 3));
    drop(engine);
    let plans = &runner.plans;
    // Pages 0, 1, 2; the last row takes the place of the one that ended, and the fourth request,
    // which has got the free page, prefills behind them.
    assert_eq!(rows(&plans[1]), [0, 1, 2]);
    assert_eq!(rows(&plans[2]), [0, 2, 1]);
    assert_eq!(query_lens(&plans[2]), [1, 1, 2]);
    // From there on everybody keeps their place.
    assert!(plans[3..8].iter().all(|plan| rows(plan) == [0, 2, 1]));
}

#[test]
fn a_vacated_place_goes_to_a_row_that_has_just_prefilled() {
    let clock = ManualClock::default();
    let mut runner = ScriptedRunner::new(&clock, 64);
    let mut engine = engine(&mut runner, &clock, continuous(4, 64), Padding::Ragged);
    for (id, output) in [9, 3, 9].into_iter().enumerate() {
        engine.submit(request(id as u64, 0, 2, output)).unwrap();
    }
    engine.step().unwrap();
    engine.step().unwrap();
    // Prefills in the very step in which request 1 ends.
    engine.submit(request(3, 4, 2, 9)).unwrap();
    run(&mut engine);
    drop(engine);
    assert_eq!(rows(&runner.plans[2]), [0, 1, 2, 3]);
    assert_eq!(rows(&runner.plans[3]), [0, 3, 2]);
}

#[test]
fn the_youngest_gives_its_pages_to_the_oldest_and_loses_nothing() {
    let clock = ManualClock::default();
    // Each needs 3 + 9 positions = 3 pages; 4 pages hold one, and the beginning of another.
    let mut runner = ScriptedRunner::new(&clock, 4);
    runner.model = hashed;
    let mut engine = engine(&mut runner, &clock, continuous(4, 64), Padding::Ragged);
    for id in 0..2 {
        engine.submit(request(id, 0, 3, 10)).unwrap();
    }
    let ended = run(&mut engine);
    let preemptions: Vec<_> = engine
        .records()
        .steps
        .iter()
        .map(|s| s.shape.preemptions)
        .collect();
    assert_eq!(preemptions.iter().sum::<usize>(), 1);
    drop(engine);
    // Both are at 8 positions = 2 pages after six steps; the seventh takes a page from the younger.
    assert_eq!(preemptions[6], 1);
    let (old, young) = (&ended[0], &ended[1]);
    assert_eq!((old.id, old.finished), (0, 10 * STEP));
    assert!(old.preempted.is_empty());
    let resumed = runner
        .plans
        .iter()
        .skip(6)
        .position(|p| p.rows[0].query_len > 1)
        .unwrap()
        + 6;
    // Prompt and six tokens of output are computed again; sampling goes on where it was.
    assert_eq!((query_lens(&runner.plans[resumed]), resumed), (vec![9], 10));
    assert_eq!(runner.plans[resumed].rows[0].sample_index, 6);
    let until = Some(young.token_times[6]);
    assert_eq!(
        young.preempted,
        [Stretch {
            from: 6 * STEP,
            until
        }]
    );
    assert_eq!(until, Some(11 * STEP));
    assert_eq!(
        young.scheduled,
        Some(ms(0)),
        "the first time it was in a step"
    );
    assert_eq!(
        (young.output.len(), young.reason),
        (10, FinishReason::Length)
    );
    assert_eq!(young.output, old.output, "equal prompts say the same");
}

#[test]
fn some_pages_stay_free_beside_running_rows_and_none_for_one_alone() {
    let clock = ManualClock::default();
    let mut runner = ScriptedRunner::new(&clock, 4);
    let mut engine = engine(&mut runner, &clock, continuous(4, 64), Padding::Ragged);
    // Two pages and later a third, then two more: nothing would be left for the third.
    engine.submit(request(0, 0, 2 * PAGE - 3, 6)).unwrap();
    engine.submit(request(1, 0, 2 * PAGE, 1)).unwrap();
    // All four.
    engine.submit(request(2, 0, 4 * PAGE, 1)).unwrap();
    let ended = run(&mut engine);
    assert_eq!(ended.iter().map(|r| r.id).collect::<Vec<_>>(), [0, 1, 2]);
    let reasons: Vec<_> = engine
        .records()
        .batches
        .iter()
        .map(|b| b.close_reason)
        .collect();
    assert_eq!(
        reasons,
        [
            CloseReason::KvFull,
            CloseReason::KvFull,
            CloseReason::QueueEmpty
        ]
    );
    let peak = engine.records().steps.last().unwrap().shape;
    assert_eq!((peak.kv_pages_used, peak.preemptions), (4, 0));
}

#[test]
fn a_pool_that_holds_all_rows_at_their_longest_runs_them_all() {
    for rows in [2, 3, 8, 64] {
        let clock = ManualClock::default();
        let mut runner = ScriptedRunner::new(&clock, 2 * rows);
        let mut engine = engine(&mut runner, &clock, continuous(rows, 4096), Padding::Ragged);
        for id in 0..rows as u64 {
            engine.submit(request(id, 0, PAGE + 2, PAGE - 1)).unwrap();
        }
        engine.step().unwrap();
        let first = engine.records().steps[0].shape;
        assert_eq!((first.rows, first.kv_pages_used), (rows, 2 * rows));
        run(&mut engine);
        assert!(
            engine
                .records()
                .steps
                .iter()
                .all(|s| s.shape.preemptions == 0)
        );
    }
}

#[test]
fn a_prefill_window_lets_several_prompts_share_a_step() {
    let clock = ManualClock::default();
    let mut runner = ScriptedRunner::new(&clock, 64);
    let policy = Continuous {
        prefill_window: ms(20),
        ..continuous(3, 64)
    };
    let mut engine = engine(&mut runner, &clock, policy, Padding::Ragged);
    // Nobody is disturbed where nothing runs.
    engine.submit(request(0, 0, 2, 40)).unwrap();
    engine.step().unwrap();
    // The next start is a window after the last or after the oldest arrival: 0 goes on alone until two
    // fill the free rows, and two more wait for these to leave and for another window.
    for id in 1..=4 {
        engine.submit(request(id, 2, 2, 2)).unwrap();
    }
    run(&mut engine);
    let batches = engine.records().batches.iter();
    let starts: Vec<_> = batches.map(|b| (b.size, b.close_reason, b.start)).collect();
    assert_eq!(
        starts,
        [
            (1, CloseReason::QueueEmpty, ms(0)),
            (2, CloseReason::Full, ms(22)),
            (2, CloseReason::Full, ms(42)),
        ]
    );
}

/// The penalised tokens of both rows in every step.
fn penalised(policy: impl Policy + 'static, depth: usize) -> Vec<[Vec<u32>; 2]> {
    let clock = ManualClock::default();
    let mut runner = ScriptedRunner::new(&clock, 64);
    runner.depth = depth;
    let mut engine = engine(&mut runner, &clock, policy, Padding::Ragged);
    let mut penalised = request(0, 0, 3, 3);
    penalised.prompt = vec![7, 9, 7];
    penalised.sampling.repetition_penalty = 1.2;
    engine.submit(penalised).unwrap();
    engine.submit(request(1, 0, 3, 3)).unwrap();
    run(&mut engine);
    drop(engine);
    let of_rows = |p: &StepPlan| [0, 1].map(|row| p.rows[row].penalised.clone());
    runner.plans.iter().map(of_rows).collect()
}

#[test]
fn rows_with_a_penalty_carry_what_they_have_seen_under_every_policy() {
    let first = FIRST_TOKEN + 2;
    let seen = [vec![7, 9], vec![7, 9, first], vec![7, 9, first, first + 1]];
    let seen = seen.map(|of_row| [of_row, vec![]]);
    for depth in [1, 2] {
        assert_eq!(penalised(continuous(2, 64), depth), seen);
        assert_eq!(penalised(Static { batch_size: 2 }, depth), seen);
    }
}

#[test]
fn running_and_preempted_requests_are_cancelled_at_once() {
    let clock = ManualClock::default();
    let mut runner = ScriptedRunner::new(&clock, 4);
    let mut engine = engine(&mut runner, &clock, continuous(4, 64), Padding::Ragged);
    for id in 0..3 {
        engine.submit(request(id, 0, 3, 10)).unwrap();
    }
    while engine
        .records()
        .steps
        .iter()
        .all(|s| s.shape.preemptions == 0)
    {
        engine.step().unwrap();
    }
    let preempted = engine.cancel(2).unwrap();
    assert_eq!(preempted.reason, FinishReason::Cancelled);
    assert_eq!(preempted.output.len(), 2);
    assert!(preempted.preempted[0].until.is_some());
    assert_eq!(engine.cancel(2), None);
    let running = engine.cancel(0).unwrap();
    assert_eq!(running.output.len(), 3);
    let ended = run(&mut engine);
    let outputs: Vec<_> = ended.iter().map(|r| (r.id, r.output.len())).collect();
    assert_eq!(outputs, [(1, 10)]);
}

#[test]
fn a_budget_with_which_rows_would_stall_is_refused() {
    let refused = |rows, budget| continuous(rows, budget).check(32).unwrap_err();
    assert_eq!(
        refused(65, 64),
        BudgetError::Rows {
            budget: 64,
            rows: 65
        }
    );
    let page = refused(8, 31);
    assert_eq!(
        page,
        BudgetError::Page {
            budget: 31,
            page_size: 32
        }
    );
    let text = "--max-num-batched-tokens 31 is less than a KV page of 32 tokens";
    assert!(page.to_string().starts_with(text), "{page}");
    continuous(64, 64).check(32).unwrap();
}

#[test]
fn a_window_closes_only_what_waited_for_it() {
    let queue = QueueState {
        now: ms(50),
        queued: 1,
        oldest_arrival: Some(ms(30)),
        started: 1,
        last_start: Some(ms(0)),
        more_expected: true,
    };
    let reason = |window: Duration, started: usize| {
        let policy = Continuous {
            prefill_window: window,
            ..continuous(4, 64)
        };
        match policy.decide(&QueueState { started, ..queue }) {
            Decision::Take { count: 1, reason } => Some(reason),
            _ => None,
        }
    };
    assert_eq!(reason(ms(20), 1), Some(CloseReason::Window));
    assert_eq!(reason(ms(21), 1), None);
    assert_eq!(reason(ms(21), 0), Some(CloseReason::QueueEmpty));
    assert_eq!(reason(Duration::ZERO, 1), Some(CloseReason::QueueEmpty));
}
