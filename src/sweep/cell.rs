//! Measuring one cell: warm-up, then the load, as often as asked.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::CellSpec;
use crate::Error;
use crate::clock::Clock;
use crate::engine::{Engine, EngineConfig};
use crate::metrics::{Interval, Summary, confidence_interval};
use crate::runner::Runner;
use crate::sampling::Sampling;
use crate::scheduler::Padding;
use crate::telemetry::{GpuUsage, Sampler};
use crate::workload::{Arrivals, Ask, LengthMix, Load, RequestOptions, drive, from_lines, random};

const CONFIDENCE: f64 = 0.95;
/// The observer hears of a running cell this often.
const NEWS: Duration = Duration::from_millis(100);
/// More requests would not fit in memory.
const MOST_REQUESTS: usize = 10_000_000;
/// A run that ended before `min_seconds` is repeated with more requests.
const ATTEMPTS: usize = 3;

/// How every cell is measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MeasureOptions {
    pub padding: Padding,
    /// Requests of a run, at least.
    pub num_prompts: usize,
    /// Requests before the first run; none: one full batch.
    pub num_warmups: Option<usize>,
    pub num_runs: usize,
    /// Length of a run, at least; NVML says little about less than 5 s.
    pub min_seconds: f64,
    pub seed: u64,
    /// Generate the whole output length, whatever the model says.
    pub ignore_eos: bool,
    /// Percentiles besides the usual ones.
    pub metric_percentiles: Vec<f64>,
    pub timeout_ms: Option<f64>,
    pub max_queue_size: usize,
}

impl MeasureOptions {
    /// Refuses what cannot be measured, naming the option.
    pub fn validate(&self) -> Result<(), Error> {
        let usage = |message: String| Err(Error::Usage(message));
        for (option, count, most) in [
            ("--num-prompts", self.num_prompts, MOST_REQUESTS),
            ("--num-runs", self.num_runs, 1000),
            ("--max-queue-size", self.max_queue_size, usize::MAX),
        ] {
            if !(1..=most).contains(&count) {
                return usage(format!("{option} is {count}; use 1 to {most}"));
            }
        }
        if let Some(count) = self.num_warmups.filter(|&count| count > MOST_REQUESTS) {
            return usage(format!(
                "--num-warmups is {count}; use 0 to {MOST_REQUESTS}"
            ));
        }
        if !(0.0..=86_400.0).contains(&self.min_seconds) {
            let s = self.min_seconds;
            return usage(format!("--min-seconds is {s}; use 0 to 86400"));
        }
        if let Some(p) = self
            .metric_percentiles
            .iter()
            .find(|p| !(0.0..=100.0).contains(*p))
        {
            return usage(format!(
                "--metric-percentiles: {p} is not one; use 0 to 100"
            ));
        }
        match self.timeout_ms {
            Some(ms) if !(ms > 0.0 && ms.is_finite()) => {
                usage(format!("--timeout-ms is {ms}; give a number above 0"))
            }
            _ => Ok(()),
        }
    }
}

/// The prompts of one workload.
#[derive(Debug, Clone, PartialEq)]
pub enum Prompts {
    /// Taken in turn.
    Lines(Vec<Vec<u32>>),
    /// Random token ids.
    Random(LengthMix),
}

/// Prompts under the label that the grid knows them by.
#[derive(Debug, Clone, PartialEq)]
pub struct Workload {
    pub label: String,
    pub prompts: Prompts,
}

/// One repeat of a cell.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunResult {
    pub summary: Summary,
    /// None without a GPU.
    pub gpu: Option<GpuUsage>,
    pub j_per_output_token: Option<f64>,
}

/// What a cell gave.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CellResult {
    pub cell: CellSpec,
    /// Of an open load, in req/s.
    pub request_rate: Option<f64>,
    pub runs: Vec<RunResult>,
    /// Student-t intervals at 95 % over the runs, where there are at least two.
    pub confidence: BTreeMap<String, Interval>,
}

