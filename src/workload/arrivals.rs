//! When requests are sent.

use std::collections::VecDeque;
use std::time::Duration;

use rand::SeedableRng;
use rand_distr::{Distribution, Gamma};
use rand_pcg::Pcg64;

use super::Ask;
use crate::request::Request;
use crate::sampling::Sampling;

/// The shape of a load.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Load {
    /// All at once.
    Offline,
    /// `concurrency` clients; each sends its next request when its last one has ended.
    Closed { concurrency: usize },
    /// `rate` requests per second; gaps are gamma distributed with shape `burstiness`
    /// (1 = exponential gaps, a Poisson process; below 1 burstier), as in vLLM's benchmark.
    Open { rate: f64, burstiness: f64 },
}

/// How every request of a load is generated.
#[derive(Debug, Clone, PartialEq)]
pub struct RequestOptions {
    pub stop_tokens: Vec<u32>,
    pub sampling: Sampling,
    pub timeout: Option<Duration>,
}

/// Gives out the requests of one load as they fall due.
#[derive(Debug)]
pub struct Arrivals {
    asks: VecDeque<Ask>,
    /// Arrival times of the next requests, ascending; an open load has them all from the start.
    due: VecDeque<Duration>,
    closed: bool,
    options: RequestOptions,
    sent: usize,
    outstanding: usize,
}

impl Arrivals {
    /// `start` is the time of the first arrival (of an open load: of its first gap's beginning).
    /// A rate or burstiness that is not positive and finite is an error.
    pub fn new(
        asks: Vec<Ask>,
        load: Load,
        options: RequestOptions,
        start: Duration,
        seed: u64,
    ) -> Result<Self, String> {
        let due = match load {
            Load::Offline => vec![start; asks.len()].into(),
            Load::Closed { concurrency } => vec![start; asks.len().min(concurrency)].into(),
            Load::Open { rate, burstiness } => times(rate, burstiness, asks.len(), seed)?
                .map(|at| start.saturating_add(at))
                .collect(),
        };
        Ok(Self {
            asks: asks.into(),
            due,
            closed: matches!(load, Load::Closed { .. }),
            options,
            sent: 0,
            outstanding: 0,
        })
    }

    /// The next request if it is due by `now`.
    pub fn pop_due(&mut self, now: Duration) -> Option<Request> {
        let arrival = *self.due.front().filter(|&&t| t <= now)?;
        let ask = self.asks.pop_front()?;
        self.due.pop_front();
        let id = self.sent as u64;
        self.sent += 1;
        self.outstanding += 1;
        Some(Request {
            id,
            prompt: ask.prompt,
            max_new_tokens: ask.output_len,
            stop_tokens: self.options.stop_tokens.clone(),
            sampling: Sampling {
                // Every request draws its own noise, reproducibly.
                seed: self.options.sampling.seed.wrapping_add(id),
                ..self.options.sampling
            },
            logprobs: None,
            arrival,
            timeout: self.options.timeout,
        })
    }

    /// When the next request falls due; none when all are sent or wait for a completion.
    pub fn next_due(&self) -> Option<Duration> {
        self.due.front().copied()
    }

    /// One request has ended: a closed load's client sends its next one.
    pub fn completed(&mut self, at: Duration) {
        self.outstanding -= 1;
        if self.closed && self.asks.len() > self.due.len() {
            self.due.push_back(at);
        }
    }

    pub fn is_done(&self) -> bool {
        self.asks.is_empty() && self.outstanding == 0
    }
}

/// Arrival times of `count` requests since the load began. The gaps are stretched to end at exactly
/// count / rate, as vLLM's benchmark does: a short run otherwise sends several percent more or less
/// than it was asked to.
fn times(
    rate: f64,
    burstiness: f64,
    count: usize,
    seed: u64,
) -> Result<impl Iterator<Item = Duration>, String> {
    let positive = |name: &str, v: f64| match v.is_finite() && v > 0.0 {
        true => Ok(v),
        false => Err(format!("{name} is {v}; give a number above 0")),
    };
    let rate = positive("--request-rate", rate)?;
    let shape = positive("--burstiness", burstiness)?;
    let gamma = Gamma::new(shape, 1.0 / (rate * shape))
        .map_err(|e| format!("--request-rate {rate} with --burstiness {shape}: {e}"))?;
    let mut rng = Pcg64::seed_from_u64(seed);
    let gaps: Vec<f64> = (0..count).map(|_| gamma.sample(&mut rng)).collect();
    let sum: f64 = gaps.iter().sum();
    let stretch = match sum > 0.0 && sum.is_finite() {
        true => count as f64 / rate / sum,
        false => 1.0,
    };
    Ok(gaps.into_iter().scan(0.0, move |at, gap| {
        *at += gap * stretch;
        Some(Duration::try_from_secs_f64(*at).unwrap_or(Duration::MAX))
    }))
}
