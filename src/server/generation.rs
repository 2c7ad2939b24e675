//! The requests of one answer, from their places in the queue to their last pieces of text.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use super::app::App;
use super::dispatch::Event;
use super::engine_thread::Command;
use crate::engine::SubmitError;
use crate::model::ModelError;
use crate::request::{FinishReason, Finished, RequestId, Token};
use crate::text::{OutputText, StopStrings};

/// Why an answer cannot be given.
#[derive(Debug, thiserror::Error)]
pub enum GenerationError {
    #[error(transparent)]
    Refused(#[from] SubmitError),
    #[error("the engine failed: {0}")]
    Lost(Arc<str>),
    #[error("the server is shutting down and has cut this request off (--drain-timeout)")]
    CutOff,
    #[error("the request took longer than {} s (--timeout-ms)", .0.as_secs_f64())]
    TimedOut(Duration),
    #[error(transparent)]
    Text(#[from] ModelError),
}

/// Events taken from the channel at once.
const AT_ONCE: usize = 64;

/// Requests that the engine has; dropping this cancels those that have not ended.
#[derive(Debug)]
pub struct Submitted {
    app: Arc<App>,
    /// The requests' ids follow each other.
    first: RequestId,
    /// Of each request until it ends.
    places: Vec<Option<OwnedSemaphorePermit>>,
    events: UnboundedReceiver<Event>,
    heard: VecDeque<Event>,
    buffer: Vec<Event>,
    /// Ends what has not ended when its time is over, whether or not anybody listens.
    deadline: JoinHandle<()>,
}

impl Submitted {
    pub(super) fn new(
        app: Arc<App>,
        first: RequestId,
        events: UnboundedReceiver<Event>,
        places: Vec<Option<OwnedSemaphorePermit>>,
        deadline: Instant,
    ) -> Self {
        let (late, ids) = (Arc::clone(&app), first..first + places.len() as u64);
        Self {
            app,
            first,
            places,
            events,
            heard: VecDeque::new(),
            buffer: Vec::new(),
            deadline: tokio::spawn(async move {
                sleep_until(deadline).await;
                late.time_out(ids);
            }),
        }
    }

    /// Waits until something has happened. Errors: all requests have been refused or lost, or their time is
    /// over.
    pub async fn hear(&mut self) -> Result<(), GenerationError> {
        if self.heard.is_empty() {
            if self.events.recv_many(&mut self.buffer, AT_ONCE).await == 0 {
                return Err(GenerationError::CutOff);
            }
            self.heard.extend(self.buffer.drain(..));
        }
        let is_error = |event: &mut Event| {
            matches!(
                event,
                Event::Refused(..) | Event::TimedOut | Event::Lost(_) | Event::CutOff
            )
        };
        match self.heard.pop_front_if(is_error) {
            Some(Event::Refused(id, error)) => {
                self.end(id);
                Err(error.into())
            }
            Some(Event::TimedOut) => Err(GenerationError::TimedOut(self.app.options.timeout)),
            Some(Event::Lost(cause)) => {
                self.places.fill_with(|| None);
                Err(GenerationError::Lost(cause))
            }
            Some(Event::CutOff) => {
                self.places.fill_with(|| None);
                Err(GenerationError::CutOff)
            }
            _ => Ok(()),
        }
    }

    /// Says whether it had not ended.
    fn end(&mut self, id: RequestId) -> bool {
        self.places[(id - self.first) as usize].take().is_some()
    }

    fn cancel(&mut self, id: RequestId) {
        if self.end(id) {
            self.app.listeners.forget(id);
            let cancel = Command::Cancel(id, FinishReason::Cancelled);
            self.app.command(cancel);
        }
    }

    fn all_ended(&self) -> bool {
        self.places.iter().all(Option::is_none)
    }
}

impl Drop for Submitted {
    fn drop(&mut self) {
        self.deadline.abort();
        for id in (self.first..).take(self.places.len()) {
            self.cancel(id);
        }
        // Ends that were told and not heard.
        self.heard
            .extend(std::iter::from_fn(|| self.events.try_recv().ok()));
        for event in &self.heard {
            if let Event::Finished(finished) = event {
                self.app.metrics.ended(finished.reason);
            }
        }
    }
}

/// Why a choice ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    Stop,
    Length,
}

/// What happened to one choice of an answer.
#[derive(Debug)]
pub struct Piece {
    pub choice: usize,
    /// Whole characters that no stop string takes back; often empty.
    pub text: String,
    /// Characters of the choice before this token.
    pub offset: usize,
    /// None in a piece that only tells the end.
    pub token: Option<Token>,
    pub end: Option<End>,
}

/// The pieces of an answer's choices, as they come.
pub struct Generation<'a> {
    submitted: Submitted,
    /// Of each choice until it ends.
    texts: Vec<Option<OutputText<'a>>>,
    /// Characters of each choice so far.
    shown: Vec<usize>,
    /// Tokens so far.
    pub tokens: usize,
    /// What the engine measured of the choices that it ended.
    pub finished: Vec<Finished>,
}

