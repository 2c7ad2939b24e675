//! `batchlab generate`: prompts in, text out, streamed as it is generated.

use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::PathBuf;

use anyhow::Context;
use batchlab::Error;
use batchlab::batching::{Continuous, Policy, Static};
use batchlab::clock::{Clock, WallClock};
use batchlab::engine::{Engine, EngineConfig, Records};
use batchlab::metrics::Summary;
use batchlab::model::{Message, Model};
use batchlab::request::{FinishReason, Finished, RequestId, Token};
use batchlab::runner::{Limits, Runner};
use batchlab::sampling::Sampling;
use batchlab::scheduler::Padding;
use batchlab::text::{OutputText, StopStrings};
use batchlab::workload::{Arrivals, Ask, Load, RequestOptions, drive};

use super::at_least_one;
use super::batching_args::BatchingArgs;
use super::engine_args::EngineArgs;
use super::profile::{self, ProfileArgs};
use super::prompt_args::read_prompt_file;
use super::sampling_args::SamplingArgs;

/// Generate text and stream it.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("text").args(["prompt", "prompt_file"]).required(true).multiple(true))]
pub struct GenerateArgs {
    /// The text to continue, or with --chat to answer; given several times, the prompts run together
    #[arg(long, value_name = "TEXT")]
    prompt: Vec<String>,
    /// A UTF-8 file whose whole text is one prompt more
    #[arg(long, value_name = "FILE")]
    prompt_file: Option<PathBuf>,
    /// Make each prompt a user message of its own conversation, written by the model's chat template
    #[arg(long)]
    chat: bool,
    /// The system message before each prompt
    #[arg(long, value_name = "TEXT", requires = "chat")]
    system: Option<String>,
    /// Output tokens at most, for each prompt
    #[arg(long, default_value_t = 64, value_name = "N", value_parser = at_least_one)]
    max_new_tokens: usize,
    /// End an output before this text, which is not shown; may be given several times
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    stop: Vec<String>,
    /// Go on after the model's end-of-sequence tokens
    #[arg(long)]
    ignore_eos: bool,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    batching: BatchingArgs,
    #[command(flatten)]
    profile: ProfileArgs,
    #[command(flatten)]
    engine: EngineArgs,
}

pub fn run(args: &GenerateArgs) -> anyhow::Result<()> {
    let model = args.engine.model()?;
    let prompts = args.prompts(&model)?;
    let stops =
        StopStrings::new(args.stop.clone()).map_err(|e| Error::Usage(format!("--stop: {e}")))?;
    let page_size = args.engine.model.kv_block_size;
    let continuous = args.batching.continuous(prompts.len(), page_size)?;
    if args.profile.profile && continuous.is_some() {
        return Err(Error::Usage(
            "--profile takes prefill and decode apart, which continuous batching mixes in a step; leave \
             out --policy continuous"
                .into(),
        )
        .into());
    }
    let limits = limits(&model, &prompts, args.max_new_tokens, continuous)?;
    let mut runner = args.engine.runner(&model, limits)?;
    let job = Job {
        args,
        model: &model,
        prompts: &prompts,
        continuous,
        stops: &stops,
        clock: &WallClock::start(),
    };
    let generated = match (args.profile.json, prompts.len()) {
        (true, _) => job.silent(runner.as_mut())?,
        (false, 1) => job.stream(runner.as_mut())?,
        (false, _) => {
            let generated = job.silent(runner.as_mut())?;
            super::print(&job.all(&generated)?)?;
            generated
        }
    };
    if args.profile.profile {
        return profile::run(&args.profile, &job, runner.as_mut(), &generated);
    }
    let Generated { finished, records } = generated;
    let summary = Summary::of(&finished, &records.batches, &records.steps, &[]);
    eprintln!("{}; {}", timing(&summary), finish_reasons(&finished));
    Ok(())
}

