//! What is recorded while an engine runs. Durations here; milliseconds only in outputs.

use std::time::Duration;

use crate::batching::CloseReason;
use crate::request::Finished;
use crate::scheduler::StepShape;

/// One step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StepRecord {
    pub start: Duration,
    /// Planning → tokens on the host.
    pub duration: Duration,
    /// Part of `duration` spent computing.
    pub compute: Duration,
    /// The host's own work: planning, launching and applying the tokens.
    pub host: Duration,
    pub shape: StepShape,
}

/// One batch, from its close to the end of its slowest row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchRecord {
    pub size: usize,
    /// The policy's maximum.
    pub max_size: usize,
    pub close_reason: CloseReason,
    /// Age of its oldest request when it closed.
    pub wait: Duration,
    pub start: Duration,
    pub end: Duration,
    pub steps: usize,
    /// Positions computed in all steps, and how many of them were padding.
    pub positions: usize,
    pub padded_positions: usize,
    /// Rows × decode steps, and how many of them belonged to rows that had finished.
    pub row_steps: usize,
    pub idle_row_steps: usize,
}

impl Default for BatchRecord {
    fn default() -> Self {
        Self {
            size: 0,
            max_size: 0,
            close_reason: CloseReason::Full,
            wait: Duration::ZERO,
            start: Duration::ZERO,
            end: Duration::ZERO,
            steps: 0,
            positions: 0,
            padded_positions: 0,
            row_steps: 0,
            idle_row_steps: 0,
        }
    }
}

impl BatchRecord {
    pub fn add(&mut self, step: &StepRecord) {
        self.steps += 1;
        self.positions += step.shape.tokens;
        self.padded_positions += step.shape.padded_tokens;
        if !step.shape.prefill {
            self.row_steps += step.shape.rows;
            self.idle_row_steps += step.shape.idle_rows;
        }
    }
}

/// The durations of one request (definitions: docs/measuring.md).
#[derive(Debug, Clone, PartialEq)]
pub struct RequestTimes {
    /// Arrival → first scheduled.
    pub queue: Duration,
    /// First scheduled → first token.
    pub prefill: Duration,
    /// Arrival → first token.
    pub ttft: Duration,
    /// (e2el − ttft) / (n − 1); none when n ≤ 1.
    pub tpot: Option<Duration>,
    /// Gaps between tokens.
    pub itl: Vec<Duration>,
    /// Arrival → last token.
    pub e2el: Duration,
}

impl RequestTimes {
    /// None for a request that did not get the output it asked for.
    pub fn of(request: &Finished) -> Option<Self> {
        let scheduled = request.scheduled?;
        let (&first, &last) = request
            .token_times
            .first()
            .zip(request.token_times.last())?;
        if !request.reason.is_complete() {
            return None;
        }
        let gaps = request.token_times.len() as u32 - 1;
        Some(Self {
            queue: scheduled.saturating_sub(request.arrival),
            prefill: first.saturating_sub(scheduled),
            ttft: first.saturating_sub(request.arrival),
            tpot: (gaps > 0).then(|| (last - first) / gaps.max(1)),
            itl: request
                .token_times
                .windows(2)
                .map(|pair| pair[1] - pair[0])
                .collect(),
            e2el: last.saturating_sub(request.arrival),
        })
    }
}
