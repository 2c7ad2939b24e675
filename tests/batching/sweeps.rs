//! Whole sweeps on the scripted runner, where every number is known beforehand.

use batchlab::Error;
use batchlab::clock::ManualClock;
use batchlab::metrics::{RequestTrace, Summary};
use batchlab::scheduler::Padding;
use batchlab::sweep::{
    CellResult, CellSpec, Grid, InProcess, LoadChoice, LoadSpec, Measure, MeasureOptions, Measured,
    Observer, Outcome, PolicyKind, Prompts, Workload, run,
};
use batchlab::telemetry::GpuSample;

use crate::scripted::{STEP, ScriptedRunner};

/// Writes down the cells that were measured, and asks to stop after `stop_after`.
struct Notes {
    measured: Vec<usize>,
    requests: Vec<Vec<RequestTrace>>,
    stop_after: usize,
}

impl Observer for Notes {
    fn cell_started(&mut self, _: usize, _: &CellSpec) {}
    fn cell_progressed(&mut self, share: f64, _: f64) {
        assert!((0.0..=1.0).contains(&share));
    }
    fn cell_finished(&mut self, measured: &Measured, _: &[GpuSample]) -> Result<(), Error> {
        self.measured.push(measured.result.index);
        self.requests.push(measured.requests.clone());
        Ok(())
    }
    fn stop_requested(&self) -> bool {
        self.measured.len() >= self.stop_after
    }
}

fn grid() -> Grid {
    Grid {
        policies: vec![PolicyKind::Dynamic, PolicyKind::Static],
        batch_sizes: vec![1, 4],
        windows_ms: vec![50.0, 0.0],
        prefill_windows_ms: vec![],
        paddings: vec![Padding::Padded],
        prompts: vec!["p".into()],
        output_lens: vec!["8".into()],
        load: LoadChoice::day2(1.0),
    }
}

fn options() -> MeasureOptions {
    MeasureOptions {
        num_prompts: 40,
        num_warmups: None,
        num_runs: 2,
        min_seconds: 1.0,
        seed: 1,
        ignore_eos: true,
        metric_percentiles: vec![],
        timeout_ms: None,
        max_queue_size: 1000,
        preferred_batch_sizes: vec![],
        max_num_batched_tokens: 64,
    }
}

fn sweep(results: &mut Vec<CellResult>, stop_after: usize) -> (Outcome, Notes) {
    sweep_of(&grid(), results, stop_after)
}

fn sweep_of(grid: &Grid, results: &mut Vec<CellResult>, stop_after: usize) -> (Outcome, Notes) {
    let clock = ManualClock::default();
    let mut runner = ScriptedRunner::new(&clock, 64);
    let mut notes = Notes {
        measured: Vec::new(),
        requests: Vec::new(),
        stop_after,
    };
    let options = options();
    let mut service = InProcess {
        runner: &mut runner,
        clock: &clock,
        options: &options,
        max_positions: 256,
    };
    let mut measure = Measure {
        service: &mut service,
        clock: &clock,
        gpu: None,
        options: &options,
        workloads: &[Workload {
            label: "p".into(),
            prompts: Prompts::Lines(vec![vec![1, 2, 3]]),
        }],
        output_lens: &grid
            .output_lens
            .iter()
            .map(|mix| mix.parse().unwrap())
            .collect::<Vec<_>>(),
        vocab: 100,
        eos_tokens: &[],
    };
    let outcome = run(&grid.cells(), results, &mut measure, &mut notes).unwrap();
    (outcome, notes)
}

#[test]
fn the_second_load_is_half_of_what_the_closed_loop_reached() {
    let mut results = Vec::new();
    let (outcome, notes) = sweep(&mut results, usize::MAX);
    assert_eq!(outcome, Outcome::Complete);
    assert_eq!(notes.measured, (0..12).collect::<Vec<_>>());
    for (result, requests) in results.iter().zip(&notes.requests) {
        // Every request of both runs, each in a batch.
        let of_runs: usize = result.runs.iter().map(|r| r.summary.requests).sum();
        assert_eq!(requests.len(), of_runs);
        assert!(
            requests
                .iter()
                .all(|r| r.batch.is_some() && r.released_ms.is_some())
        );
    }
    for result in &results {
        let batch = result.cell.batch_size as f64;
        // A full batch of 8 tokens takes 8 steps.
        let full = batch / (8.0 * STEP.as_secs_f64());
        assert_eq!(result.runs.len(), 2);
        for run in &result.runs {
            assert!(run.summary.duration_s >= 1.0, "shorter than --min-seconds");
            assert!(run.summary.completed >= 40);
            assert_eq!(run.summary.failed, 0);
            assert_eq!(run.gpu, None);
        }
        match result.cell.load {
            LoadSpec::Closed { concurrency } => {
                assert_eq!(concurrency, result.cell.batch_size);
                let reached = result.mean(|r| Some(r.summary.request_throughput)).unwrap();
                assert!((reached / full - 1.0).abs() < 1e-9, "{reached} {full}");
                // Equal repeats: the interval has no width.
                assert!(result.confidence["output_throughput"].half_width < 1e-6);
            }
            _ => {
                let rate = result.request_rate.unwrap();
                assert!((rate / (full / 2.0) - 1.0).abs() < 1e-9, "{rate} {full}");
            }
        }
    }
}

