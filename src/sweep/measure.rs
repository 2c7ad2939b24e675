//! Measuring one cell: warm-up, then the load, as often as asked.

use std::time::Duration;

use super::options::MOST_REQUESTS;
use super::result::confidence;
use super::{CellResult, CellSpec, MeasureOptions, RunResult, Service};
use crate::Error;
use crate::clock::Clock;
use crate::metrics::{RequestTrace, Summary, traces};
use crate::sampling::Sampling;
use crate::telemetry::Sampler;
use crate::workload::{Arrivals, Ask, LengthMix, Load, RequestOptions, fresh, from_lines, random};

/// The observer hears of a running cell this often.
const NEWS: Duration = Duration::from_millis(100);
/// A run that ended before `min_seconds` is repeated with more requests.
const ATTEMPTS: usize = 3;

/// The prompts of one workload.
#[derive(Debug, Clone, PartialEq)]
pub enum Prompts {
    /// Taken in turn.
    Lines(Vec<Vec<u32>>),
    /// Random token ids.
    Random(LengthMix),
    /// Random token ids that are others in every run: a server may keep the KV cache of prompts it has seen.
    Fresh(LengthMix),
}

/// Prompts under the label that the grid knows them by.
#[derive(Debug, Clone, PartialEq)]
pub struct Workload {
    pub label: String,
    pub prompts: Prompts,
}

/// Everything that a cell is measured with.
pub struct Measure<'a> {
    pub service: &'a mut dyn Service,
    pub clock: &'a dyn Clock,
    pub gpu: Option<&'a Sampler>,
    pub options: &'a MeasureOptions,
    pub workloads: &'a [Workload],
    pub output_lens: &'a [LengthMix],
    /// Of the model: its vocabulary and what ends a sequence.
    pub vocab: usize,
    pub eos_tokens: &'a [u32],
}

/// What earlier cells decide about the load of one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sent {
    /// Of an open load, in req/s.
    pub rate: Option<f64>,
    /// Of a run; none: enough for its length.
    pub requests: Option<usize>,
}

/// One load, ready to run.
struct Run<'a> {
    index: usize,
    cell: &'a CellSpec,
    load: Load,
    asks: Vec<Ask>,
    seed: u64,
}

type News<'a> = &'a mut dyn FnMut(f64, f64);

/// A cell's result and every request of its runs.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    pub result: CellResult,
    pub requests: Vec<RequestTrace>,
}

impl Measure<'_> {
    /// Measures cell number `index`; `news` hears the share done and the tokens per second.
    pub fn cell(
        &mut self,
        index: usize,
        cell: &CellSpec,
        sent: Sent,
        news: News<'_>,
    ) -> Result<Measured, Error> {
        let rate = sent.rate;
        let warm = self.warm_up(cell)?;
        // An open load sends requests of the same lengths at the same times, whatever the policy does with them.
        let mut requests = match sent.requests {
            Some(requests) => requests,
            None => self.requests_for(rate.unwrap_or(warm))?,
        };
        let (mut runs, mut requests_of_runs) = (Vec::new(), Vec::new());
        for run_index in 0..self.options.num_runs {
            let (done, all) = (run_index as f64, self.options.num_runs as f64);
            let seed = self.options.seed.wrapping_add(run_index as u64);
            let mut run_news =
                |share: f64, tokens: f64| news((done + share.min(1.0)) / all, tokens);
            let mut run = None;
            for _ in 0..ATTEMPTS {
                let (result, traces) = self.run(
                    Run {
                        index: run_index,
                        cell,
                        load: cell.load.resolve(rate),
                        asks: self.asks(cell, requests, seed)?,
                        seed,
                    },
                    &mut run_news,
                )?;
                let seconds = result.summary.duration_s;
                run = Some((result, traces));
                if seconds >= self.options.min_seconds || sent.requests.is_some() {
                    break;
                }
                requests = self.requests_for(requests as f64 / seconds.max(1e-3))?;
            }
            if let Some((result, traces)) = run {
                runs.push(result);
                requests_of_runs.extend(traces);
            }
        }
        Ok(Measured {
            result: CellResult {
                index,
                cell: cell.clone(),
                request_rate: rate,
                confidence: confidence(&runs),
                runs,
            },
            requests: requests_of_runs,
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

    /// Full batches, as they will come; of a server whose rows nobody knows, one request. Returns the
    /// requests per second that they reached.
    fn warm_up(&mut self, cell: &CellSpec) -> Result<f64, Error> {
        let concurrency = cell.batch_size.max(1);
        let requests = self.options.num_warmups.unwrap_or(concurrency);
        if requests == 0 {
            return Ok(0.0);
        }
        let seed = self.options.seed;
        let run = Run {
            index: 0,
            cell,
            load: Load::Closed { concurrency },
            asks: self.asks(cell, requests, seed)?,
            seed,
        };
        let (result, _) = self.run(run, &mut |_, _| {})?;
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
            Prompts::Fresh(lengths) => {
                fresh(random(lengths, output, self.vocab, count, seed), self.vocab)
            }
        })
    }

    fn run(
        &mut self,
        run: Run<'_>,
        news: News<'_>,
    ) -> Result<(RunResult, Vec<RequestTrace>), Error> {
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
        let requests = run.asks.len();
        let begin = clock.now();
        let arrivals =
            Arrivals::new(run.asks, run.load, options, begin, run.seed).map_err(Error::Usage)?;
        let (mut ended, mut tokens, mut next_news) = (0, 0, begin + NEWS);
        let ran = self
            .service
            .run(run.cell, arrivals, &mut |more_ended, more_tokens| {
                ended += more_ended;
                tokens += more_tokens;
                let now = clock.now();
                if now >= next_news {
                    next_news = now + NEWS;
                    let seconds = (now - begin).as_secs_f64();
                    news(ended as f64 / requests as f64, tokens as f64 / seconds);
                }
            })?;
        let summary = Summary::of(
            &ran.finished,
            &ran.records.batches,
            &ran.records.steps,
            &self.options.metric_percentiles,
        );
        let gpu = self.gpu.map(|sampler| sampler.window(begin, clock.now()));
        let requests = traces(run.index, &ran.finished, &ran.records.batches);
        let result = RunResult {
            j_per_output_token: gpu
                .as_ref()
                .and_then(|g| g.energy_j)
                .filter(|_| summary.output_tokens > 0)
                .map(|joules| joules / summary.output_tokens as f64),
            summary,
            gpu,
            client: ran.client,
        };
        Ok((result, requests))
    }
}