impl<'a> Generation<'a> {
    pub fn new(submitted: Submitted, app: &'a App, stops: &'a StopStrings) -> Self {
        let text = |_| Some(OutputText::new(&app.model.tokenizer, stops));
        Self {
            texts: (0..submitted.places.len()).map(text).collect(),
            shown: vec![0; submitted.places.len()],
            submitted,
            tokens: 0,
            finished: Vec::new(),
        }
    }

    pub fn choices(&self) -> usize {
        self.texts.len()
    }

    /// The next piece; none after the end of all choices.
    pub async fn next(&mut self) -> Result<Option<Piece>, GenerationError> {
        loop {
            if self.submitted.all_ended() {
                return Ok(None);
            }
            self.submitted.hear().await?;
            let piece = match self.submitted.heard.pop_front() {
                Some(Event::Token(token)) => self.add(token)?,
                Some(Event::Finished(finished)) => self.finish(*finished)?,
                _ => None,
            };
            if piece.is_some() {
                return Ok(piece);
            }
        }
    }

    /// Whether `next` would not wait.
    pub fn is_ahead(&mut self) -> bool {
        let Submitted { events, heard, .. } = &mut self.submitted;
        if heard.is_empty() {
            heard.extend(events.try_recv());
        }
        !heard.is_empty() || self.submitted.all_ended()
    }

    fn add(&mut self, token: Token) -> Result<Option<Piece>, ModelError> {
        let choice = (token.request - self.submitted.first) as usize;
        // A stop string may have ended it before.
        let Some(text) = &mut self.texts[choice] else {
            return Ok(None);
        };
        self.tokens += 1;
        let offset = self.shown[choice] + text.held();
        let shown = text.push(token.id)?;
        let mut end = None;
        if text.is_stopped() {
            self.texts[choice] = None;
            let stop = Command::Cancel(token.request, FinishReason::Stop);
            // The engine then tells its end, with what it measured.
            self.submitted.app.command(stop);
            end = Some(End::Stop);
        }
        Ok(Some(self.piece(choice, offset, shown, Some(token), end)))
    }

    fn finish(&mut self, mut finished: Finished) -> Result<Option<Piece>, ModelError> {
        self.submitted.end(finished.id);
        let choice = (finished.id - self.submitted.first) as usize;
        let text = self.texts[choice].take();
        if text.is_none() {
            // The engine knows no stop strings, and may have gone on to the last token.
            finished.reason = FinishReason::Stop;
        }
        let end = match finished.reason {
            FinishReason::Stop => End::Stop,
            _ => End::Length,
        };
        self.submitted.app.metrics.ended(finished.reason);
        self.finished.push(finished);
        let rest = text.map(OutputText::finish).transpose()?;
        let offset = self.shown[choice];
        Ok(rest.map(|rest| self.piece(choice, offset, rest, None, Some(end))))
    }

    fn piece(
        &mut self,
        choice: usize,
        offset: usize,
        text: String,
        token: Option<Token>,
        end: Option<End>,
    ) -> Piece {
        self.shown[choice] += text.chars().count();
        Piece {
            choice,
            text,
            offset,
            token,
            end,
        }
    }
}