impl CellResult {
    /// The mean over the runs; none when a run does not know.
    pub fn mean(&self, of: impl Fn(&RunResult) -> Option<f64>) -> Option<f64> {
        let values: Option<Vec<f64>> = self.runs.iter().map(of).collect();
        values
            .filter(|v| !v.is_empty())
            .map(|v| v.iter().sum::<f64>() / v.len() as f64)
    }
}

/// Everything that a cell is measured with.
pub struct Measure<'a> {
    pub runner: &'a mut dyn Runner,
    pub clock: &'a dyn Clock,
    pub gpu: Option<&'a Sampler>,
    pub options: &'a MeasureOptions,
    pub preferred_batch_sizes: &'a [usize],
    pub workloads: &'a [Workload],
    pub output_lens: &'a [LengthMix],
    /// Of the model: its longest context, its vocabulary and what ends a sequence.
    pub max_positions: usize,
    pub vocab: usize,
    pub eos_tokens: &'a [u32],
}

/// One load, ready to run.
struct Run<'a> {
    cell: &'a CellSpec,
    load: Load,
    asks: Vec<Ask>,
    seed: u64,
}

type News<'a> = &'a mut dyn FnMut(f64, f64);

impl Measure<'_> {
    /// `rate` is that of an open load. `news` hears the share done and the tokens per second.
    pub fn cell(
        &mut self,
        cell: &CellSpec,
        rate: Option<f64>,
        news: News<'_>,
    ) -> Result<CellResult, Error> {
        let warm = self.warm_up(cell)?;
        // An open load sends the same requests whatever the policy does with them.
        let mut requests = self.requests_for(rate.unwrap_or(warm))?;
        let mut runs = Vec::new();
        for index in 0..self.options.num_runs {
            let (done, all) = (index as f64, self.options.num_runs as f64);
            let seed = self.options.seed.wrapping_add(index as u64);
            let mut run_news =
                |share: f64, tokens: f64| news((done + share.min(1.0)) / all, tokens);
            let mut run = None;
            for _ in 0..ATTEMPTS {
                let result = self.run(
                    Run {
                        cell,
                        load: cell.load.resolve(rate),
                        asks: self.asks(cell, requests, seed)?,
                        seed,
                    },
                    &mut run_news,
                )?;
                let seconds = result.summary.duration_s;
                run = Some(result);
                if seconds >= self.options.min_seconds {
                    break;
                }
                requests = self.requests_for(requests as f64 / seconds.max(1e-3))?;
            }
            runs.extend(run);
        }
        Ok(CellResult {
            cell: cell.clone(),
            request_rate: rate,
            confidence: confidence(&runs),
            runs,
        })
    }

    /// Enough requests at `rate` for the length of a run, with some to spare.
    fn requests_for(&self, rate: f64) -> Result<usize, Error> {
        let seconds = self.options.min_seconds;
        let enough = (1.15 * seconds * rate).ceil() as usize;
        if enough > MOST_REQUESTS {
            return Err(Error::Usage(format!(
                "{seconds} s at {rate:.0} req/s take {enough} requests, the most is {MOST_REQUESTS}; \
                 lower --min-seconds or --request-rate"
            )));
        }
        Ok(enough.max(self.options.num_prompts))
    }

    /// Full batches, as they will come. Returns the requests per second that they reached.
    fn warm_up(&mut self, cell: &CellSpec) -> Result<f64, Error> {
        let requests = self.options.num_warmups.unwrap_or(cell.batch_size);
        if requests == 0 {
            return Ok(0.0);
        }
        let seed = self.options.seed;
        let run = Run {
            cell,
            load: Load::Closed {
                concurrency: cell.batch_size,
            },
            asks: self.asks(cell, requests, seed)?,
            seed,
        };
        let result = self.run(run, &mut |_, _| {})?;
        Ok(result.summary.request_throughput)
    }

    fn asks(&self, cell: &CellSpec, count: usize, seed: u64) -> Result<Vec<Ask>, Error> {
        let unknown = || Error::Usage(format!("the grid names an unknown workload: {cell}"));
        let mut workloads = self.workloads.iter();
        let workload = workloads
            .find(|w| w.label == cell.prompts)
            .ok_or_else(unknown)?;
        let mut outputs = self.output_lens.iter();
        let output = outputs
            .find(|o| o.to_string() == cell.output_len)
            .ok_or_else(unknown)?;
        Ok(match &workload.prompts {
            Prompts::Lines(lines) => from_lines(lines, output, count, seed),
            Prompts::Random(lengths) => random(lengths, output, self.vocab, count, seed),
        })
    }

    fn run(&mut self, run: Run<'_>, news: News<'_>) -> Result<RunResult, Error> {
        let config = EngineConfig {
            policy: run.cell.policy(self.preferred_batch_sizes),
            padding: self.options.padding,
            max_queue_size: self.options.max_queue_size,
            max_positions: self.max_positions,
        };
        let timeout = self.options.timeout_ms.map(|ms| ms / 1e3);
        let options = RequestOptions {
            stop_tokens: match self.options.ignore_eos {
                true => Vec::new(),
                false => self.eos_tokens.to_vec(),
            },
            sampling: Sampling::GREEDY,
            timeout: timeout.and_then(|s| Duration::try_from_secs_f64(s).ok()),
        };
        let clock = self.clock;
        let mut engine = Engine::new(self.runner, clock, config);
        let requests = run.asks.len();
        let begin = clock.now();
        let mut arrivals =
            Arrivals::new(run.asks, run.load, options, begin, run.seed).map_err(Error::Usage)?;
        let (mut ended, mut tokens, mut next_news) = (0, 0, begin + NEWS);
        let finished = drive(&mut engine, &mut arrivals, |progress| {
            ended += progress.finished.len();
            tokens += progress.tokens.len();
            let now = clock.now();
            if now >= next_news {
                next_news = now + NEWS;
                let seconds = (now - begin).as_secs_f64();
                news(ended as f64 / requests as f64, tokens as f64 / seconds);
            }
            ControlFlow::Continue(())
        })?;
        let records = engine.records();
        let summary = Summary::of(
            &finished,
            &records.batches,
            &records.steps,
            &self.options.metric_percentiles,
        );
        let gpu = self.gpu.map(|sampler| sampler.window(begin, clock.now()));
        Ok(RunResult {
            j_per_output_token: gpu
                .as_ref()
                .and_then(|g| g.energy_j)
                .filter(|_| summary.output_tokens > 0)
                .map(|joules| joules / summary.output_tokens as f64),
            summary,
            gpu,
        })
    }
}

