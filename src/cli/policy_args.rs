//! How `batchlab serve` batches: as asked, or as a sweep found best.

use std::path::{Path, PathBuf};
use std::time::Duration;

use batchlab::Error;
use batchlab::analysis::{Scenario, advise};
use batchlab::batching::{Batching, Continuous, Dynamic, Policy, Static};
use batchlab::report::SavedSweep;
use batchlab::scheduler::Padding;
use batchlab::sweep::{CellSpec, MeasureOptions};
use clap::{Parser, ValueEnum};

use super::at_least_one;
use super::engine_args::EngineArgs;

const MAX_BATCH_SIZE: usize = 64;
/// Of a request-level batch, whose prompts are computed in one step: as memory for a step's values allows,
/// not as its rows' latency would.
const WHOLE_PROMPT_TOKENS: usize = 16 << 10;
/// Triton users begin here.
const DYNAMIC_WINDOW_MS: f64 = 10.0;

#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Batching")]
pub struct PolicyArgs {
    /// continuous: requests join and leave between steps; dynamic: a batch leaves when it is full or its
    /// oldest request has waited for --max-queue-delay-ms; static: only when it is full [default:
    /// continuous]
    #[arg(long, value_name = "POLICY")]
    policy: Option<PolicyName>,
    /// Requests that run together, at most [default: 64]
    #[arg(long, visible_alias = "max-num-seqs", value_name = "N", value_parser = at_least_one)]
    max_batch_size: Option<usize>,
    /// The wait window of dynamic, from the oldest queued request [default: 10]; of continuous, how long
    /// prefills are held back while rows run [default: 0]
    #[arg(long, value_name = "MS", value_parser = window)]
    max_queue_delay_ms: Option<Duration>,
    /// Batch sizes that dynamic lets go at once
    #[arg(long, value_delimiter = ',', value_name = "LIST", value_parser = at_least_one)]
    preferred_batch_size: Vec<usize>,
    /// Tokens of a step: of continuous, with one for each row that decodes [default: 2048]; of the others,
    /// of a batch's prompts, and at least the longest [default: 16384]
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    max_num_batched_tokens: Option<usize>,
    /// Take the setting that a sweep picked: its --output. Model and device are the sweep's too, unless
    /// --model is given
    #[arg(
        long,
        value_name = "DIR",
        conflicts_with_all = ["policy", "max_batch_size", "max_queue_delay_ms", "preferred_batch_size", "max_num_batched_tokens"]
    )]
    from_results: Option<PathBuf>,
    /// The use that the setting is for
    #[arg(
        long,
        value_name = "SCENARIO",
        requires = "from_results",
        default_value = "chat"
    )]
    scenario: ScenarioName,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum PolicyName {
    Static,
    Dynamic,
    Continuous,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ScenarioName {
    /// Real-time chat
    Chat,
    /// API service
    Api,
    /// Batch documents
    Documents,
}

/// A setting to serve with.
pub struct Setting {
    pub policy: Box<dyn Policy>,
    pub padding: Padding,
    pub max_num_batched_tokens: usize,
    pub words: String,
    /// How the sweep that it is from ran its model.
    pub engine: Option<EngineArgs>,
}

impl PolicyArgs {
    /// Errors: an option that the policy does not read, a token budget with which rows would stall, a
    /// results folder that cannot be read, or one with no setting that keeps the scenario's limits.
    pub fn setting(&self, page_size: usize) -> Result<Setting, Error> {
        match &self.from_results {
            Some(folder) => self.measured(folder),
            None => self.asked(page_size),
        }
    }

    fn asked(&self, page_size: usize) -> Result<Setting, Error> {
        let policy = self.policy.unwrap_or(PolicyName::Continuous);
        let size = self.max_batch_size.unwrap_or(MAX_BATCH_SIZE);
        let budget = self.max_num_batched_tokens.unwrap_or(match policy {
            PolicyName::Continuous => Continuous::MAX_NUM_BATCHED_TOKENS,
            PolicyName::Static | PolicyName::Dynamic => WHOLE_PROMPT_TOKENS,
        });
        let unread = |option: &str, reader: &str| {
            Error::Usage(format!(
                "{option} is for {reader}; leave it out or change --policy"
            ))
        };
        if policy != PolicyName::Dynamic && !self.preferred_batch_size.is_empty() {
            return Err(unread("--preferred-batch-size", "dynamic"));
        }
        let delay = self.max_queue_delay_ms;
        let window = |usual_ms: f64| delay.unwrap_or(Duration::from_secs_f64(usual_ms / 1e3));
        let (policy, name): (Box<dyn Policy>, String) = match policy {
            PolicyName::Static if delay.is_some() => {
                return Err(unread("--max-queue-delay-ms", "dynamic or continuous"));
            }
            PolicyName::Static => (Box::new(Static { batch_size: size }), "static".into()),
            PolicyName::Dynamic => {
                let window = window(DYNAMIC_WINDOW_MS);
                let policy = Dynamic {
                    max_batch_size: size,
                    window,
                    preferred_sizes: self.preferred_batch_size.clone(),
                };
                (Box::new(policy), named("dynamic", window))
            }
            PolicyName::Continuous => {
                let policy = Continuous {
                    max_num_seqs: size,
                    max_num_batched_tokens: budget.max(size),
                    prefill_window: window(0.0),
                };
                policy
                    .check(page_size)
                    .map_err(|e| Error::Usage(e.to_string()))?;
                (Box::new(policy), named("continuous", policy.prefill_window))
            }
        };
        Ok(Setting {
            policy,
            padding: Padding::Ragged,
            max_num_batched_tokens: budget.max(size),
            words: format!("{name}, at most {size} rows"),
            engine: None,
        })
    }

    /// The setting that the sweep's own report picks.
    fn measured(&self, folder: &Path) -> Result<Setting, Error> {
        let saved = SavedSweep::open(folder)?;
        let [chat, api, documents] = Scenario::presets();
        let scenario = match self.scenario {
            ScenarioName::Chat => chat,
            ScenarioName::Api => api,
            ScenarioName::Documents => documents,
        };
        let advice = advise(&saved.cells, scenario);
        let Some(pick) = &advice.pick else {
            return Err(Error::Results(format!(
                "{} has no setting for {}: {}; measure others, or give --policy",
                folder.display(),
                advice.scenario.name,
                advice.reasons().join("; ")
            )));
        };
        let cell: &CellSpec = &pick.chosen.cell.result.cell;
        let damaged = |e: &dyn std::fmt::Display| {
            Error::Results(format!(
                "{}: report.json is damaged ({e})",
                folder.display()
            ))
        };
        let options: MeasureOptions =
            serde_json::from_value(saved.header.config["measure"].clone())
                .map_err(|e| damaged(&e))?;
        let policy = cell.policy(&options)?;
        let words = ["batchlab"].into_iter().map(String::from);
        let engine =
            MeasuredEngine::try_parse_from(words.chain(saved.header.engine_options.clone()))
                .map_err(|e| damaged(&e))?;
        let budget = match policy.batching() {
            Batching::RequestLevel => WHOLE_PROMPT_TOKENS,
            Batching::IterationLevel { .. } => options.max_num_batched_tokens,
        };
        Ok(Setting {
            policy,
            padding: cell.padding,
            max_num_batched_tokens: budget.max(cell.batch_size),
            words: format!("{}, at most {} rows", cell.setting(), cell.batch_size),
            engine: Some(engine.engine),
        })
    }
}

/// The options that a sweep opened its engine with.
#[derive(Debug, Parser)]
struct MeasuredEngine {
    #[command(flatten)]
    engine: EngineArgs,
}

fn named(policy: &str, window: Duration) -> String {
    match window.is_zero() {
        true => policy.to_owned(),
        false => format!("{policy} {} ms", window.as_secs_f64() * 1e3),
    }
}

fn window(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(ms) if (0.0..=3_600_000.0).contains(&ms) => Ok(Duration::from_secs_f64(ms / 1e3)),
        _ => Err("give milliseconds from 0 to 3600000".into()),
    }
}
