//! `batchlab generate`: prompts in, text out, streamed as it is generated.

use std::io::Write;
use std::ops::ControlFlow;
use std::path::PathBuf;

use anyhow::Context;
use batchlab::Error;
use batchlab::batching::Static;
use batchlab::clock::{Clock, WallClock};
use batchlab::engine::{Engine, EngineConfig, Records};
use batchlab::metrics::Summary;
use batchlab::model::{Model, TextStream};
use batchlab::request::Finished;
use batchlab::runner::{Limits, Runner};
use batchlab::sampling::Sampling;
use batchlab::scheduler::Padding;
use batchlab::workload::{Arrivals, Ask, Load, RequestOptions, drive};

use super::at_least_one;
use super::engine_args::EngineArgs;
use super::profile::{self, ProfileArgs};
use super::prompt_args::read_prompt_file;

/// Generate text and stream it.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("text").args(["prompt", "prompt_file"]).required(true).multiple(true))]
pub struct GenerateArgs {
    /// The text to continue; given several times, all prompts run as one batch
    #[arg(long, value_name = "TEXT")]
    prompt: Vec<String>,
    /// A UTF-8 file whose whole text is one prompt more
    #[arg(long, value_name = "FILE")]
    prompt_file: Option<PathBuf>,
    /// Output tokens at most, for each prompt
    #[arg(long, default_value_t = 64, value_name = "N", value_parser = at_least_one)]
    max_new_tokens: usize,
    /// Go on after the model's end-of-text token
    #[arg(long)]
    ignore_eos: bool,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    profile: ProfileArgs,
    #[command(flatten)]
    engine: EngineArgs,
}

#[derive(Debug, clap::Args)]
struct SamplingArgs {
    /// 0 takes the most probable token; above, logits are divided by it
    #[arg(long, default_value_t = 0.0, value_name = "T", value_parser = temperature)]
    temperature: f32,
    /// Draw from the K most probable tokens only; 0 = all
    #[arg(long, default_value_t = 0, value_name = "K")]
    top_k: u32,
    /// Draw from the smallest set of tokens that has this probability
    #[arg(long, default_value_t = 1.0, value_name = "P", value_parser = top_p)]
    top_p: f32,
    /// Seed of the draws
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,
}

impl From<&SamplingArgs> for Sampling {
    fn from(args: &SamplingArgs) -> Self {
        Self {
            temperature: args.temperature,
            top_k: args.top_k,
            top_p: args.top_p,
            repetition_penalty: 1.0,
            seed: args.seed,
        }
    }
}

fn temperature(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(t) if t.is_finite() && t >= 0.0 => Ok(t),
        _ => Err("give a number of at least 0".into()),
    }
}

fn top_p(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(p) if p > 0.0 && p <= 1.0 => Ok(p),
        _ => Err("give a number above 0 and up to 1".into()),
    }
}

pub fn run(args: &GenerateArgs) -> anyhow::Result<()> {
    let model = args.engine.model()?;
    let prompts = args.prompts(&model)?;
    let limits = limits(&model, &prompts, args.max_new_tokens)?;
    let mut runner = args.engine.runner(&model, limits)?;
    let job = Job {
        args,
        model: &model,
        prompts: &prompts,
        clock: &WallClock::start(),
    };
    let generated = match (args.profile.json, prompts.len()) {
        (true, _) => job.generate(runner.as_mut(), |_| Ok(()))?,
        (false, 1) => job.stream(runner.as_mut())?,
        (false, _) => {
            let generated = job.generate(runner.as_mut(), |_| Ok(()))?;
            super::print(&job.all(&generated)?)?;
            generated
        }
    };
    if args.profile.profile {
        return profile::run(&args.profile, &job, runner.as_mut(), &generated);
    }
    let Generated { finished, records } = generated;
    let summary = Summary::of(&finished, &records.batches, &records.steps, &[]);
    eprintln!("{}", timing(&summary));
    Ok(())
}

/// What to generate: all prompts as one batch.
pub struct Job<'a> {
    args: &'a GenerateArgs,
    pub model: &'a Model,
    prompts: &'a [Vec<u32>],
    clock: &'a WallClock,
}

/// One run of a job.
pub struct Generated {
    /// In the order of the prompts.
    pub finished: Vec<Finished>,
    pub records: Records,
}

impl Job<'_> {
    /// Runs it; `delivered` hears of every step's tokens.
    pub fn generate(
        &self,
        runner: &mut dyn Runner,
        mut delivered: impl FnMut(&[(u64, u32)]) -> anyhow::Result<()>,
    ) -> anyhow::Result<Generated> {
        let config = EngineConfig {
            policy: Box::new(Static {
                batch_size: self.prompts.len(),
            }),
            padding: Padding::Ragged,
            max_queue_size: self.prompts.len(),
            max_positions: self.model.spec.max_positions,
        };
        let mut engine = Engine::new(runner, self.clock, config);
        let mut arrivals = self.arrivals()?;
        let mut heard = Ok(());
        let ended = drive(&mut engine, &mut arrivals, |progress| {
            heard = delivered(&progress.tokens);
            match heard {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
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

    /// Runs it and prints its one text as it comes.
    fn stream(&self, runner: &mut dyn Runner) -> anyhow::Result<Generated> {
        let mut stream = self.model.tokenizer.stream();
        let generated = self.generate(runner, |tokens| print(&mut stream, tokens))?;
        super::print(&stream.finish().map_err(Error::from)?)?;
        Ok(generated)
    }

    /// The text of every prompt's output.
    pub fn texts(&self, generated: &Generated) -> Result<Vec<String>, Error> {
        let finished = generated.finished.iter();
        finished
            .map(|r| Ok(self.model.tokenizer.decode(&r.output)?))
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
    fn prompts(&self, model: &Model) -> Result<Vec<Vec<u32>>, Error> {
        let from_file = self.prompt_file.as_deref().map(read_prompt_file);
        let texts = self.prompt.iter().cloned().map(Ok).chain(from_file);
        texts
            .map(|text| match model.tokenizer.encode(&text?)? {
                ids if ids.is_empty() => Err(Error::Usage(
                    "the prompt is empty; give at least one character".into(),
                )),
                ids => Ok(ids),
            })
            .collect()
    }
}

/// Just what these prompts need. Refuses what the model's context cannot hold.
fn limits(model: &Model, prompts: &[Vec<u32>], max_new_tokens: usize) -> Result<Limits, Error> {
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
    Ok(Limits {
        max_rows: prompts.len(),
        max_tokens: prompts.iter().map(Vec::len).sum(),
        max_kv_len,
    })
}

fn print(stream: &mut TextStream<'_>, tokens: &[(u64, u32)]) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    for &(_, token) in tokens {
        write!(out, "{}", stream.push(token).map_err(Error::from)?).context("stdout")?;
    }
    out.flush().context("stdout")
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
