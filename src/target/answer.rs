//! One streamed answer: when its tokens came, how many they were, and how it ended.

use std::time::Duration;

use reqwest::StatusCode;

use super::lines::Lines;
use super::wire::{Chunk, message};
use crate::metrics::Counted;
use crate::request::FinishReason;

/// Tokens beyond those that were asked for: servers count, and send, some more. Each is remembered.
const MOST_MORE: usize = 1024;

/// What has come of an answer so far.
#[derive(Debug)]
pub struct Answer {
    lines: Lines,
    state: State,
}

#[derive(Debug, Default)]
struct State {
    pieces: Vec<Piece>,
    /// Tokens so far, where a server told.
    told: Option<usize>,
    prompt_tokens: Option<usize>,
    reason: Option<FinishReason>,
    /// The status that an error in place of an answer stands for.
    refusal: Option<StatusCode>,
    done: bool,
    /// Tokens that were asked for.
    asked: usize,
}

/// A chunk that brought text, or tokens whose text is not whole yet.
#[derive(Debug, Clone, Copy)]
struct Piece {
    at: Duration,
    /// Tokens up to and with this one, where the chunk told.
    told: Option<usize>,
}

impl Answer {
    pub fn new(asked: usize) -> Self {
        let state = State {
            asked,
            ..State::default()
        };
        Self {
            lines: Lines::default(),
            state,
        }
    }

    /// Takes bytes that came at one moment. Errors: what is no answer, with the cause.
    pub fn push(&mut self, bytes: &[u8], at: Duration) -> Result<(), String> {
        let state = &mut self.state;
        self.lines.push(bytes, |line| state.line(line, at))
    }

    /// The connection has no more. Errors: the answer is not whole.
    pub fn finish(&mut self, at: Duration) -> Result<(), String> {
        let state = &mut self.state;
        self.lines.finish(|line| state.line(line, at))?;
        match (
            state.done || state.reason.is_some(),
            state.pieces.is_empty(),
        ) {
            (true, _) => Ok(()),
            (false, true) => Err("its answer has no server-sent events of a completion".into()),
            (false, false) => Err("its answer broke off".into()),
        }
    }

    /// `[DONE]` has come.
    pub fn is_done(&self) -> bool {
        self.state.done
    }

    pub fn chunks(&self) -> usize {
        self.state.pieces.len()
    }

    pub fn prompt_tokens(&self) -> Option<usize> {
        self.state.prompt_tokens
    }

    /// The status that its error stands for, where it came before any token: vLLM refuses a request in the
    /// stream of its answer.
    pub fn refusal(&self) -> Option<StatusCode> {
        self.state.refusal
    }

    /// Why it ended, of an answer that is whole.
    pub fn reason(&self) -> FinishReason {
        self.state.reason.unwrap_or(FinishReason::Stop)
    }

    /// When each token came, and how that is known. `end` is when all was over.
    pub fn token_times(&self, end: Duration) -> (Vec<Duration>, Counted) {
        let State { pieces, told, .. } = &self.state;
        match *told {
            None => (pieces.iter().map(|p| p.at).collect(), Counted::Chunks),
            Some(tokens) if pieces.is_empty() => (vec![end; tokens], Counted::AtTheEnd),
            Some(tokens) if pieces.iter().all(|p| p.told.is_some()) => {
                let mut times = Vec::with_capacity(tokens);
                for piece in pieces {
                    times.resize(piece.told.unwrap_or(0).max(times.len()), piece.at);
                }
                // A last one may have had no text.
                times.resize(tokens.max(times.len()), end);
                (times, Counted::EachChunk)
            }
            Some(tokens) => {
                // The last token came with the last chunk, whatever the division says.
                let piece = |token: usize| match token + 1 == tokens {
                    true => pieces.len() - 1,
                    false => token * pieces.len() / tokens,
                };
                let times = (0..tokens).map(|token| pieces[piece(token)].at);
                (times.collect(), Counted::AtTheEnd)
            }
        }
    }
}

