//! An answer of either endpoint: its choices are generated side by side, and told whole or as a stream.

use std::sync::Arc;

use async_stream::stream;
use axum::Json;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::error::ApiError;
use super::params::{Params, StreamOptions};
use super::prompts::Fitted;
use super::request_log::RequestLog;
use crate::model::Tokenizer;
use crate::request::Token;
use crate::server::app::{App, Ask};
use crate::server::frames::{self, Frames};
use crate::server::generation::{End, Generation, Piece, Submitted};
use crate::server::patience::Progress;
use crate::text::StopStrings;

/// How an endpoint words an answer.
pub trait Wording: Send + Sync + 'static {
    /// The event before a choice's first piece.
    fn opening(&self, choice: usize) -> Option<impl Serialize>;
    /// `usage` so far, where every chunk tells it.
    fn chunk(
        &self,
        piece: Piece,
        usage: Option<Usage>,
        tokenizer: &Tokenizer,
    ) -> Result<impl Serialize, ApiError>;
    /// The last event, where the stream tells its usage.
    fn usage_chunk(&self, usage: Usage) -> impl Serialize;
    fn whole(
        &self,
        choices: Vec<Choice>,
        usage: Usage,
        tokenizer: &Tokenizer,
    ) -> Result<impl Serialize, ApiError>;
}

/// One finished choice.
#[derive(Debug, Default)]
pub struct Choice {
    pub text: String,
    /// Each with its place in the text; empty without log-probabilities.
    pub tokens: Vec<(Token, usize)>,
    pub end: Option<End>,
}

#[derive(Debug, Clone, Copy, Serialize)]
pub struct Usage {
    pub prompt_tokens: usize,
    pub completion_tokens: usize,
    pub total_tokens: usize,
}

/// What is to be generated, checked.
pub struct Job<W> {
    pub id: String,
    pub prompts: Vec<Fitted>,
    /// One for each choice. They were taken before the prompts were read: who gets none costs little, and
    /// so many texts at most are here at once.
    pub places: Vec<OwnedSemaphorePermit>,
    pub logprobs: Option<usize>,
    /// Of the answer, as far as they are known before.
    pub bytes: usize,
    pub params: Params,
    pub wording: W,
}

impl<W: Wording> Job<W> {
    pub async fn run(mut self, app: Arc<App>, progress: &Progress) -> Result<Response, ApiError> {
        if let Some(cause) = app.closed() {
            return Err(ApiError::closed(&cause));
        }
        let deadline = Instant::now() + app.options.timeout;
        progress.answering(deadline);
        let submitted = self.submit(&app, deadline);
        let prompt_tokens = self.prompts.iter().map(|(ids, _)| ids.len()).sum();
        let answer = Answer {
            log: RequestLog::begin(self.id, prompt_tokens, app.clock),
            stops: self.params.stops,
            prompt_tokens,
            bytes: self.bytes,
            wording: self.wording,
            app,
        };
        match self.params.stream {
            None => answer.whole(submitted).await,
            Some(options) => answer.stream(submitted, options).await,
        }
    }

    /// Choice i is number i mod n of prompt i / n.
    fn submit(&mut self, app: &Arc<App>, deadline: Instant) -> Submitted {
        let places = std::mem::take(&mut self.places).into_iter().enumerate();
        let n = self.params.n;
        let stop_tokens = match self.params.ignore_eos {
            true => &[][..],
            false => &app.model.spec.eos_tokens,
        };
        let ask = |choice: usize| Ask {
            prompt: self.prompts[choice / n].0.clone(),
            max_new_tokens: self.prompts[choice / n].1,
            stop_tokens: stop_tokens.to_vec(),
            sampling: self.params.sampling(choice % n),
            logprobs: self.logprobs,
        };
        let asks = places.map(|(i, place)| (ask(i), place)).collect();
        app.submit(asks, deadline)
    }
}

/// An answer under way.
struct Answer<W> {
    app: Arc<App>,
    wording: W,
    stops: StopStrings,
    prompt_tokens: usize,
    bytes: usize,
    log: RequestLog,
}