#[test]
fn a_stopped_sweep_goes_on_with_what_is_missing() {
    let mut results = Vec::new();
    let (outcome, notes) = sweep(&mut results, 2);
    assert_eq!(
        (outcome, notes.measured),
        (Outcome::Interrupted, vec![0, 1])
    );
    // What is resumed was read back from JSON.
    let line = serde_json::to_string(&results).unwrap();
    let mut results: Vec<CellResult> = serde_json::from_str(&line).unwrap();
    results.remove(0);
    let (outcome, notes) = sweep(&mut results, usize::MAX);
    assert_eq!(outcome, Outcome::Complete);
    assert_eq!(
        notes.measured,
        [0].into_iter().chain(2..12).collect::<Vec<_>>()
    );
}

#[test]
fn a_saturation_sweep_puts_every_setting_under_the_same_rates() {
    let grid = Grid {
        policies: vec![PolicyKind::Dynamic],
        windows_ms: vec![0.0],
        load: LoadChoice::saturation(&[1, 4], 1.0),
        ..grid()
    };
    let mut results = Vec::new();
    sweep_of(&grid, &mut results, usize::MAX);
    // A full batch of 4 × 8 tokens takes 8 steps.
    let capacity = 4.0 / (8.0 * STEP.as_secs_f64());
    let closed = results.iter().filter(|r| !r.cell.load.is_open());
    for result in closed {
        assert_eq!(result.cell.load, LoadSpec::Closed { concurrency: 8 });
    }
    for result in results.iter().filter(|r| r.cell.load.is_open()) {
        let LoadSpec::Share { percent, .. } = result.cell.load else {
            panic!("{:?}", result.cell.load);
        };
        let wanted = capacity * percent / 100.0;
        assert!((result.request_rate.unwrap() / wanted - 1.0).abs() < 0.01);
    }
    assert_eq!(results.len(), 2 * 7);
    // Batch size 1 serves a quarter of the capacity: beyond it requests queue without end.
    let queue = |batch_size: usize, percent: f64| {
        let of_load = |r: &&CellResult| {
            matches!(r.cell.load, LoadSpec::Share { percent: p, .. } if p == percent)
                && r.cell.batch_size == batch_size
        };
        let cell = results.iter().find(of_load).unwrap();
        cell.mean(|r| r.summary.queue_ms.as_ref().map(|s| s.mean))
            .unwrap()
    };
    assert!(queue(1, 75.0) > 20.0 * queue(1, 10.0));
    assert!(queue(1, 75.0) > 20.0 * queue(4, 75.0));
}

#[test]
fn continuous_does_the_work_of_static_in_fewer_steps() {
    let grid = Grid {
        policies: vec![PolicyKind::Static, PolicyKind::Continuous],
        batch_sizes: vec![4],
        windows_ms: vec![],
        paddings: vec![Padding::Padded, Padding::Ragged],
        output_lens: vec!["2-30".into()],
        load: LoadChoice::Offline,
        ..grid()
    };
    let mut results = Vec::new();
    let (_, notes) = sweep_of(&grid, &mut results, usize::MAX);
    let settings: Vec<String> = results.iter().map(|r| r.cell.setting()).collect();
    assert_eq!(settings, ["static", "static ragged", "continuous"]);
    let summary = |i: usize| &results[i].runs[0].summary;
    let (fixed, continuous) = (summary(1), summary(2));
    assert_eq!(
        fixed.output_tokens, continuous.output_tokens,
        "the same requests"
    );
    assert_eq!(continuous.idle_percent(), Some(0.0));
    assert!(fixed.idle_percent().unwrap() > 20.0);
    // Every decoded token but each request's first is a row-step, idle ones come on top.
    let decoded = continuous.output_tokens - continuous.completed;
    let executed = |summary: &Summary| summary.executed.unwrap();
    let (batches, steps) = (executed(fixed), executed(continuous));
    assert_eq!(steps.row_steps, decoded);
    assert_eq!(batches.row_steps - batches.idle_row_steps, decoded);
    assert!(continuous.output_throughput > 1.3 * fixed.output_throughput);
    // Four rows of a step but for the end of the load; four of every batch.
    let rows = continuous.actual_batch_size.unwrap();
    assert!((3.5..4.0).contains(&rows), "{rows}");
    assert_eq!(continuous.batch_utilization_percent, Some(25.0 * rows));
    assert!(fixed.actual_batch_size.unwrap() > 3.9);
    // A row is free as soon as its request ends, and not before all of its batch have.
    let freed = |i: usize| {
        notes.requests[i]
            .iter()
            .filter(|r| r.released_ms == r.last_token_ms)
    };
    assert_eq!(freed(2).count(), notes.requests[2].len());
    assert!(freed(1).count() < notes.requests[1].len());
}