/// What to generate, and how the prompts run together.
pub struct Job<'a> {
    args: &'a GenerateArgs,
    pub model: &'a Model,
    prompts: &'a [Vec<u32>],
    /// None: all prompts as one batch.
    continuous: Option<Continuous>,
    stops: &'a StopStrings,
    clock: &'a WallClock,
}

/// One run of a job.
pub struct Generated {
    /// In the order of the prompts.
    pub finished: Vec<Finished>,
    pub records: Records,
}

impl Job<'_> {
    /// Runs it and shows nothing.
    pub fn silent(&self, runner: &mut dyn Runner) -> anyhow::Result<Generated> {
        if self.stops.is_empty() {
            return self.generate(runner, |_| Ok(Vec::new()));
        }
        let mut texts = self.output_texts();
        self.generate(runner, |tokens| write(&mut texts, tokens, &mut io::sink()))
    }

    /// Runs it and prints its text as it comes.
    fn stream(&self, runner: &mut dyn Runner) -> anyhow::Result<Generated> {
        let mut texts = self.output_texts();
        let generated = self.generate(runner, |tokens| {
            write(&mut texts, tokens, &mut io::stdout().lock())
        })?;
        for text in texts {
            super::print(&text.finish().map_err(Error::from)?)?;
        }
        Ok(generated)
    }

    /// Runs it. `listen` hears of every step's tokens and names the requests that a stop string ends.
    fn generate(
        &self,
        runner: &mut dyn Runner,
        mut listen: impl FnMut(&[Token]) -> anyhow::Result<Vec<RequestId>>,
    ) -> anyhow::Result<Generated> {
        let config = EngineConfig {
            policy: self.policy(),
            padding: Padding::Ragged,
            max_queue_size: self.prompts.len(),
            max_positions: self.model.spec.max_positions,
        };
        let mut engine = Engine::new(runner, self.clock, config);
        let mut arrivals = self.arrivals()?;
        let mut heard = Ok(());
        let ended = drive(&mut engine, &mut arrivals, |progress| {
            match listen(&progress.tokens) {
                Ok(stopped) => ControlFlow::Continue(stopped),
                Err(error) => {
                    heard = Err(error);
                    ControlFlow::Break(())
                }
            }
        });
        heard?;
        let mut finished = ended?;
        finished.sort_by_key(|r| r.id);
        Ok(Generated {
            finished,
            records: engine.records().clone(),
        })
    }

    fn policy(&self) -> Box<dyn Policy> {
        match self.continuous {
            Some(policy) => Box::new(policy),
            None => Box::new(Static {
                batch_size: self.prompts.len(),
            }),
        }
    }

    /// One for each prompt.
    fn output_texts(&self) -> Vec<OutputText<'_>> {
        let new = |_| OutputText::new(&self.model.tokenizer, self.stops);
        self.prompts.iter().map(new).collect()
    }

    /// The text of every prompt's output.
    pub fn texts(&self, generated: &Generated) -> Result<Vec<String>, Error> {
        let finished = generated.finished.iter();
        finished
            .map(|r| {
                let text = self.model.tokenizer.decode(&r.output)?;
                Ok(self.stops.cut(&text).to_owned())
            })
            .collect()
    }

    fn all(&self, generated: &Generated) -> Result<String, Error> {
        let texts = self.texts(generated)?;
        let named = texts.iter().enumerate().map(|(i, text)| {
            let prompt = self.args.prompt.get(i).map_or("(file)", String::as_str);
            format!("=== {prompt}\n{text}\n")
        });
        Ok(named.collect())
    }

    fn arrivals(&self) -> Result<Arrivals, Error> {
        let asks = self.prompts.iter().map(|prompt| Ask {
            prompt: prompt.clone(),
            output_len: self.args.max_new_tokens,
        });
        let options = RequestOptions {
            stop_tokens: match self.args.ignore_eos {
                true => Vec::new(),
                false => self.model.spec.eos_tokens.clone(),
            },
            sampling: Sampling::from(&self.args.sampling),
            timeout: None,
        };
        let now = self.clock.now();
        Arrivals::new(asks.collect(), Load::Offline, options, now, 0).map_err(Error::Usage)
    }
}

