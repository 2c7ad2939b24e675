//! One request to a server, from its first byte to its last.

use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Client, Response, StatusCode};
use tokio::time::{Instant, timeout, timeout_at};

use super::answer::Answer;
use super::wire::{Dialect, Prompt, PromptForm, message};
use super::{Address, TargetError};
use crate::clock::{Clock, WallClock};
use crate::metrics::Counted;
use crate::model::Tokenizer;
use crate::request::{FinishReason, Finished, Request};

/// Without a --timeout-ms, how long the first token may take: a server must not hang a sweep.
const FIRST_TOKEN: Duration = Duration::from_secs(600);
/// Between two pieces of an answer.
const STALL: Duration = Duration::from_secs(120);
/// After `[DONE]` the end of the body follows at once, and the connection is free again.
const DRAIN: Duration = Duration::from_millis(10);
/// Shorter than uvicorn keeps an idle connection, so that none is used while it closes.
const IDLE_CONNECTION: Duration = Duration::from_secs(4);

/// What every request to one server shares.
pub struct Peer {
    pub address: Address,
    pub dialect: Dialect,
    /// For prompts that are sent as text.
    pub tokenizer: Arc<Tokenizer>,
    pub clock: WallClock,
}

/// A request that ended, and what is known beside.
pub struct End {
    pub finished: Finished,
    pub sent: Duration,
    pub chunks: usize,
    pub counted: Counted,
    pub failure: Option<Failure>,
}

/// Why a request failed.
#[derive(Debug)]
pub struct Failure {
    /// Of the answer; none where there was none.
    pub status: Option<u16>,
    pub cause: String,
}

/// A client whose connections stay in the event loop that it is used in.
pub fn client(address: &Address, api_key: Option<&str>) -> Result<Client, TargetError> {
    let failed = |e: &dyn std::fmt::Display| TargetError::Client(e.to_string());
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(key) = api_key {
        let bearer = HeaderValue::from_str(&format!("Bearer {key}"));
        let mut bearer = bearer.map_err(|_| failed(&"the API key is no header value"))?;
        bearer.set_sensitive(true);
        headers.insert(AUTHORIZATION, bearer);
    }
    let builder = Client::builder()
        .default_headers(headers)
        .tcp_nodelay(true)
        .connect_timeout(Duration::from_secs(10))
        .pool_idle_timeout(IDLE_CONNECTION);
    // A proxy between here and here would be measured too.
    let builder = match address.is_local() {
        true => builder.no_proxy(),
        false => builder,
    };
    builder.build().map_err(|e| failed(&e))
}

/// Sends a request and follows its answer; `came` hears of the pieces that bring tokens.
pub async fn exchange(client: &Client, peer: &Peer, request: Request, came: impl Fn(usize)) -> End {
    let mut answer = Answer::default();
    let sent = peer.clock.now();
    let followed = follow(client, peer, &request, &mut answer, came).await;
    let finished = followed.at.unwrap_or_else(|| peer.clock.now());
    let (token_times, counted) = answer.token_times(finished);
    let (reason, failure) = match followed.result {
        Ok(()) => (answer.reason(), None),
        Err((reason, failure)) => (reason, Some(failure)),
    };
    End {
        finished: Finished {
            id: request.id,
            prompt_len: answer.prompt_tokens().unwrap_or(request.prompt.len()),
            output: Vec::new(),
            reason,
            arrival: request.arrival,
            scheduled: None,
            token_times,
            preempted: Vec::new(),
            finished,
        },
        sent,
        chunks: answer.chunks(),
        counted,
        failure,
    }
}

struct Followed {
    /// When the answer was whole.
    at: Option<Duration>,
    result: Result<(), (FinishReason, Failure)>,
}

async fn follow(
    client: &Client,
    peer: &Peer,
    request: &Request,
    answer: &mut Answer,
    came: impl Fn(usize),
) -> Followed {
    let mut at = None;
    let result = async {
        let deadline = Instant::now() + request.timeout.unwrap_or(FIRST_TOKEN);
        let late = |_| failed(FinishReason::TimedOut, None, "no token came in time");
        let mut response = timeout_at(deadline, send(client, peer, request))
            .await
            .map_err(late)??;
        loop {
            let piece = match answer.has_begun() {
                true => timeout(STALL, response.chunk()).await,
                false => timeout_at(deadline, response.chunk()).await,
            };
            let piece = piece.map_err(late)?;
            let piece = piece.map_err(|e| failed(FinishReason::Failed, None, &broken(&e)))?;
            let now = peer.clock.now();
            let before = answer.chunks();
            let pushed = match &piece {
                Some(bytes) => answer.push(bytes, now),
                None => answer.finish(now),
            };
            pushed.map_err(|cause| failed(FinishReason::Failed, None, &cause))?;
            came(answer.chunks() - before);
            if piece.is_none() || answer.is_done() {
                at = Some(now);
                if piece.is_some() {
                    drain(&mut response).await;
                }
                return match answer.reason() {
                    FinishReason::Failed => {
                        Err(failed(FinishReason::Failed, None, "it gave the request up"))
                    }
                    _ => Ok(()),
                };
            }
        }
    }
    .await;
    Followed { at, result }
}

/// Sends the request and waits for the head of an answer that is one.
async fn send(
    client: &Client,
    peer: &Peer,
    request: &Request,
) -> Result<Response, (FinishReason, Failure)> {
    let here = |cause: &dyn std::fmt::Display| {
        failed(
            FinishReason::Failed,
            None,
            &format!("it could not be written: {cause}"),
        )
    };
    let prompt = match peer.dialect.prompts {
        PromptForm::Ids => Prompt::Ids(&request.prompt),
        PromptForm::Text => {
            let text = peer.tokenizer.decode(&request.prompt);
            Prompt::Text(text.map_err(|e| here(&e))?)
        }
    };
    let body = peer.dialect.body(prompt, request.max_new_tokens);
    let body = body.map_err(|e| here(&e))?;
    let url = peer.address.of("completions");
    let response = client.post(url).body(body).send().await;
    let response = response.map_err(|e| failed(FinishReason::Failed, None, &broken(&e)))?;
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let reason = match status {
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => FinishReason::Rejected,
        _ => FinishReason::Failed,
    };
    let text = message(&response.bytes().await.unwrap_or_default());
    Err(failed(reason, Some(status), &format!("{status}: {text}")))
}

async fn drain(response: &mut Response) {
    while let Ok(Ok(Some(_))) = timeout(DRAIN, response.chunk()).await {}
}

fn failed(
    reason: FinishReason,
    status: Option<StatusCode>,
    cause: &str,
) -> (FinishReason, Failure) {
    let failure = Failure {
        status: status.map(|s| s.as_u16()),
        cause: cause.into(),
    };
    (reason, failure)
}

/// The innermost cause, which says more than its wrappers.
pub fn broken(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
