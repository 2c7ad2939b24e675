//! The options of `batchlab sweep`, and the grid they ask for.

use std::path::PathBuf;
use std::time::Duration;

use batchlab::Error;
use batchlab::batching::Continuous;
use batchlab::model::Tokenizer;
use batchlab::scheduler::Padding;
use batchlab::sweep::{Experiment, Grid, LoadChoice, MeasureOptions, PolicyKind, Preset, Workload};
use batchlab::workload::LengthMix;
use clap::ValueEnum;

use super::advice_args::AdviceArgs;
use super::engine_args::EngineArgs;
use super::prompt_args::{PromptArgs, Texts};
use super::target_args::TargetArgs;

const MAX_QUEUE_SIZE: usize = 100_000;
/// Clients of a server's closed loops.
const CLIENTS: [usize; 6] = [1, 4, 8, 16, 32, 64];

/// Measure a grid of batch sizes, wait windows and policies, or a server, and report what each costs.
///
/// Without options: batch sizes 1, 4, 8 × windows 0, 10, 50 ms, one fixed prompt, 32 new tokens;
/// each cell under a closed loop with as many clients as the batch size, then under Poisson arrivals
/// at half the request rate that the closed loop reached at this batch size (at window 0).
/// One to two minutes on two CPU cores. Ends with report.html and a pick for each scenario.
/// With --target: closed loops of 1, 4, 8, 16, 32 and 64 clients, then Poisson arrivals at 25 to 110 %
/// of the best request rate that one of them reached.
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
    pub advice: AdviceArgs,
    #[command(flatten)]
    pub results: ResultsArgs,
    #[command(flatten)]
    pub target: TargetArgs,
    #[command(flatten)]
    pub engine: EngineArgs,
}

#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Grid (lists are separated by commas)")]
struct GridArgs {
    /// Sets whatever the options below leave open. day2: sizes × windows; few-requests: static
    /// against dynamic at 1, 10, 50 % of the closed loop; padding: mixed prompts, padded against
    /// ragged; idle-rows: mixed against equal outputs; mixed-lengths: mixed prompts and outputs, all
    /// there at once, under all three policies; saturation: all settings under the same loads, up
    /// to 110 % of what the largest batch serves
    #[arg(
        long,
        default_value = "day2",
        value_delimiter = ',',
        value_name = "LIST"
    )]
    experiment: Vec<ExperimentName>,
    /// static: a batch leaves when it is full; dynamic: also when its oldest request has waited for
    /// the window; continuous: requests join and leave between steps [default: dynamic]
    #[arg(
        long,
        visible_alias = "policy",
        value_delimiter = ',',
        value_name = "LIST"
    )]
    policies: Option<Vec<Policy>>,
    /// Requests that run together, at most; for continuous its --max-num-seqs [default: 1,4,8]
    #[arg(
        long,
        visible_alias = "max-num-seqs",
        value_delimiter = ',',
        value_name = "LIST",
        allow_hyphen_values = true
    )]
    batch_sizes: Option<Vec<usize>>,
    /// Wait windows of dynamic, from the oldest queued request; static has none [default: 0,10,50]
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "LIST",
        allow_hyphen_values = true
    )]
    windows_ms: Option<Vec<f64>>,
    /// Wait windows of continuous: while rows run, prefills start so long after the last ones
    /// [default: none is held back]
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "LIST",
        allow_hyphen_values = true
    )]
    prefill_windows_ms: Vec<f64>,
    /// Tokens of a step of continuous: one for each row that decodes, the rest for parts of prompts
    /// [default: 2048]
    #[arg(long, value_name = "N")]
    max_num_batched_tokens: Option<usize>,
    /// Batch sizes that dynamic lets go at once, without waiting for the window
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    preferred_batch_size: Vec<usize>,
    /// padded: rows padded to the batch's longest, computed and masked; ragged: nothing wasted
    /// [default: padded]
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    padding: Option<Vec<PaddingMode>>,
}

