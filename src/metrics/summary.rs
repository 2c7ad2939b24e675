//! One measured window in numbers. Names and definitions: docs/measuring.md.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{BatchRecord, RequestTimes, Statistics, StepRecord};
use crate::batching::CloseReason;
use crate::request::Finished;

/// Durations in milliseconds, rates per second.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// First arrival → last end.
    pub duration_s: f64,
    pub requests: usize,
    pub completed: usize,
    /// Requests that timed out, were rejected or cancelled.
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
    pub batches: usize,
    pub actual_batch_size: Option<f64>,
    pub batch_utilization_percent: Option<f64>,
    pub batch_wait_ms: Option<Statistics>,
    pub batch_close_reason: BTreeMap<CloseReason, usize>,
    /// Positions computed in all steps, and how many of them were padding.
    pub positions: usize,
    pub padded_positions: usize,
    /// Padded positions computed / positions computed.
    pub padding_waste_percent: Option<f64>,
    pub row_steps: usize,
    pub idle_row_steps: usize,
    /// Leased pages / pages of the pool, at the fullest step.
    pub kv_cache_usage_percent: Option<f64>,
    pub steps: usize,
    /// Duration of decode steps.
    pub decode_step_ms: Option<Statistics>,
    /// The host's own work in a decode step.
    pub host_us_per_step: Option<Statistics>,
    /// Step durations by what the step did and how many rows it had, ascending.
    pub step_times: Vec<StepTimes>,
}

/// All steps of one kind and one number of rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepTimes {
    pub prefill: bool,
    /// Rows of the step, idle ones included.
    pub rows: usize,
    pub steps: usize,
    pub mean_ms: f64,
    /// Positions computed in a step, padding included.
    pub mean_positions: f64,
}

impl Summary {
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
        let output_tokens: usize = complete().map(|r| r.output.len()).sum();
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
        let decodes = || steps.iter().filter(|s| !s.shape.prefill);
        let sum = |get: fn(&BatchRecord) -> usize| batches.iter().map(get).sum::<usize>();

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
            tpot_ms: statistics(times.iter().filter_map(|t| t.tpot).map(ms).collect()),
            itl_ms: statistics(times.iter().flat_map(|t| &t.itl).map(|&d| ms(d)).collect()),
            queue_ms: of_times(|t| t.queue),
            prefill_ms: of_times(|t| t.prefill),
            batches: batches.len(),
            actual_batch_size: share(sum(|b| b.size), batches.len()),
            batch_utilization_percent: percent(sum(|b| b.size), sum(|b| b.max_size)),
            batch_wait_ms: statistics(batches.iter().map(|b| ms(b.wait)).collect()),
            batch_close_reason: reasons,
            positions: sum(|b| b.positions),
            padded_positions: sum(|b| b.padded_positions),
            padding_waste_percent: percent(sum(|b| b.padded_positions), sum(|b| b.positions)),
            row_steps: sum(|b| b.row_steps),
            idle_row_steps: sum(|b| b.idle_row_steps),
            kv_cache_usage_percent: steps
                .iter()
                .filter_map(|s| percent(s.shape.kv_pages_used, s.shape.kv_pages_total))
                .max_by(f64::total_cmp),
            steps: steps.len(),
            decode_step_ms: statistics(decodes().map(|s| ms(s.duration)).collect()),
            host_us_per_step: statistics(decodes().map(|s| s.host.as_secs_f64() * 1e6).collect()),
            step_times: step_times(steps),
        }
    }
}

fn step_times(steps: &[StepRecord]) -> Vec<StepTimes> {
    let mut groups: BTreeMap<(bool, usize), Vec<&StepRecord>> = BTreeMap::new();
    for step in steps {
        let kind = (!step.shape.prefill, step.shape.rows);
        groups.entry(kind).or_default().push(step);
    }
    let of_group = |((decode, rows), steps): ((bool, usize), Vec<&StepRecord>)| {
        let count = steps.len();
        let time: Duration = steps.iter().map(|s| s.duration).sum();
        let positions: usize = steps.iter().map(|s| s.shape.tokens).sum();
        StepTimes {
            prefill: !decode,
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
