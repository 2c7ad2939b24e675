//! From what a client wrote to token ids that fit the model's context.

use std::sync::Arc;

use serde_json::Value;

use super::error::ApiError;
use crate::server::app::App;

/// Prompts of one request, at most.
const MOST_PROMPTS: usize = 1024;

/// A prompt as OpenAI's API takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prompt {
    Text(String),
    Ids(Vec<u32>),
}

/// A prompt's token ids, and how many more are asked for.
pub type Fitted = (Vec<u32>, usize);

/// A text, a list of texts, token ids, or a list of those.
pub fn prompts(value: Value) -> Result<Vec<Prompt>, ApiError> {
    let wrong = || {
        let message =
            "'prompt' is a text, a list of texts, a list of token ids, or a list of such lists";
        ApiError::field("prompt", message)
    };
    let prompts = match value {
        Value::String(text) => vec![Prompt::Text(text)],
        Value::Array(list) if list.iter().any(Value::is_number) => vec![Prompt::Ids(ids(list)?)],
        Value::Array(list) => {
            let one = |value| match value {
                Value::String(text) => Ok(Prompt::Text(text)),
                Value::Array(list) => ids(list).map(Prompt::Ids),
                _ => Err(wrong()),
            };
            list.into_iter().map(one).collect::<Result<_, _>>()?
        }
        _ => return Err(wrong()),
    };
    match prompts.len() {
        0 => Err(ApiError::field(
            "prompt",
            "'prompt' is empty; give at least one",
        )),
        n if n > MOST_PROMPTS => {
            let message = format!("'prompt' has {n} prompts; give up to {MOST_PROMPTS}");
            Err(ApiError::field("prompt", message))
        }
        _ => Ok(prompts),
    }
}

fn ids(list: Vec<Value>) -> Result<Vec<u32>, ApiError> {
    let id = |value: Value| {
        let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
        id.ok_or_else(|| ApiError::field("prompt", format!("'prompt': {value} is no token id")))
    };
    list.into_iter().map(id).collect()
}

/// Token ids of each prompt, which came in `field`, with the number of tokens to generate: `max_tokens`, or `usual`, or as many as
/// the context has left.
pub async fn fitted(
    app: &Arc<App>,
    field: &'static str,
    prompts: Vec<Prompt>,
    max_tokens: Option<usize>,
    usual: Option<usize>,
) -> Result<Vec<Fitted>, ApiError> {
    let context = app.context();
    let fit = |ids: Vec<u32>| {
        if ids.is_empty() {
            let message = "a prompt is empty; give at least one token";
            return Err(ApiError::field(field, message));
        }
        let left = context.saturating_sub(ids.len());
        let wanted = max_tokens.or_else(|| usual.map(|n| n.min(left.max(1))));
        let wanted = wanted.unwrap_or(left.max(1));
        match wanted <= left {
            true => Ok((ids, wanted)),
            false => {
                let message = format!(
                    "the context is {context} tokens; the prompt has {} and {wanted} more are asked for: \
                     shorten the prompt or lower max_tokens",
                    ids.len()
                );
                Err(ApiError::field(field, message).code("context_length_exceeded"))
            }
        }
    };
    let mut fitted = Vec::with_capacity(prompts.len());
    for prompt in prompts {
        let encoder = Arc::clone(app);
        let ids = super::done(app.turns.take(move || encode(&encoder, prompt)).await)?;
        // The rest is not read where one does not fit.
        fitted.push(fit(ids)?);
    }
    Ok(fitted)
}

/// Refuses a text that is too long to be worth counting its tokens.
pub fn short_enough(app: &App, param: &str, text: &str) -> Result<(), ApiError> {
    let context = app.context();
    match app.model.tokenizer.surely_exceeds(text, context) {
        false => Ok(()),
        true => {
            let message = format!(
                "the context is {context} tokens, fewer than a text of {} bytes can have: shorten it",
                text.len()
            );
            Err(ApiError::field(param, message).code("context_length_exceeded"))
        }
    }
}

fn encode(app: &App, prompt: Prompt) -> Result<Vec<u32>, ApiError> {
    match prompt {
        Prompt::Text(text) => {
            short_enough(app, "prompt", &text)?;
            Ok(app.model.tokenizer.encode(&text)?)
        }
        Prompt::Ids(ids) => {
            let vocab = app.model.spec.vocab;
            match ids.iter().find(|&&id| id as usize >= vocab) {
                None => Ok(ids),
                Some(id) => Err(ApiError::field(
                    "prompt",
                    format!("token id {id} is not in the vocabulary of {vocab}"),
                )),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn prompts_come_in_four_forms() {
        let text = |t: &str| Prompt::Text(t.into());
        assert_eq!(prompts(json!("a")).unwrap(), [text("a")]);
        assert_eq!(prompts(json!(["a", "b"])).unwrap(), [text("a"), text("b")]);
        assert_eq!(prompts(json!([1, 2])).unwrap(), [Prompt::Ids(vec![1, 2])]);
        assert_eq!(prompts(json!([[1], [2]])).unwrap().len(), 2);
        for wrong in [
            json!(1),
            json!([]),
            json!({}),
            json!([1, "a"]),
            json!([-1]),
            json!([1.5]),
            json!([null]),
            json!([4294967296u64]),
        ] {
            assert_eq!(
                prompts(wrong.clone()).unwrap_err().param.as_deref(),
                Some("prompt"),
                "{wrong}"
            );
        }
    }
}
