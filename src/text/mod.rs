//! The text of a request as users see it: it comes in whole characters and ends before a stop string.

mod stop_strings;

pub use stop_strings::{EmptyStopString, StopStream, StopStrings};

use crate::model::{ModelError, TextStream, Tokenizer};

/// Tokens of one request in, text to show out.
#[derive(Debug)]
pub struct OutputText<'a> {
    decoded: TextStream<'a>,
    shown: StopStream<'a>,
}

impl<'a> OutputText<'a> {
    pub fn new(tokenizer: &'a Tokenizer, stops: &'a StopStrings) -> Self {
        Self {
            decoded: tokenizer.stream(),
            shown: stops.stream(),
        }
    }

    /// Adds a token and returns the text that is now certain, which may be empty.
    pub fn push(&mut self, token: u32) -> Result<String, ModelError> {
        Ok(self.shown.push(&self.decoded.push(token)?))
    }

    /// Whole characters that are held back, since a stop string may begin with them.
    pub fn held(&self) -> usize {
        self.shown.held()
    }

    /// A stop string has come: there is no more text, and the request may be cancelled.
    pub fn is_stopped(&self) -> bool {
        self.shown.is_stopped()
    }

    /// The text still held back when the tokens end.
    pub fn finish(mut self) -> Result<String, ModelError> {
        let last = self.shown.push(&self.decoded.finish()?);
        Ok(last + &self.shown.finish())
    }
}