impl<W: Wording> Answer<W> {
    async fn whole(mut self, submitted: Submitted) -> Result<Response, ApiError> {
        let written = match self.generate(submitted).await {
            Ok((choices, usage)) => {
                let (wording, model) = (self.wording, Arc::clone(&self.app.model));
                let write = move || {
                    let whole = wording.whole(choices, usage, &model.tokenizer)?;
                    Ok(Json(whole).into_response())
                };
                super::done(self.app.turns.take_if_large(self.bytes, write).await)
            }
            Err(error) => Err(error),
        };
        match written {
            Ok(whole) => {
                self.log.succeeded();
                Ok(whole)
            }
            Err(error) => Err(self.log.failed(error)),
        }
    }

    async fn generate(&mut self, submitted: Submitted) -> Result<(Vec<Choice>, Usage), ApiError> {
        let (app, stops) = (Arc::clone(&self.app), std::mem::take(&mut self.stops));
        let mut generation = Generation::new(submitted, &app, &stops);
        let mut choices: Vec<Choice> = Vec::new();
        choices.resize_with(generation.choices(), Choice::default);
        while let Some(piece) = self.next(&mut generation).await? {
            let choice = &mut choices[piece.choice];
            choice.text += &piece.text;
            choice.end = piece.end;
            let token = piece.token.filter(|token| token.logprobs.is_some());
            choice
                .tokens
                .extend(token.map(|token| (token, piece.offset)));
        }
        Ok((choices, self.usage(&generation)))
    }

    /// Begins when the first thing has happened: until then an error has a status of its own.
    async fn stream(
        mut self,
        mut submitted: Submitted,
        options: StreamOptions,
    ) -> Result<Response, ApiError> {
        if let Err(error) = submitted.hear().await {
            return Err(self.log.failed(error.into()));
        }
        let events = stream! {
            let (app, stops) = (Arc::clone(&self.app), std::mem::take(&mut self.stops));
            let mut generation = Generation::new(submitted, &app, &stops);
            let mut frames = Frames::default();
            for choice in 0..generation.choices() {
                frames.add_some(self.wording.opening(choice));
                if frames.is_large() {
                    yield frames.take();
                }
            }
            loop {
                let added = match self.next(&mut generation).await {
                    Ok(Some(piece)) => {
                        let usage = options.continuous_usage_stats;
                        let usage = usage.then(|| self.usage(&generation));
                        self.add(&mut frames, piece, usage)
                    }
                    Ok(None) => break,
                    Err(error) => Err(error),
                };
                if let Err(error) = added {
                    // Its rows are free although the client may take its time.
                    drop(generation);
                    frames.add(&self.log.failed(error).body());
                    yield frames.take();
                    return;
                }
                // What is there goes out together.
                if !generation.is_ahead() || frames.is_large() {
                    yield frames.take();
                }
            }
            if options.include_usage {
                frames.add(&self.wording.usage_chunk(self.usage(&generation)));
            }
            frames.done();
            self.log.succeeded();
            yield frames.take();
        };
        Ok(frames::response(events))
    }

    /// Adds an event for a piece that there is something to tell of.
    fn add(&self, frames: &mut Frames, piece: Piece, usage: Option<Usage>) -> Result<(), ApiError> {
        let has_logprobs = piece.token.as_ref().is_some_and(|t| t.logprobs.is_some());
        if has_logprobs || piece.end.is_some() || !piece.text.is_empty() {
            let tokenizer = &self.app.model.tokenizer;
            frames.add(&self.wording.chunk(piece, usage, tokenizer)?);
        }
        Ok(())
    }

    async fn next(&mut self, generation: &mut Generation<'_>) -> Result<Option<Piece>, ApiError> {
        let piece = generation.next().await?;
        self.log.heard(generation);
        Ok(piece)
    }

    fn usage(&self, generation: &Generation<'_>) -> Usage {
        Usage {
            prompt_tokens: self.prompt_tokens,
            completion_tokens: generation.tokens,
            total_tokens: self.prompt_tokens + generation.tokens,
        }
    }
}
