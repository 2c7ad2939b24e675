//! What is recorded while an engine runs. Durations here; milliseconds only in outputs.

use std::time::Duration;

use crate::batching::CloseReason;
use crate::plan::DeviceTime;
use crate::request::Finished;
use crate::scheduler::StepShape;

/// One step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StepRecord {
    /// When it was decided on, or later, when the step before ended: steps do not overlap.
    pub start: Duration,
    /// From there until its tokens were on the host.
    pub duration: Duration,
    /// Part of `duration` in which the host waited for the step.
    pub compute: Duration,
    /// The host's own work between two steps' tokens: deciding on, planning and launching this step,
    /// or, where steps are submitted ahead, the next one, and delivering the tokens.
    pub host: Duration,
    /// The device's clock, where it was asked.
    pub device: Option<DeviceTime>,
    pub shape: StepShape,
}

/// Requests that started together: a whole batch, recorded when it ends, or, under continuous batching, those that joined
/// before one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchRecord {
    pub size: usize,
    /// The policy's maximum of rows that run together.
    pub max_size: usize,
    pub close_reason: CloseReason,
    /// Age of its oldest request when it closed.
    pub wait: Duration,
    pub start: Duration,
    /// When its slowest row ended and all of them were free; none under continuous batching, where a
    /// row is free as soon as it ends.
    pub end: Option<Duration>,
}

/// The durations of one request (definitions: docs/measuring.md).
#[derive(Debug, Clone, PartialEq)]
pub struct RequestTimes {
    /// Arrival → first scheduled; none of a request that a server ran.
    pub queue: Option<Duration>,
    /// First scheduled → first token, the steps between parts of a prompt and preemptions included;
    /// none as above.
    pub prefill: Option<Duration>,
    /// Arrival → first token.
    pub ttft: Duration,
    /// (e2el − ttft) / (n − 1); none when n ≤ 1.
    pub tpot: Option<Duration>,
    /// Gaps between the moments at which tokens came: a server may send several at once.
    pub itl: Vec<Duration>,
    /// Arrival → last token.
    pub e2el: Duration,
}

impl RequestTimes {
    /// None for a request that did not get the output it asked for.
    pub fn of(request: &Finished) -> Option<Self> {
        let (&first, &last) = request
            .token_times
            .first()
            .zip(request.token_times.last())?;
        if !request.reason.is_complete() {
            return None;
        }
        let gaps = request.token_times.len() as u32 - 1;
        Some(Self {
            queue: request
                .scheduled
                .map(|at| at.saturating_sub(request.arrival)),
            prefill: request.scheduled.map(|at| first.saturating_sub(at)),
            ttft: first.saturating_sub(request.arrival),
            tpot: (gaps > 0).then(|| (last - first) / gaps.max(1)),
            itl: request
                .token_times
                .windows(2)
                .map(|pair| pair[1] - pair[0])
                .filter(|gap| !gap.is_zero())
                .collect(),
            e2el: last.saturating_sub(request.arrival),
        })
    }
}
