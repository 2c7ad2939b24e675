//! What is written to and read from `/v1/completions`.

use std::fmt;

use serde::de::{Error, IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::request::FinishReason;

/// How prompts are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PromptForm {
    /// Token ids: exactly the tokens that are meant.
    Ids,
    Text,
}

impl fmt::Display for PromptForm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ids => "ids",
            Self::Text => "text",
        })
    }
}

/// What a server takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dialect {
    pub model: String,
    pub prompts: PromptForm,
    /// vLLM's and llama.cpp's: go on to the output length.
    pub ignore_eos: bool,
    pub usage: Usage,
}

/// Whether a server is asked how many tokens there were.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    /// With every chunk, as vLLM tells.
    EachChunk,
    AtTheEnd,
    Never,
}

#[derive(Serialize)]
struct Body<'a> {
    model: &'a str,
    prompt: Prompt<'a>,
    max_tokens: usize,
    temperature: u8,
    stream: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    ignore_eos: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_options: Option<StreamOptions>,
}

#[derive(Serialize)]
#[serde(untagged)]
pub enum Prompt<'a> {
    Ids(&'a [u32]),
    Text(String),
}

#[derive(Serialize)]
struct StreamOptions {
    include_usage: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    continuous_usage_stats: Option<bool>,
}

impl Dialect {
    /// Greedy, streamed.
    pub fn body(
        &self,
        prompt: Prompt<'_>,
        max_tokens: usize,
    ) -> Result<Vec<u8>, serde_json::Error> {
        let options = |each: Option<bool>| StreamOptions {
            include_usage: true,
            continuous_usage_stats: each,
        };
        serde_json::to_vec(&Body {
            model: &self.model,
            prompt,
            max_tokens,
            temperature: 0,
            stream: true,
            ignore_eos: self.ignore_eos.then_some(true),
            stream_options: match self.usage {
                Usage::EachChunk => Some(options(Some(true))),
                Usage::AtTheEnd => Some(options(None)),
                Usage::Never => None,
            },
        })
    }
}

/// What matters of one event; it borrows nothing and allocates nothing but errors.
#[derive(Debug, Default, Deserialize)]
pub struct Chunk {
    #[serde(default)]
    pub choices: FirstChoice,
    #[serde(default)]
    pub usage: Option<Counts>,
    #[serde(default)]
    pub error: Option<Value>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub struct Counts {
    /// Sums of these stay far from overflow.
    #[serde(default)]
    pub prompt_tokens: Option<u32>,
    #[serde(default)]
    pub completion_tokens: Option<usize>,
}

/// `choices[0]`, where there is one.
#[derive(Debug, Default)]
pub struct FirstChoice {
    pub is_there: bool,
    pub has_text: bool,
    pub reason: Option<FinishReason>,
}

impl<'de> Deserialize<'de> for FirstChoice {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct List;
        impl<'de> Visitor<'de> for List {
            type Value = FirstChoice;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of choices")
            }
            fn visit_unit<E: Error>(self) -> Result<FirstChoice, E> {
                Ok(FirstChoice::default())
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<FirstChoice, A::Error> {
                let Some(first) = list.next_element::<Choice>()? else {
                    return Ok(FirstChoice::default());
                };
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(FirstChoice {
                    is_there: true,
                    has_text: first.text.0,
                    reason: first.finish_reason.0,
                })
            }
        }
        from.deserialize_any(List)
    }
}

#[derive(Default, Deserialize)]
struct Choice {
    #[serde(default)]
    text: HasText,
    #[serde(default)]
    finish_reason: Reason,
}

/// Whether a string has anything in it.
#[derive(Default)]
struct HasText(bool);

#[derive(Default)]
struct Reason(Option<FinishReason>);

/// Reads a string or null.
struct Word<T>(fn(&str) -> T, fn() -> T);

impl<'de, T> Visitor<'de> for Word<T> {
    type Value = T;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or null")
    }
    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        Ok(self.0(text))
    }
    fn visit_unit<E: Error>(self) -> Result<T, E> {
        Ok(self.1())
    }
}

impl<'de> Deserialize<'de> for HasText {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Word(|text| Self(!text.is_empty()), Self::default))
    }
}

impl<'de> Deserialize<'de> for Reason {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let reason = |text: &str| match text {
            "length" => Self(Some(FinishReason::Length)),
            "abort" | "cancelled" | "error" => Self(Some(FinishReason::Failed)),
            _ => Self(Some(FinishReason::Stop)),
        };
        from.deserialize_any(Word(reason, Self::default))
    }
}

/// The message of an error as servers write it, else the beginning of the text.
pub fn message(body: &[u8]) -> String {
    let text = match serde_json::from_slice::<Value>(body) {
        Ok(value) => {
            let found = [
                &value["error"]["message"],
                &value["message"],
                &value["detail"],
                &value["error"],
            ];
            let found = found.into_iter().find(|v| !v.is_null()).unwrap_or(&value);
            found
                .as_str()
                .map_or_else(|| found.to_string(), String::from)
        }
        Err(_) => String::from_utf8_lossy(body).into_owned(),
    };
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(200) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None if line.is_empty() => "no message".into(),
        None => line,
    }
}
