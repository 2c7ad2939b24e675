//! One line a request.

use std::time::Duration;

use tracing::info;

use crate::clock::{Clock, WallClock};
use crate::server::generation::Generation;

/// Collects what is to be told of an answer, and tells it when the answer is dropped: one that neither
/// succeeded nor failed was left by its client.
#[derive(Debug)]
pub struct RequestLog {
    id: String,
    clock: WallClock,
    begin: Duration,
    prompt_tokens: usize,
    output_tokens: usize,
    /// Of its slowest request, as far as the engine has ended them.
    queue: Duration,
    ttft: Option<Duration>,
    outcome: Outcome,
}

#[derive(Debug)]
enum Outcome {
    Left,
    Succeeded,
    Failed(String),
}

impl RequestLog {
    pub fn begin(id: String, prompt_tokens: usize, clock: WallClock) -> Self {
        Self {
            id,
            begin: clock.now(),
            clock,
            prompt_tokens,
            output_tokens: 0,
            queue: Duration::ZERO,
            ttft: None,
            outcome: Outcome::Left,
        }
    }

    pub fn heard(&mut self, generation: &Generation<'_>) {
        self.output_tokens = generation.tokens;
        if generation.tokens > 0 && self.ttft.is_none() {
            self.ttft = Some(self.clock.now().saturating_sub(self.begin));
        }
        let queues = generation
            .finished
            .iter()
            .filter_map(|f| Some(f.scheduled?.saturating_sub(f.arrival)));
        self.queue = queues.max().unwrap_or_default();
    }

    pub fn succeeded(&mut self) {
        self.outcome = Outcome::Succeeded;
    }

    pub fn failed(&mut self, cause: &str) {
        self.outcome = Outcome::Failed(cause.to_owned());
    }
}

impl Drop for RequestLog {
    fn drop(&mut self) {
        let ms = |d: Duration| (d.as_secs_f64() * 1e6).round() / 1e3;
        let (outcome, cause) = match &self.outcome {
            Outcome::Left => ("client_gone", None),
            Outcome::Succeeded => ("complete", None),
            Outcome::Failed(cause) => ("failed", Some(cause.as_str())),
        };
        info!(
            id = self.id,
            outcome,
            cause,
            prompt_tokens = self.prompt_tokens,
            output_tokens = self.output_tokens,
            queue_ms = ms(self.queue),
            ttft_ms = self.ttft.map(ms),
            e2el_ms = ms(self.clock.now().saturating_sub(self.begin)),
            "request"
        );
    }
}
