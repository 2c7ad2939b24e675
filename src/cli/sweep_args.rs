//! The options of `batchlab sweep`, and the grid they ask for.

use std::path::PathBuf;

use batchlab::Error;
use batchlab::scheduler::Padding;
use batchlab::sweep::{Grid, LoadChoice, MeasureOptions, PolicyKind};
use clap::ValueEnum;

use super::engine_args::EngineArgs;
use super::prompt_args::{PromptArgs, Texts};

/// Measure a grid of batch sizes, wait windows and policies, and print what each costs.
///
/// Without options: batch sizes 1, 4, 8 × windows 0, 10, 50 ms, one fixed prompt, 32 new tokens;
/// each cell under a closed loop with as many clients as the batch size, then under Poisson arrivals
/// at half the request rate that the closed loop reached at this batch size (at window 0).
/// One to two minutes on two CPU cores.
#[derive(Debug, Clone, clap::Args)]
pub struct SweepArgs {
    #[command(flatten)]
    grid: GridArgs,
    #[command(flatten)]
    load: LoadArgs,
    #[command(flatten)]
    pub prompts: PromptArgs,
    #[command(flatten)]
    measure: MeasureArgs,
    #[command(flatten)]
    pub results: ResultsArgs,
    #[command(flatten)]
    pub engine: EngineArgs,
}

#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Grid (lists are separated by commas)")]
struct GridArgs {
    /// static: a batch leaves when it is full; dynamic: also when its oldest request has waited for
    /// the window
    #[arg(
        long,
        default_value = "dynamic",
        value_delimiter = ',',
        value_name = "LIST"
    )]
    policies: Vec<Policy>,
    /// Requests that run together, at most
    #[arg(
        long,
        default_value = "1,4,8",
        value_delimiter = ',',
        value_name = "LIST",
        allow_hyphen_values = true
    )]
    batch_sizes: Vec<usize>,
    /// Wait windows of dynamic, from the oldest queued request; static has none
    #[arg(
        long,
        default_value = "0,10,50",
        value_delimiter = ',',
        value_name = "LIST",
        allow_hyphen_values = true
    )]
    windows_ms: Vec<f64>,
    /// Batch sizes that dynamic lets go at once, without waiting for the window
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    preferred_batch_size: Vec<usize>,
    /// padded: rows padded to the batch's longest, computed and masked; ragged: nothing wasted
    #[arg(long, default_value = "padded", value_name = "MODE")]
    padding: PaddingMode,
}

#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Load")]
struct LoadArgs {
    /// day2: closed loop, then Poisson at half its throughput; the others put every cell under one
    #[arg(long, value_name = "LOAD")]
    load: Option<LoadKind>,
    /// Clients of a closed loop [default: the batch size]
    #[arg(long, value_name = "N")]
    max_concurrency: Option<usize>,
    /// Requests per second of Poisson arrivals
    #[arg(long, value_name = "R", allow_hyphen_values = true)]
    request_rate: Option<f64>,
    /// Shape of the gaps between arrivals: 1 = Poisson, below 1 burstier
    #[arg(
        long,
        default_value_t = 1.0,
        value_name = "SHAPE",
        allow_hyphen_values = true
    )]
    burstiness: f64,
}

#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Measuring")]
struct MeasureArgs {
    /// Requests of a run, at least [default: 24 on a CPU, 200 on a GPU]
    #[arg(long, value_name = "N")]
    num_prompts: Option<usize>,
    /// Requests before the first run [default: the batch size]
    #[arg(long, value_name = "N")]
    num_warmups: Option<usize>,
    /// Runs of each cell; from 2 on with confidence intervals
    #[arg(long, default_value_t = 1, value_name = "N")]
    num_runs: usize,
    /// Length of a run, at least [default: 3 on a CPU, 5 on a GPU, where NVML needs it]
    #[arg(long, value_name = "S", allow_hyphen_values = true)]
    min_seconds: Option<f64>,
    /// Seed of arrivals and lengths
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,
    /// Go on to the output length after the model's end-of-text token
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    ignore_eos: bool,
    /// Percentiles besides 50, 90, 95 and 99, in summary.csv and report.json
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "LIST",
        allow_hyphen_values = true
    )]
    metric_percentiles: Vec<f64>,
    /// A request that has waited for this long in the queue is given up
    #[arg(long, value_name = "MS", allow_hyphen_values = true)]
    timeout_ms: Option<f64>,
    /// Requests that may wait; more are rejected
    #[arg(long, default_value_t = 100_000, value_name = "N")]
    max_queue_size: usize,
}

