//! The options of `batchlab sweep`, and the grid they ask for.

use std::path::PathBuf;
use std::time::Duration;

use batchlab::Error;
use batchlab::batching::Continuous;
use batchlab::model::Tokenizer;
use batchlab::scheduler::Padding;
use batchlab::sweep::{Experiment, Grid, MeasureOptions, PolicyKind, Preset, Workload};
use batchlab::workload::LengthMix;

use super::advice_args::AdviceArgs;
use super::engine_args::EngineArgs;
use super::grid_args::GridArgs;
use super::load_args::LoadArgs;
use super::measure_args::MeasureArgs;
use super::prompt_args::{PromptArgs, Texts};
use super::target_args::TargetArgs;

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
        let args = &self.grid;
        let policies = args.policies.as_ref();
        let paddings = args.padding.as_ref();
        let load = self.load.choice(&preset.batch_sizes)?;
        let grid = Grid {
            policies: policies.map_or(preset.policies, |list| {
                list.iter().map(|&p| p.into()).collect()
            }),
            batch_sizes: preset.batch_sizes,
            windows_ms: args.windows_ms.clone().unwrap_or(preset.windows_ms),
            prefill_windows_ms: args.prefill_windows_ms.clone(),
            paddings: paddings.map_or(preset.paddings, |list| {
                list.iter().map(|&p| p.into()).collect()
            }),
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
        self.measure.as_options(&self.grid)
    }

    pub fn measure_options(&self, on_gpu: bool) -> Result<MeasureOptions, Error> {
        self.measure.options(&self.grid, on_gpu)
    }
}
