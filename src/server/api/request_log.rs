//! One line a request: of those that were submitted with their timings, of others why they were refused.

use std::time::Duration;

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use tracing::info;

use super::error::{ApiError, Untold};
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
    /// Of its slowest request, once the engine has ended one.
    queue: Option<Duration>,
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
            queue: None,
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
        self.queue = queues.max();
    }

    pub fn succeeded(&mut self) {
        self.outcome = Outcome::Succeeded;
    }

    /// Gives the error back as one that has been told.
    pub fn failed(&mut self, error: ApiError) -> ApiError {
        self.outcome = Outcome::Failed(shown(&error.message));
        error.told()
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
            queue_ms = self.queue.map(ms),
            ttft_ms = self.ttft.map(ms),
            e2el_ms = ms(self.clock.now().saturating_sub(self.begin)),
            "request"
        );
    }
}

/// Characters of a client's text in the log; nobody has to send a short one.
const MOST_SHOWN: usize = 300;

fn shown(text: &str) -> String {
    text.chars().take(MOST_SHOWN).collect()
}

/// Tells of requests that ended before they were submitted.
pub async fn refusals(request: Request, next: Next) -> Response {
    let (method, path) = (
        shown(request.method().as_str()),
        shown(request.uri().path()),
    );
    let response = next.run(request).await;
    if let Some(Untold(cause)) = response.extensions().get() {
        let status = response.status().as_u16();
        let cause = shown(cause);
        info!(method, path, status, outcome = "refused", cause, "request");
    }
    response
}
