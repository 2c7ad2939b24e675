//! One measured window in numbers. Names and definitions: docs/measuring.md.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{BatchRecord, RequestTimes, Statistics, StepRecord};
use crate::batching::CloseReason;
use crate::request::Finished;
use crate::scheduler::StepShape;

/// Durations in milliseconds, rates per second.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// First arrival → last end.
    pub duration_s: f64,
    pub requests: usize,
    pub completed: usize,
    /// Requests that timed out, were rejected or cancelled, or failed.
    pub failed: usize,
    pub prompt_tokens: usize,
    pub output_tokens: usize,
    pub request_throughput: f64,
    pub output_throughput: f64,
    pub total_token_throughput: f64,
    pub e2el_ms: Option<Statistics>,
    pub ttft_ms: Option<Statistics>,
    pub tpot_ms: Option<Statistics>,
    pub itl_ms: Option<Statistics>,
    pub queue_ms: Option<Statistics>,
    pub prefill_ms: Option<Statistics>,
    /// Rows of a batch; under continuous batching, rows of a step.
    pub actual_batch_size: Option<f64>,
    /// Of the policy's maximum.
    pub batch_utilization_percent: Option<f64>,
    pub batch_wait_ms: Option<Statistics>,
    pub batch_close_reason: BTreeMap<CloseReason, usize>,
    /// None where no step was seen.
    #[serde(flatten)]
    pub executed: Option<Executed>,
    /// Padded positions computed / positions computed.
    pub padding_waste_percent: Option<f64>,
    /// Leased pages / pages of the pool, at the fullest step.
    pub kv_cache_usage_percent: Option<f64>,
    /// Duration of steps that only decode.
    pub decode_step_ms: Option<Statistics>,
    /// The host's own work in such a step.
    pub host_us_per_step: Option<Statistics>,
    /// Step durations by what the step did and how many rows it had, ascending.
    pub step_times: Vec<StepTimes>,
}

/// What the steps of a run did, counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Executed {
    /// Groups of requests that started together.
    pub batches: usize,
    pub steps: usize,
    /// Positions computed in all steps, and how many of them were padding.
    pub positions: usize,
    pub padded_positions: usize,
    /// Rows × steps in which they decoded, and how many of them belonged to rows that had finished.
    pub row_steps: usize,
    pub idle_row_steps: usize,
    /// Rows that lost their KV pages to older ones and were computed again.
    #[serde(default)]
    pub preemptions_total: usize,
}

/// All steps of one kind and one number of rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepTimes {
    pub prefill: bool,
    /// Prompts beside rows that decode.
    #[serde(default)]
    pub mixed: bool,
    /// Rows of the step, idle ones included.
    pub rows: usize,
    pub steps: usize,
    pub mean_ms: f64,
    /// Positions computed in a step, padding included.
    pub mean_positions: f64,
}

impl Summary {
    /// Idle row-steps, of all; none where no row decoded.
    pub fn idle_percent(&self) -> Option<f64> {
        let executed = self.executed.as_ref()?;
        percent(executed.idle_row_steps, executed.row_steps)
    }

