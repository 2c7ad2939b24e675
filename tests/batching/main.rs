//! Queue, policies, scheduler and loads, without tensors and without waiting.

mod ahead;
mod continuous;
mod loads;
mod policies;
mod schedules;
mod scripted;
mod sweeps;
mod tokens;

use batchlab::model::Model;
use batchlab::runner::cpu::CpuRunner;
use batchlab::runner::{Runner, RunnerOptions};

/// Whether `tokens` has a runner to try.
fn has_runner() -> bool {
    true
}

/// The runner that `tokens` tries.
fn open(model: &Model, options: &RunnerOptions) -> Box<dyn Runner> {
    Box::new(CpuRunner::new(model, options).unwrap())
}
