//! What both endpoints ask about how an answer is generated.

use serde::Deserialize;
use serde_json::Value;

use super::error::ApiError;
use super::fields::Fields;
use crate::sampling::Sampling;
use crate::text::StopStrings;

/// Answers to one prompt, at most.
const MOST_CHOICES: u64 = 128;
/// As in OpenAI's API.
const MOST_STOPS: usize = 4;
/// Of a token: what OpenAI's chat gives.
pub const MOST_LOGPROBS: u64 = 20;

#[derive(Debug)]
pub struct Params {
    pub n: usize,
    /// None: as many as the endpoint's usual.
    pub max_tokens: Option<usize>,
    pub sampling: Sampling,
    /// Without one, every answer draws anew.
    pub seed: Option<u64>,
    pub stops: StopStrings,
    pub ignore_eos: bool,
    /// The stream, if the answer is one.
    pub stream: Option<StreamOptions>,
}

#[derive(Debug, Default, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamOptions {
    #[serde(default)]
    pub include_usage: bool,
    /// vLLM's: the usage so far with every chunk.
    #[serde(default)]
    pub continuous_usage_stats: bool,
}

impl Params {
    /// `limit_names` are the fields that bound the output; one of them may be given.
    pub fn take(fields: &mut Fields, limit_names: &[&str]) -> Result<Self, ApiError> {
        let stream: bool = fields.take("stream")?.unwrap_or(false);
        let options: Option<StreamOptions> = fields.take("stream_options")?;
        if options.is_some() && !stream {
            let message = "'stream_options' is for streams; add \"stream\": true";
            return Err(ApiError::field("stream_options", message));
        }
        let n = fields.number("n", |n| (1..=MOST_CHOICES).contains(n), "1 to 128")?;
        let seed: Option<i64> = fields.take("seed")?;
        Ok(Self {
            n: n.unwrap_or(1) as usize,
            max_tokens: max_tokens(fields, limit_names)?,
            sampling: sampling(fields)?,
            seed: seed.map(i64::cast_unsigned),
            stops: stops(fields)?,
            ignore_eos: fields.take("ignore_eos")?.unwrap_or(false),
            stream: stream.then(|| options.unwrap_or_default()),
        })
    }

    /// Of answer number `index`: those to one prompt differ, and a seed makes each of them the same
    /// again.
    pub fn sampling(&self, index: usize) -> Sampling {
        let seed = self.seed.unwrap_or_else(rand::random);
        Sampling {
            seed: seed.wrapping_add(index as u64),
            ..self.sampling
        }
    }
}

fn max_tokens(fields: &mut Fields, names: &[&str]) -> Result<Option<usize>, ApiError> {
    let mut found = None;
    for name in names {
        let at_least_one = |n: &u64| *n >= 1;
        let given = fields.number(name, at_least_one, "a whole number of at least 1")?;
        // More than any context holds is refused by the number of tokens.
        let given = given.map(|n| usize::try_from(n).unwrap_or(usize::MAX));
        if given.is_some() && found.is_some() {
            let message = format!("of {} give one", names.join(" and "));
            return Err(ApiError::field(name, message));
        }
        found = found.or(given);
    }
    Ok(found)
}

fn sampling(fields: &mut Fields) -> Result<Sampling, ApiError> {
    let temperature = fields.number(
        "temperature",
        |t| Sampling::is_temperature(*t) && *t <= 2.0,
        "0 (greedy), or 0.000001 to 2",
    )?;
    let top_p = fields.number("top_p", |p| *p > 0.0 && *p <= 1.0, "above 0 and up to 1")?;
    let penalty = |p: &f32| p.is_finite() && *p > 0.0;
    let top_k = fields.number(
        "top_k",
        |k| *k >= -1,
        "0 or -1 for all tokens, or a number of tokens",
    )?;
    Ok(Sampling {
        temperature: temperature.unwrap_or(1.0),
        top_p: top_p.unwrap_or(1.0),
        top_k: u32::try_from(top_k.unwrap_or(0).max(0i64)).unwrap_or(u32::MAX),
        repetition_penalty: fields
            .number("repetition_penalty", penalty, "a number above 0; 1 = none")?
            .unwrap_or(1.0),
        seed: 0,
    })
}

fn stops(fields: &mut Fields) -> Result<StopStrings, ApiError> {
    let list = match fields.value("stop") {
        None => Vec::new(),
        Some(Value::String(stop)) => vec![stop],
        Some(list) => serde_json::from_value(list)
            .map_err(|_| ApiError::field("stop", "'stop' is a text or a list of texts"))?,
    };
    if list.len() > MOST_STOPS {
        let message = format!("'stop' has {} texts; give up to {MOST_STOPS}", list.len());
        return Err(ApiError::field("stop", message));
    }
    StopStrings::new(list).map_err(|e| ApiError::field("stop", e.to_string()))
}
