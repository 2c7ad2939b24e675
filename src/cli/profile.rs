//! `batchlab generate --profile`: the same generation again and again, taken apart.

use anyhow::Context;
use batchlab::Error;
use batchlab::metrics::{NetworkSize, Profile};
use batchlab::report::{ProfileReport, profile, profile_json};
use batchlab::runner::Runner;

use super::generate::{Generated, Job};
use super::{at_least_one, print};

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Profile")]
pub struct ProfileArgs {
    /// After the text, whose run is the warm-up, generate it again --num-runs times and print a table:
    /// prefill and decode, and how near each comes to what memory and cores here can do
    #[arg(long)]
    pub profile: bool,
    /// Runs that count
    #[arg(long, default_value = "5", value_name = "N", requires = "profile", value_parser = at_least_one)]
    num_runs: usize,
    /// Print one JSON object, with the text in it, in place of text and table
    #[arg(long, requires = "profile")]
    pub json: bool,
}

/// `warm_up` has just been generated, and shown unless JSON is wanted.
pub fn run(
    args: &ProfileArgs,
    job: &Job<'_>,
    runner: &mut dyn Runner,
    warm_up: &Generated,
) -> anyhow::Result<()> {
    let ceilings = runner.measure_ceilings().map_err(Error::from)?;
    let weight = runner.dtype().bytes();
    let network = NetworkSize::of(&job.model.spec, &runner.kv_layout(), weight);
    runner.time_steps(true).map_err(Error::from)?;
    let mut runs = Vec::new();
    for _ in 0..args.num_runs {
        let run = job.silent(runner)?;
        runs.push(Profile::of(
            &run.finished,
            &run.records.steps,
            &network,
            &ceilings,
        ));
    }
    let report = ProfileReport {
        model: &job.model.spec.name,
        runner: &runner.describe(),
        ceilings,
        runs: &runs,
    };
    match args.json {
        false => print(&format!("\n{}", profile(&report))),
        true => {
            let json = profile_json(&report, &job.texts(warm_up)?);
            print(&serde_json::to_string_pretty(&json).context("the profile as JSON")?)
        }
    }
}
