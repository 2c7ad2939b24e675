//! Whole sweeps on the scripted runner, where every number is known beforehand.

use batchlab::Error;
use batchlab::clock::ManualClock;
use batchlab::scheduler::Padding;
use batchlab::sweep::{
    CellResult, CellSpec, Grid, LoadChoice, LoadSpec, Measure, MeasureOptions, Observer, Outcome,
    PolicyKind, Prompts, Workload, run,
};
use batchlab::telemetry::GpuSample;

use crate::scripted::{STEP, ScriptedRunner};

/// Writes down the cells that were measured, and asks to stop after `stop_after`.
struct Notes {
    measured: Vec<usize>,
    stop_after: usize,
}

impl Observer for Notes {
    fn cell_started(&mut self, _: usize, _: &CellSpec) {}
    fn cell_progressed(&mut self, share: f64, _: f64) {
        assert!((0.0..=1.0).contains(&share));
    }
    fn cell_finished(
        &mut self,
        index: usize,
        _: &CellResult,
        _: &[GpuSample],
    ) -> Result<(), Error> {
        self.measured.push(index);
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
        preferred_batch_sizes: vec![],
        prompts: vec!["p".into()],
        output_lens: vec!["8".into()],
        load: LoadChoice::Day2 { burstiness: 1.0 },
    }
}

fn options() -> MeasureOptions {
    MeasureOptions {
        padding: Padding::Padded,
        num_prompts: 40,
        num_warmups: None,
        num_runs: 2,
        min_seconds: 1.0,
        seed: 1,
        ignore_eos: true,
        metric_percentiles: vec![],
        timeout_ms: None,
        max_queue_size: 1000,
    }
}

fn sweep(results: &mut Vec<CellResult>, stop_after: usize) -> (Outcome, Vec<usize>) {
    let clock = ManualClock::default();
    let mut runner = ScriptedRunner::new(&clock, 64);
    let mut notes = Notes {
        measured: Vec::new(),
        stop_after,
    };
    let mut measure = Measure {
        runner: &mut runner,
        clock: &clock,
        gpu: None,
        options: &options(),
        preferred_batch_sizes: &[],
        workloads: &[Workload {
            label: "p".into(),
            prompts: Prompts::Lines(vec![vec![1, 2, 3]]),
        }],
        output_lens: &["8".parse().unwrap()],
        max_positions: 256,
        vocab: 100,
        eos_tokens: &[],
    };
    let outcome = run(&grid().cells(), results, &mut measure, &mut notes).unwrap();
    (outcome, notes.measured)
}

#[test]
fn the_second_load_is_half_of_what_the_closed_loop_reached() {
    let mut results = Vec::new();
    let (outcome, measured) = sweep(&mut results, usize::MAX);
    assert_eq!(outcome, Outcome::Complete);
    assert_eq!(measured, (0..12).collect::<Vec<_>>());
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
    let (outcome, measured) = sweep(&mut results, 2);
    assert_eq!((outcome, measured), (Outcome::Interrupted, vec![0, 1]));
    // What is resumed was read back from JSON.
    let line = serde_json::to_string(&results).unwrap();
    let mut results: Vec<CellResult> = serde_json::from_str(&line).unwrap();
    results.remove(0);
    let (outcome, measured) = sweep(&mut results, usize::MAX);
    assert_eq!(outcome, Outcome::Complete);
    assert_eq!(measured, [0].into_iter().chain(2..12).collect::<Vec<_>>());
}