    /// `percentiles` are further ones for every statistic.
    pub fn of(
        finished: &[Finished],
        batches: &[BatchRecord],
        steps: &[StepRecord],
        percentiles: &[f64],
    ) -> Self {
        let first = finished.iter().map(|r| r.arrival).min().unwrap_or_default();
        let last = finished
            .iter()
            .map(|r| r.finished)
            .max()
            .unwrap_or_default();
        let seconds = (last.saturating_sub(first)).as_secs_f64();
        let complete = || finished.iter().filter(|r| r.reason.is_complete());
        let prompt_tokens: usize = complete().map(|r| r.prompt_len).sum();
        let output_tokens: usize = complete().map(|r| r.token_times.len()).sum();
        let rate = |count: usize| {
            if seconds > 0.0 {
                count as f64 / seconds
            } else {
                0.0
            }
        };

        let times: Vec<RequestTimes> = finished.iter().filter_map(RequestTimes::of).collect();
        let statistics = |values: Vec<f64>| Statistics::of(values, percentiles);
        let of_times = |get: fn(&RequestTimes) -> Duration| {
            statistics(times.iter().map(|t| ms(get(t))).collect())
        };
        let if_known = |get: fn(&RequestTimes) -> Option<Duration>| {
            statistics(times.iter().filter_map(get).map(ms).collect())
        };
        let decodes = || steps.iter().filter(|s| !s.shape.prefills());
        let sum = |get: fn(&StepShape) -> usize| steps.iter().map(|s| get(&s.shape)).sum::<usize>();
        let (tokens, padded_tokens) = (sum(|s| s.tokens), sum(|s| s.padded_tokens));
        let (rows, most_rows) = rows(batches, steps);

        let mut reasons = BTreeMap::new();
        for batch in batches {
            *reasons.entry(batch.close_reason).or_default() += 1;
        }
        Self {
            duration_s: seconds,
            requests: finished.len(),
            completed: complete().count(),
            failed: finished.len() - complete().count(),
            prompt_tokens,
            output_tokens,
            request_throughput: rate(complete().count()),
            output_throughput: rate(output_tokens),
            total_token_throughput: rate(prompt_tokens + output_tokens),
            e2el_ms: of_times(|t| t.e2el),
            ttft_ms: of_times(|t| t.ttft),
            tpot_ms: if_known(|t| t.tpot),
            itl_ms: statistics(times.iter().flat_map(|t| &t.itl).map(|&d| ms(d)).collect()),
            queue_ms: if_known(|t| t.queue),
            prefill_ms: if_known(|t| t.prefill),
            actual_batch_size: rows,
            batch_utilization_percent: rows.zip(most_rows).map(|(rows, most)| 100.0 * rows / most),
            batch_wait_ms: statistics(batches.iter().map(|b| ms(b.wait)).collect()),
            batch_close_reason: reasons,
            executed: (!steps.is_empty()).then(|| Executed {
                batches: batches.len(),
                steps: steps.len(),
                positions: tokens,
                padded_positions: padded_tokens,
                row_steps: sum(|s| s.decode_rows),
                idle_row_steps: sum(|s| s.idle_rows),
                preemptions_total: sum(|s| s.preemptions),
            }),
            padding_waste_percent: percent(padded_tokens, tokens),
            kv_cache_usage_percent: steps
                .iter()
                .filter_map(|s| percent(s.shape.kv_pages_used, s.shape.kv_pages_total))
                .max_by(f64::total_cmp),
            decode_step_ms: statistics(decodes().map(|s| ms(s.duration)).collect()),
            host_us_per_step: statistics(decodes().map(|s| s.host.as_secs_f64() * 1e6).collect()),
            step_times: step_times(steps),
        }
    }
}

/// The mean rows of what runs together, and of the policy's maximum.
fn rows(batches: &[BatchRecord], steps: &[StepRecord]) -> (Option<f64>, Option<f64>) {
    let of_batches =
        |get: fn(&BatchRecord) -> usize| share(batches.iter().map(get).sum(), batches.len());
    let rows = match batches.iter().all(|b| b.end.is_some()) {
        true => of_batches(|b| b.size),
        false => share(steps.iter().map(|s| s.shape.rows).sum(), steps.len()),
    };
    (rows, of_batches(|b| b.max_size))
}

fn step_times(steps: &[StepRecord]) -> Vec<StepTimes> {
    let mut groups: BTreeMap<_, Vec<&StepRecord>> = BTreeMap::new();
    for step in steps {
        let shape = &step.shape;
        let kind = (!shape.prefills(), shape.is_mixed(), shape.rows);
        groups.entry(kind).or_default().push(step);
    }
    let of_group = |((decode, mixed, rows), steps): ((bool, bool, usize), Vec<&StepRecord>)| {
        let count = steps.len();
        let time: Duration = steps.iter().map(|s| s.duration).sum();
        let positions: usize = steps.iter().map(|s| s.shape.tokens).sum();
        StepTimes {
            prefill: !decode,
            mixed,
            rows,
            steps: count,
            mean_ms: ms(time) / count as f64,
            mean_positions: positions as f64 / count as f64,
        }
    };
    groups.into_iter().map(of_group).collect()
}

fn ms(d: Duration) -> f64 {
    d.as_secs_f64() * 1e3
}

fn share(part: usize, whole: usize) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

fn percent(part: usize, whole: usize) -> Option<f64> {
    share(part, whole).map(|s| 100.0 * s)
}