impl GenerateArgs {
    /// Token ids of every prompt.
    fn prompts(&self, model: &Model) -> Result<Vec<Vec<u32>>, Error> {
        let template = self.chat.then(|| model.chat_template()).transpose()?;
        let encode = |text: String| match &template {
            None => model.tokenizer.encode(&text),
            Some(template) => model
                .tokenizer
                .encode_rendered(&template.render(&self.conversation(&text))?),
        };
        let from_file = self.prompt_file.as_deref().map(read_prompt_file);
        let texts = self.prompt.iter().cloned().map(Ok).chain(from_file);
        texts
            .map(|text| match encode(text?)? {
                ids if ids.is_empty() => Err(Error::Usage(
                    "the prompt is empty; give at least one character".into(),
                )),
                ids => Ok(ids),
            })
            .collect()
    }

    fn conversation(&self, prompt: &str) -> Vec<Message> {
        let system = self.system.as_deref().map(Message::system);
        system.into_iter().chain([Message::user(prompt)]).collect()
    }
}

/// Just what these prompts need. Refuses what the model's context cannot hold.
fn limits(
    model: &Model,
    prompts: &[Vec<u32>],
    max_new_tokens: usize,
    continuous: Option<Continuous>,
) -> Result<Limits, Error> {
    let longest = prompts.iter().map(Vec::len).max().unwrap_or(0);
    let max_kv_len = longest.saturating_add(max_new_tokens);
    let context = model.spec.max_positions;
    if max_kv_len > context {
        return Err(Error::Usage(format!(
            "the longest prompt has {longest} tokens, with --max-new-tokens {max_new_tokens} more \
             than the context of {} ({context} tokens); shorten the prompt or --max-new-tokens",
            model.spec.name
        )));
    }
    let (max_rows, max_tokens) = match continuous {
        None => (prompts.len(), prompts.iter().map(Vec::len).sum()),
        Some(policy) => {
            let rows = policy.max_num_seqs;
            // A step never has more than everything that is known of its rows.
            (rows, policy.max_num_batched_tokens.min(rows * max_kv_len))
        }
    };
    Ok(Limits {
        max_rows,
        max_tokens,
        max_kv_len,
    })
}

/// Writes what a step's tokens add to the texts; returns the requests whose text a stop string ends.
fn write(
    texts: &mut [OutputText<'_>],
    tokens: &[Token],
    out: &mut impl Write,
) -> anyhow::Result<Vec<RequestId>> {
    let mut stopped = Vec::new();
    for token in tokens {
        let text = &mut texts[token.request as usize];
        write!(out, "{}", text.push(token.id).map_err(Error::from)?).context("stdout")?;
        if text.is_stopped() {
            stopped.push(token.request);
        }
    }
    out.flush().context("stdout")?;
    Ok(stopped)
}

fn timing(s: &Summary) -> String {
    let mean = |m: &Option<batchlab::metrics::Statistics>| {
        m.as_ref()
            .map_or("–".to_string(), |s| format!("{:.2}", s.mean))
    };
    format!(
        "{} output tokens, {:.0} tok/s; prefill {} ms, decode {} ms/step",
        s.output_tokens,
        s.output_throughput,
        mean(&s.prefill_ms),
        mean(&s.decode_step_ms),
    )
}

/// A stop is an end-of-sequence token or a stop string, a length --max-new-tokens.
fn finish_reasons(finished: &[Finished]) -> String {
    let stopped = finished.iter().filter(|r| r.reason == FinishReason::Stop);
    let stopped = stopped.count();
    let length = finished.len() - stopped;
    format!("finish reasons: {stopped} stop, {length} length")
}