#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Results")]
pub struct ResultsArgs {
    /// Folder for summary.csv, cells.jsonl, samples.jsonl, report.json [default: results/<UTC time>]
    #[arg(long, value_name = "DIR")]
    pub output: Option<PathBuf>,
    /// Go on with the sweep in --output
    #[arg(long, requires = "output")]
    pub resume: bool,
    /// Show the grid and measure nothing
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Policy {
    Static,
    Dynamic,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum PaddingMode {
    Padded,
    Ragged,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LoadKind {
    Day2,
    Closed,
    Poisson,
    Offline,
}

impl SweepArgs {
    pub fn grid(&self, texts: &[Texts]) -> Result<Grid, Error> {
        let policies = self.grid.policies.iter().map(|p| match p {
            Policy::Static => PolicyKind::Static,
            Policy::Dynamic => PolicyKind::Dynamic,
        });
        let outputs = self.prompts.output_len.iter();
        let grid = Grid {
            policies: policies.collect(),
            batch_sizes: self.grid.batch_sizes.clone(),
            windows_ms: self.grid.windows_ms.clone(),
            preferred_batch_sizes: self.grid.preferred_batch_size.clone(),
            prompts: texts.iter().map(|t| t.label.clone()).collect(),
            output_lens: outputs.map(ToString::to_string).collect(),
            load: self.load.choice()?,
        };
        grid.validate()?;
        Ok(grid)
    }

    pub fn measure_options(&self, on_gpu: bool) -> Result<MeasureOptions, Error> {
        let args = &self.measure;
        let options = MeasureOptions {
            padding: match self.grid.padding {
                PaddingMode::Padded => Padding::Padded,
                PaddingMode::Ragged => Padding::Ragged,
            },
            num_prompts: args.num_prompts.unwrap_or(if on_gpu { 200 } else { 24 }),
            num_warmups: args.num_warmups,
            num_runs: args.num_runs,
            min_seconds: args.min_seconds.unwrap_or(if on_gpu { 5.0 } else { 3.0 }),
            seed: args.seed,
            ignore_eos: args.ignore_eos,
            metric_percentiles: args.metric_percentiles.clone(),
            timeout_ms: args.timeout_ms,
            max_queue_size: args.max_queue_size,
        };
        options.validate()?;
        Ok(options)
    }
}

impl LoadArgs {
    fn choice(&self) -> Result<LoadChoice, Error> {
        let burstiness = self.burstiness;
        let usage = |message: &str| Err(Error::Usage(message.into()));
        match (self.load, self.max_concurrency, self.request_rate) {
            (_, Some(_), Some(_)) => usage(
                "--max-concurrency is for a closed loop and --request-rate for Poisson arrivals; \
                 give one of them",
            ),
            (Some(LoadKind::Day2 | LoadKind::Offline), Some(_), _) => {
                usage("--max-concurrency is for --load closed; leave one of the two out")
            }
            (Some(LoadKind::Day2 | LoadKind::Offline | LoadKind::Closed), _, Some(_)) => {
                usage("--request-rate is for --load poisson; leave one of the two out")
            }
            (Some(LoadKind::Poisson), Some(_), None) => {
                usage("--max-concurrency is for --load closed; give --request-rate instead")
            }
            (Some(LoadKind::Poisson), None, None) => {
                usage("--load poisson needs a rate; give --request-rate")
            }
            (_, None, Some(rate)) => Ok(LoadChoice::Poisson { rate, burstiness }),
            (Some(LoadKind::Closed), concurrency, None) | (None, concurrency @ Some(_), None) => {
                Ok(LoadChoice::Closed { concurrency })
            }
            (Some(LoadKind::Offline), None, None) => Ok(LoadChoice::Offline),
            (None | Some(LoadKind::Day2), None, None) => Ok(LoadChoice::Day2 { burstiness }),
        }
    }
}