/// A number of one run.
pub type RunMetric = fn(&RunResult) -> Option<f64>;

/// What gets a confidence interval over the runs.
pub const WITH_CONFIDENCE: [(&str, RunMetric); 7] = [
    ("e2el_ms_mean", |r| {
        r.summary.e2el_ms.as_ref().map(|s| s.mean)
    }),
    ("e2el_ms_p95", |r| r.summary.e2el_ms.as_ref().map(|s| s.p95)),
    ("ttft_ms_mean", |r| {
        r.summary.ttft_ms.as_ref().map(|s| s.mean)
    }),
    ("tpot_ms_mean", |r| {
        r.summary.tpot_ms.as_ref().map(|s| s.mean)
    }),
    ("output_throughput", |r| Some(r.summary.output_throughput)),
    ("request_throughput", |r| Some(r.summary.request_throughput)),
    ("j_per_output_token", |r| r.j_per_output_token),
];

fn confidence(runs: &[RunResult]) -> BTreeMap<String, Interval> {
    WITH_CONFIDENCE
        .iter()
        .filter_map(|(name, of)| {
            let values: Option<Vec<f64>> = runs.iter().map(of).collect();
            Some(((*name).into(), confidence_interval(&values?, CONFIDENCE)?))
        })
        .collect()
}
