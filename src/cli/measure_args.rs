//! The options of `batchlab sweep` that say how long and how often it measures.

use batchlab::Error;
use batchlab::sweep::MeasureOptions;

use super::grid_args::GridArgs;

const MAX_QUEUE_SIZE: usize = 100_000;

#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Measuring")]
pub struct MeasureArgs {
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
    /// Go on to the output length after the model's end-of-sequence tokens
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
    /// A request that has waited for this long in the queue is given up; with --target, for its first
    /// token
    #[arg(long, value_name = "MS", allow_hyphen_values = true)]
    timeout_ms: Option<f64>,
    /// Requests that may wait; more are rejected
    #[arg(long, default_value_t = MAX_QUEUE_SIZE, value_name = "N")]
    max_queue_size: usize,
}

impl MeasureArgs {
    /// The options of measuring that were given, but for the number of runs.
    pub fn as_options(&self, grid: &GridArgs) -> Vec<String> {
        let list = |sizes: &[usize]| {
            let sizes: Vec<String> = sizes.iter().map(usize::to_string).collect();
            (!sizes.is_empty()).then(|| sizes.join(","))
        };
        let given = [
            ("--preferred-batch-size", list(&grid.preferred_batch_size)),
            (
                "--max-num-batched-tokens",
                grid.max_num_batched_tokens.map(|n| n.to_string()),
            ),
            ("--num-prompts", self.num_prompts.map(|n| n.to_string())),
            ("--num-warmups", self.num_warmups.map(|n| n.to_string())),
            ("--min-seconds", self.min_seconds.map(|s| s.to_string())),
            ("--seed", (self.seed != 0).then(|| self.seed.to_string())),
            ("--ignore-eos", (!self.ignore_eos).then(|| "false".into())),
            ("--timeout-ms", self.timeout_ms.map(|ms| ms.to_string())),
            (
                "--max-queue-size",
                (self.max_queue_size != MAX_QUEUE_SIZE).then(|| self.max_queue_size.to_string()),
            ),
        ];
        let words = given
            .into_iter()
            .filter_map(|(name, value)| Some([name.into(), value?]));
        words.flatten().collect()
    }

    /// Errors: an impossible value, naming the option.
    pub fn options(&self, grid: &GridArgs, on_gpu: bool) -> Result<MeasureOptions, Error> {
        let options = MeasureOptions {
            num_prompts: self.num_prompts.unwrap_or(if on_gpu { 200 } else { 24 }),
            num_warmups: self.num_warmups,
            num_runs: self.num_runs,
            min_seconds: self.min_seconds.unwrap_or(if on_gpu { 5.0 } else { 3.0 }),
            seed: self.seed,
            ignore_eos: self.ignore_eos,
            metric_percentiles: self.metric_percentiles.clone(),
            timeout_ms: self.timeout_ms,
            max_queue_size: self.max_queue_size,
            preferred_batch_sizes: grid.preferred_batch_size.clone(),
            max_num_batched_tokens: grid.token_budget(),
        };
        options.validate()?;
        Ok(options)
    }
}
