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
/// Between two pieces of an answer that bring tokens, whatever else comes.
pub const STALL: Duration = Duration::from_secs(120);
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
    /// [`STALL`]
    pub stall: Duration,
}

/// A request that ended, and what is known beside.
pub struct End {
    pub finished: Finished,
    pub sent: Duration,
    pub chunks: usize,
    pub counted: Counted,
    /// Tokens that were asked for.
    pub asked: usize,
    pub failure: Option<Failure>,
}

impl End {
    /// The server says that it has fewer tokens than were asked for.
    pub fn is_short(&self) -> bool {
        self.counted != Counted::Chunks && self.finished.token_times.len() < self.asked
    }
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
    let mut answer = Answer::new(request.max_new_tokens);
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
        asked: request.max_new_tokens,
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
        let late = || failed(FinishReason::TimedOut, None, "no token came in time");
        let mut by = Instant::now() + request.timeout.unwrap_or(FIRST_TOKEN);
        let mut response = timeout_at(by, send(client, peer, request))
            .await
            .map_err(|_| late())??;
        loop {
            let piece = timeout_at(by, response.chunk()).await;
            let piece = piece.map_err(|_| late())?;
            let piece = piece.map_err(|e| failed(FinishReason::Failed, None, &broken(&e)))?;
            let now = peer.clock.now();
            let before = answer.chunks();
            let pushed = match &piece {
                Some(bytes) => answer.push(bytes, now),
                None => answer.finish(now),
            };
            pushed.map_err(|cause| failed(reason(answer.refusal()), answer.refusal(), &cause))?;
            let more = answer.chunks() - before;
            came(more);
            if more > 0 {
                by = Instant::now() + peer.stall;
            }
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
            // One that sends without a pause lets no timer ring.
            if Instant::now() > by {
                return Err(late());
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
    let text = message(&response.bytes().await.unwrap_or_default());
    let cause = format!("{status}: {text}");
    Err(failed(reason(Some(status)), Some(status), &cause))
}

/// How a request ends that got no answer.
fn reason(status: Option<StatusCode>) -> FinishReason {
    match status {
        Some(StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) => {
            FinishReason::Rejected
        }
        _ => FinishReason::Failed,
    }
}

async fn drain(response: &mut Response) {
    let rest = async { while let Ok(Some(_)) = response.chunk().await {} };
    // Who does not end by then has a connection less.
    let _ = timeout(DRAIN, rest).await;
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

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::thread;

    use super::super::wire::Usage;
    use super::*;
    use crate::sampling::Sampling;

    const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n";

    /// What becomes of a request whose answer begins so and goes on with comments, until its client leaves.
    async fn asked(begin: &'static str, pause: Duration, timeout: Duration) -> End {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let serve = move || -> std::io::Result<()> {
            let (mut stream, _): (TcpStream, _) = listener.accept()?;
            let _ = stream.read(&mut [0; 4096])?;
            stream.write_all(format!("{HEAD}{begin}").as_bytes())?;
            loop {
                stream.write_all(b": still here\n\n")?;
                thread::sleep(pause);
            }
        };
        thread::spawn(serve);
        let peer = Peer {
            address: url.parse().unwrap(),
            dialect: Dialect {
                model: "m".into(),
                prompts: PromptForm::Ids,
                ignore_eos: false,
                usage: Usage::Never,
            },
            tokenizer: Arc::new(Tokenizer::open(None).unwrap().1),
            clock: WallClock::start(),
            stall: Duration::from_millis(100),
        };
        let request = Request {
            id: 0,
            prompt: vec![1],
            max_new_tokens: 4,
            stop_tokens: Vec::new(),
            sampling: Sampling::GREEDY,
            logprobs: None,
            arrival: Duration::ZERO,
            timeout: Some(timeout),
        };
        let client = client(&peer.address, None).unwrap();
        exchange(&client, &peer, request, |_| {}).await
    }

    #[tokio::test]
    async fn comments_alone_do_not_keep_a_request_waiting() {
        let token = "data: {\"choices\":[{\"text\":\"a\"}]}\n\n";
        for pause in [Duration::from_millis(10), Duration::ZERO] {
            // A token that is there must not be missed for want of time.
            let (short, long) = (Duration::from_millis(200), Duration::from_secs(100));
            for (begin, timeout, chunks) in [("", short, 0), (token, long, 1)] {
                let end = asked(begin, pause, timeout).await;
                assert_eq!(end.finished.reason, FinishReason::TimedOut);
                assert_eq!(end.chunks, chunks);
                let cause = end.failure.unwrap().cause;
                assert_eq!(cause, "no token came in time");
            }
        }
    }
}