impl State {
    fn line(&mut self, line: &[u8], at: Duration) -> Result<(), String> {
        let Some(data) = line.strip_prefix(b"data:") else {
            // Comments, names of events and the ends of events.
            return Ok(());
        };
        let data = data.trim_ascii();
        if data == b"[DONE]" {
            self.done = true;
        }
        if self.done || data.is_empty() {
            return Ok(());
        }
        let chunk: Chunk = serde_json::from_slice(data).map_err(|e| {
            format!(
                "an event of its answer is no completion ({e}): {}",
                message(data)
            )
        })?;
        if let Some(error) = chunk.error {
            let cause = message(data);
            if !self.pieces.is_empty() {
                return Err(format!("it broke off: {cause}"));
            }
            let code = error["code"].as_u64();
            let code = code.and_then(|code| u16::try_from(code).ok());
            self.refusal = code.and_then(|code| StatusCode::from_u16(code).ok());
            return Err(cause);
        }
        let counts = chunk.usage.unwrap_or_default();
        self.prompt_tokens = counts
            .prompt_tokens
            .map(|n| n as usize)
            .or(self.prompt_tokens);
        let told = counts.completion_tokens;
        let tokens = told.unwrap_or(0).max(self.pieces.len() + 1);
        if tokens > self.asked.saturating_add(MOST_MORE) {
            return Err(format!(
                "its answer has {tokens} tokens, and {} were asked for",
                self.asked
            ));
        }
        let more = told.unwrap_or(0) > self.told.unwrap_or(0) && chunk.choices.is_there;
        if chunk.choices.has_text || more {
            self.pieces.push(Piece { at, told });
        }
        self.told = told.or(self.told);
        self.reason = chunk.choices.reason.or(self.reason);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    /// Each event a millisecond after the one before.
    fn read(events: &[&str]) -> Result<Answer, String> {
        let mut answer = Answer::new(8);
        for (i, event) in events.iter().enumerate() {
            answer.push(format!("data: {event}\n\n").as_bytes(), ms(i as u64))?;
        }
        answer.finish(ms(100)).map(|()| answer)
    }

    fn times(events: &[&str]) -> (Vec<u64>, Counted) {
        let (times, counted) = read(events).unwrap().token_times(ms(100));
        (
            times.iter().map(|t| t.as_millis() as u64).collect(),
            counted,
        )
    }

    #[test]
    fn counts_of_each_chunk_are_taken_as_they_come() {
        let zero = r#"{"choices":[{"text":""}],"usage":{"completion_tokens":0}}"#;
        assert_eq!(read(&[zero, "[DONE]"]).unwrap().chunks(), 0);
        let (times, counted) = times(&[
            r#"{"choices":[{"text":""}],"usage":{"prompt_tokens":7,"completion_tokens":0}}"#,
            r#"{"choices":[{"text":"a"}],"usage":{"prompt_tokens":7,"completion_tokens":1}}"#,
            r#"{"choices":[{"text":""}],"usage":{"prompt_tokens":7,"completion_tokens":2}}"#,
            r#"{"choices":[{"text":"bcd"}],"usage":{"prompt_tokens":7,"completion_tokens":5}}"#,
            r#"{"choices":[{"text":"","finish_reason":"length"}],"usage":{"completion_tokens":6}}"#,
            r#"{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":6}}"#,
            "[DONE]",
        ]);
        assert_eq!(
            (times, counted),
            (vec![1, 2, 3, 3, 3, 4], Counted::EachChunk)
        );
    }

    #[test]
    fn counts_at_the_end_are_spread_over_the_chunks() {
        let text = r#"{"choices":[{"text":"x","finish_reason":null}],"usage":null}"#;
        let end = r#"{"choices":[{"text":"","finish_reason":"stop"}]}"#;
        let usage = |n| format!(r#"{{"choices":[],"usage":{{"completion_tokens":{n}}}}}"#);
        let spread = |n| times(&[text, text, text, end, &usage(n), "[DONE]"]);
        assert_eq!(spread(3), (vec![0, 1, 2], Counted::AtTheEnd));
        assert_eq!(spread(6), (vec![0, 0, 1, 1, 2, 2], Counted::AtTheEnd));
        assert_eq!(spread(2), (vec![0, 2], Counted::AtTheEnd));
        assert_eq!(
            times(&[end, &usage(2), "[DONE]"]),
            (vec![100, 100], Counted::AtTheEnd)
        );
        assert_eq!(times(&[text, text, end]), (vec![0, 1], Counted::Chunks));
    }

    #[test]
    fn what_is_not_whole_says_why() {
        let text = r#"{"choices":[{"text":"x"}]}"#;
        let cause = |events: &[&str]| read(events).unwrap_err();
        assert_eq!(cause(&[text]), "its answer broke off");
        assert!(cause(&[]).contains("no server-sent events"));
        assert!(cause(&[text, "garbage"]).contains("is no completion"));
        assert!(
            cause(&[text, r#"{"error":{"message":"out of memory"}}"#]).ends_with("out of memory")
        );
        for absurd in ["1048576", "18446744073709551615"] {
            let usage = format!(r#"{{"choices":[],"usage":{{"completion_tokens":{absurd}}}}}"#);
            let told = cause(&[text, &usage]);
            let why = format!("has {absurd} tokens, and 8 were asked");
            assert!(told.contains(&why), "{told}");
        }
        let prompt = r#"{"choices":[],"usage":{"prompt_tokens":18446744073709551615}}"#;
        assert!(cause(&[text, prompt]).contains("is no completion"));
        assert!(cause(&[text; 2000]).contains("and 8 were asked for"));
        let reason = |word: &str| {
            let end = format!(r#"{{"choices":[{{"text":"","finish_reason":"{word}"}}]}}"#);
            read(&[text, &end]).unwrap().reason()
        };
        assert_eq!(reason("length"), FinishReason::Length);
        assert_eq!(reason("stop"), FinishReason::Stop);
        assert_eq!(
            read(&[text, "[DONE]"]).unwrap().reason(),
            FinishReason::Stop
        );
    }
}
