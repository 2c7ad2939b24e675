//! How every cell is measured.

use serde::{Deserialize, Serialize};

use super::grid::batch_sizes;
use crate::Error;

/// More requests would not fit in memory.
pub(super) const MOST_REQUESTS: usize = 10_000_000;

/// How every cell is measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MeasureOptions {
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
    /// `--preferred-batch-size`, for `dynamic`.
    pub preferred_batch_sizes: Vec<usize>,
    /// Tokens of a step of `continuous`.
    pub max_num_batched_tokens: usize,
}

impl MeasureOptions {
    /// Refuses what cannot be measured, naming the option.
    pub fn validate(&self) -> Result<(), Error> {
        let usage = |message: String| Err(Error::Usage(message));
        batch_sizes("--preferred-batch-size", &self.preferred_batch_sizes)?;
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