#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Load")]
struct LoadArgs {
    /// day2: closed loop, then Poisson at half its throughput; saturation: the same loads for all
    /// cells; the others put every cell under one [default: that of the experiment]
    #[arg(long, value_name = "LOAD")]
    load: Option<LoadKind>,
    /// Clients of a closed loop [default: the batch size]; with --target a list
    #[arg(long, value_delimiter = ',', value_name = "N")]
    max_concurrency: Option<Vec<usize>>,
    /// Requests per second of Poisson arrivals
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "LIST",
        allow_hyphen_values = true
    )]
    request_rate: Option<Vec<f64>>,
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

#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Results")]
pub struct ResultsArgs {
    /// Folder for report.html with its pictures, summary.csv, cells.jsonl, requests/, samples/
    /// and report.json [default: results/<UTC time>]
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
enum ExperimentName {
    Day2,
    FewRequests,
    Padding,
    IdleRows,
    MixedLengths,
    Saturation,
}

impl From<ExperimentName> for Experiment {
    fn from(name: ExperimentName) -> Self {
        match name {
            ExperimentName::Day2 => Self::Day2,
            ExperimentName::FewRequests => Self::FewRequests,
            ExperimentName::Padding => Self::Padding,
            ExperimentName::IdleRows => Self::IdleRows,
            ExperimentName::MixedLengths => Self::MixedLengths,
            ExperimentName::Saturation => Self::Saturation,
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Policy {
    Static,
    Dynamic,
    Continuous,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum PaddingMode {
    Padded,
    Ragged,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LoadKind {
    Day2,
    Saturation,
    Closed,
    Poisson,
    Offline,
}

/// What the options and experiments ask for.
pub struct Asked {
    pub grids: Vec<Grid>,
    /// The prompts of all grids.
    pub texts: Vec<Texts>,
    pub output_lens: Vec<LengthMix>,
}

impl Asked {
    pub fn workloads(&self, tokenizer: &Tokenizer) -> Result<Vec<Workload>, Error> {
        self.texts.iter().map(|t| t.workload(tokenizer)).collect()
    }
}

impl SweepArgs {
    /// Reads prompt files. Errors: an impossible grid, naming the option.
    pub fn asked(&self) -> Result<Asked, Error> {
        if self.target.target.is_some() {
            return self.asked_of_server();
        }
        let mut asked = Asked {
            grids: Vec::new(),
            texts: Vec::new(),
            output_lens: Vec::new(),
        };
        for &name in &self.grid.experiment {
            let batch_sizes = self.grid.batch_sizes.as_deref();
            let preset = Experiment::from(name).preset(batch_sizes, self.load.burstiness);
            self.add(preset, &mut asked)?;
        }
        self.grid.check_read(&asked.grids)?;
        Ok(asked)
    }

    /// A server's batches are its own: the axes are loads.
    fn asked_of_server(&self) -> Result<Asked, Error> {
        let texts = self.prompts.texts(&[])?;
        let output_lens = self.prompts.outputs(&["32"])?;
        let clients = self.load.max_concurrency.clone();
        let grid = Grid {
            policies: vec![PolicyKind::Server],
            batch_sizes: clients.unwrap_or(CLIENTS.into()),
            windows_ms: vec![],
            prefill_windows_ms: vec![],
            paddings: vec![Padding::Ragged],
            prompts: texts.iter().map(|t| t.label.clone()).collect(),
            output_lens: output_lens.iter().map(ToString::to_string).collect(),
            load: self.load.choice_of_server()?,
        };
        grid.validate()?;
        Ok(Asked {
            grids: vec![grid],
            texts,
            output_lens,
        })
    }

    fn add(&self, preset: Preset, asked: &mut Asked) -> Result<(), Error> {
        let texts = self.prompts.texts(&preset.input_lens)?;
        let outputs = self.prompts.outputs(&preset.output_lens)?;
        let policy = |p: &Policy| match p {
            Policy::Static => PolicyKind::Static,
            Policy::Dynamic => PolicyKind::Dynamic,
            Policy::Continuous => PolicyKind::Continuous,
        };
        let padding = |p: &PaddingMode| match p {
            PaddingMode::Padded => Padding::Padded,
            PaddingMode::Ragged => Padding::Ragged,
        };
        let args = &self.grid;
        let policies = args.policies.as_ref();
        let paddings = args.padding.as_ref();
        let load = self.load.choice(&preset.batch_sizes)?;
        let grid = Grid {
            policies: policies.map_or(preset.policies, |list| list.iter().map(policy).collect()),
            batch_sizes: preset.batch_sizes,
            windows_ms: args.windows_ms.clone().unwrap_or(preset.windows_ms),
            prefill_windows_ms: args.prefill_windows_ms.clone(),
            paddings: paddings.map_or(preset.paddings, |list| list.iter().map(padding).collect()),
            prompts: texts.iter().map(|t| t.label.clone()).collect(),
            output_lens: outputs.iter().map(ToString::to_string).collect(),
            load: load.unwrap_or(preset.load),
        };
        grid.validate()?;
        self.check_budget(&grid)?;
        asked.grids.push(grid);
        for text in texts {
            if asked.texts.iter().all(|t| t.label != text.label) {
                asked.texts.push(text);
            }
        }
        for output in outputs {
            if !asked.output_lens.contains(&output) {
                asked.output_lens.push(output);
            }
        }
        Ok(())
    }

    /// Refuses a `--max-num-batched-tokens` with which continuous cells would stall.
    fn check_budget(&self, grid: &Grid) -> Result<(), Error> {
        if !grid.policies.contains(&PolicyKind::Continuous) {
            return Ok(());
        }
        let policy = Continuous {
            max_num_seqs: grid.batch_sizes.iter().copied().max().unwrap_or(1),
            max_num_batched_tokens: self.grid.token_budget(),
            prefill_window: Duration::ZERO,
        };
        let page_size = self.engine.model.kv_block_size;
        let checked = policy.check(page_size);
        checked.map_err(|e| Error::Usage(e.to_string()))
    }

    /// Tokens of a step that the continuous cells want, where there are any.
    pub fn max_num_batched_tokens(&self, grids: &[Grid]) -> Option<usize> {
        let mut policies = grids.iter().flat_map(|g| &g.policies);
        let asked = policies.any(|p| *p == PolicyKind::Continuous);
        asked.then_some(self.grid.token_budget())
    }

    /// The options of measuring that were given, but for the number of runs.
    pub fn measure_as_options(&self) -> Vec<String> {
        let args = &self.measure;
        let list = |sizes: &[usize]| {
            let sizes: Vec<String> = sizes.iter().map(usize::to_string).collect();
            (!sizes.is_empty()).then(|| sizes.join(","))
        };
        let given = [
            (
                "--preferred-batch-size",
                list(&self.grid.preferred_batch_size),
            ),
            (
                "--max-num-batched-tokens",
                self.grid.max_num_batched_tokens.map(|n| n.to_string()),
            ),
            ("--num-prompts", args.num_prompts.map(|n| n.to_string())),
            ("--num-warmups", args.num_warmups.map(|n| n.to_string())),
            ("--min-seconds", args.min_seconds.map(|s| s.to_string())),
            ("--seed", (args.seed != 0).then(|| args.seed.to_string())),
            ("--ignore-eos", (!args.ignore_eos).then(|| "false".into())),
            ("--timeout-ms", args.timeout_ms.map(|ms| ms.to_string())),
            (
                "--max-queue-size",
                (args.max_queue_size != MAX_QUEUE_SIZE).then(|| args.max_queue_size.to_string()),
            ),
        ];
        let words = given
            .into_iter()
            .filter_map(|(name, value)| Some([name.into(), value?]));
        words.flatten().collect()
    }

    pub fn measure_options(&self, on_gpu: bool) -> Result<MeasureOptions, Error> {
        let args = &self.measure;
        let options = MeasureOptions {
            num_prompts: args.num_prompts.unwrap_or(if on_gpu { 200 } else { 24 }),
            num_warmups: args.num_warmups,
            num_runs: args.num_runs,
            min_seconds: args.min_seconds.unwrap_or(if on_gpu { 5.0 } else { 3.0 }),
            seed: args.seed,
            ignore_eos: args.ignore_eos,
            metric_percentiles: args.metric_percentiles.clone(),
            timeout_ms: args.timeout_ms,
            max_queue_size: args.max_queue_size,
            preferred_batch_sizes: self.grid.preferred_batch_size.clone(),
            max_num_batched_tokens: self.grid.token_budget(),
        };
        options.validate()?;
        Ok(options)
    }
}

impl GridArgs {
    fn token_budget(&self) -> usize {
        self.max_num_batched_tokens
            .unwrap_or(Continuous::MAX_NUM_BATCHED_TOKENS)
    }

    /// Refuses an option that none of the grids' policies reads.
    fn check_read(&self, grids: &[Grid]) -> Result<(), Error> {
        use PolicyKind::{Continuous, Dynamic, Static};
        let continuous = ("continuous", [Continuous].as_slice());
        let dynamic = ("dynamic", [Dynamic].as_slice());
        let padding = ("static or dynamic", [Static, Dynamic].as_slice());
        let (budget, preferred) = (self.max_num_batched_tokens, &self.preferred_batch_size);
        for (option, is_given, (names, readers)) in [
            ("--windows-ms", self.windows_ms.is_some(), dynamic),
            ("--preferred-batch-size", !preferred.is_empty(), dynamic),
            (
                "--prefill-windows-ms",
                !self.prefill_windows_ms.is_empty(),
                continuous,
            ),
            ("--max-num-batched-tokens", budget.is_some(), continuous),
            ("--padding", self.padding.is_some(), padding),
        ] {
            let mut policies = grids.iter().flat_map(|grid| &grid.policies);
            if is_given && !policies.any(|policy| readers.contains(policy)) {
                return Err(Error::Usage(format!(
                    "{option} is for {names}; add that to --policies or leave the option out"
                )));
            }
        }
        Ok(())
    }
}

impl LoadArgs {
    fn choice_of_server(&self) -> Result<LoadChoice, Error> {
        if let Some(LoadKind::Day2 | LoadKind::Saturation) = self.load {
            return Err(Error::Usage(
                "--load day2 and --load saturation go by batch sizes, which a server keeps to \
                 itself; with --target give closed, poisson or offline, or leave it out"
                    .into(),
            ));
        }
        // How many clients there are is the grid's.
        let one = Self {
            max_concurrency: self.max_concurrency.as_ref().map(|_| vec![1]),
            ..self.clone()
        };
        Ok(match one.choice(&[])? {
            None => LoadChoice::server(self.burstiness),
            Some(LoadChoice::Closed { .. }) => LoadChoice::Closed { concurrency: None },
            Some(choice) => choice,
        })
    }

    /// None: nothing was said, so the experiment's own.
    fn choice(&self, batch_sizes: &[usize]) -> Result<Option<LoadChoice>, Error> {
        use LoadKind::{Closed, Day2, Offline, Poisson, Saturation};
        let burstiness = self.burstiness;
        let usage = |message: &str| Err(Error::Usage(message.into()));
        let rates = self.request_rate.clone();
        let clients = match self.max_concurrency.as_deref() {
            None => None,
            Some(&[clients]) => Some(clients),
            Some(_) => return usage("--max-concurrency takes several numbers only with --target"),
        };
        let choice = match (self.load, clients, rates) {
            (_, Some(_), Some(_)) => {
                return usage(
                    "--max-concurrency is for a closed loop and --request-rate for Poisson \
                     arrivals; give one of them",
                );
            }
            (Some(Day2 | Saturation | Offline), Some(_), _) => {
                return usage("--max-concurrency is for --load closed; leave one of the two out");
            }
            (Some(Day2 | Saturation | Offline | Closed), _, Some(_)) => {
                return usage("--request-rate is for --load poisson; leave one of the two out");
            }
            (Some(Poisson), Some(_), None) => {
                return usage(
                    "--max-concurrency is for --load closed; give --request-rate instead",
                );
            }
            (Some(Poisson), None, None) => {
                return usage("--load poisson needs a rate; give --request-rate");
            }
            (None, None, None) => return Ok(None),
            (_, None, Some(rates)) => LoadChoice::Poisson { rates, burstiness },
            (Some(Closed), concurrency, None) | (None, concurrency @ Some(_), None) => {
                LoadChoice::Closed { concurrency }
            }
            (Some(Offline), None, None) => LoadChoice::Offline,
            (Some(Day2), None, None) => LoadChoice::day2(burstiness),
            (Some(Saturation), None, None) => LoadChoice::saturation(batch_sizes, burstiness),
        };
        Ok(Some(choice))
    }
}
