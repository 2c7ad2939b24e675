//! `POST /v1/chat/completions`

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::answer::{Choice, Job, Usage, Wording};
use super::error::ApiError;
use super::fields::{Fields, is_nothing};
use super::params::{MOST_LOGPROBS, Params};
use super::prompts::Prompt;
use super::{places, prompts, served_model, size};
use crate::model::{Message, Tokenizer};
use crate::request::Token;
use crate::server::app::{App, unix_seconds};
use crate::server::generation::{End, Piece};

/// A request as it came, read.
pub struct Asked {
    messages: Vec<Message>,
    params: Params,
    logprobs: Option<usize>,
}

impl Asked {
    pub fn read(app: &App, mut fields: Fields) -> Result<Self, ApiError> {
        served_model(app, &mut fields)?;
        let messages = messages(fields.need("messages")?)?;
        let params = Params::take(&mut fields, &["max_completion_tokens", "max_tokens"])?;
        let logprobs = fields.take("logprobs")?.unwrap_or(false);
        let top = fields.number("top_logprobs", |n| *n <= MOST_LOGPROBS, "0 to 20")?;
        fields.end()?;
        if top.is_some() && !logprobs {
            let message = "'top_logprobs' needs \"logprobs\": true";
            return Err(ApiError::field("top_logprobs", message));
        }
        Ok(Self {
            messages,
            params,
            logprobs: logprobs.then(|| top.unwrap_or(0u64) as usize),
        })
    }

    pub async fn job(self, app: &Arc<App>) -> Result<Job<Chat>, ApiError> {
        let Self {
            messages,
            params,
            logprobs,
        } = self;
        let places = places(app, params.n)?;
        let prompts = vec![Prompt::Ids(render(app, messages).await?)];
        let prompts = prompts::fitted(app, "messages", prompts, params.max_tokens, None).await?;
        let bytes = size::logprobs("top_logprobs", logprobs, &prompts, params.n)?;
        let id = format!("chatcmpl-{:032x}", rand::random::<u128>());
        Ok(Job {
            wording: Chat {
                id: id.clone(),
                created: unix_seconds(),
                model: app.options.model_name.clone(),
            },
            id,
            prompts,
            places,
            logprobs,
            bytes,
            params,
        })
    }
}

/// A conversation by the model's template.
async fn render(app: &Arc<App>, messages: Vec<Message>) -> Result<Vec<u32>, ApiError> {
    let worker = Arc::clone(app);
    let render = move || {
        let app = worker;
        let template = app.chat_template.as_ref()?;
        let text = template.render(&messages)?;
        prompts::short_enough(&app, "messages", &text)?;
        Ok(app.model.tokenizer.encode_rendered(&text)?)
    };
    super::done(app.turns.take(render).await)
}

/// One message as OpenAI's API takes it: its content is a text, or parts that are texts.
#[derive(Deserialize)]
struct Said {
    role: String,
    content: Option<Value>,
    /// What is not supported.
    #[serde(flatten)]
    rest: Map<String, Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TextPart {
    #[serde(rename = "type")]
    _kind: PartKind,
    text: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum PartKind {
    Text,
}

fn messages(value: Value) -> Result<Vec<Message>, ApiError> {
    let wrong = |message: String| ApiError::field("messages", message);
    let said: Vec<Said> = serde_json::from_value(value)
        .map_err(|e| wrong(format!("'messages' is a list of {{role, content}}: {e}")))?;
    if said.is_empty() {
        return Err(wrong("'messages' is empty; give at least one".into()));
    }
    let message = |said: Said| match said.rest.iter().find(|(_, value)| !is_nothing(value)) {
        None => Ok(Message {
            role: said.role,
            content: content(said.content)?,
        }),
        Some((name, _)) => {
            let message = format!("'{name}' of a message is not supported; leave it out");
            Err(wrong(message).code("unsupported_parameter"))
        }
    };
    said.into_iter().map(message).collect()
}

fn content(value: Option<Value>) -> Result<String, ApiError> {
    let wrong = |why: String| {
        let form =
            "a message's 'content' is a text, or a list of {\"type\": \"text\", \"text\": …}";
        ApiError::field("messages", format!("{form}{why}"))
    };
    match value {
        Some(Value::String(text)) => Ok(text),
        Some(list @ Value::Array(_)) => {
            let parts: Vec<TextPart> =
                serde_json::from_value(list).map_err(|e| wrong(format!(": {e}")))?;
            let texts: Vec<String> = parts.into_iter().map(|part| part.text).collect();
            // As vLLM joins them.
            Ok(texts.join("\n"))
        }
        _ => Err(wrong(String::new())),
    }
}

pub struct Chat {
    id: String,
    created: u64,
    model: String,
}

#[derive(Serialize)]
struct Reply<'a, C> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: Vec<C>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Usage>,
}

#[derive(Serialize)]
struct Whole {
    index: usize,
    message: Answered,
    logprobs: Option<Logprobs>,
    finish_reason: Option<End>,
}

#[derive(Serialize)]
struct Answered {
    role: &'static str,
    content: String,
}

#[derive(Serialize)]
struct Part {
    index: usize,
    delta: Delta,
    logprobs: Option<Logprobs>,
    finish_reason: Option<End>,
}

#[derive(Serialize)]
struct Delta {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
}

#[derive(Serialize)]
struct Logprobs {
    content: Vec<TokenLogprob>,
}

#[derive(Serialize)]
struct TokenLogprob {
    #[serde(flatten)]
    token: Named,
    top_logprobs: Vec<Named>,
}

#[derive(Serialize)]
struct Named {
    token: String,
    logprob: f32,
    /// None of a token that is a part of a character.
    bytes: Option<Vec<u8>>,
}

impl Named {
    fn new(id: u32, logprob: f32, tokenizer: &Tokenizer) -> Result<Self, ApiError> {
        let token = tokenizer.name(id)?;
        let whole = !token.contains(char::REPLACEMENT_CHARACTER);
        Ok(Self {
            bytes: whole.then(|| token.clone().into_bytes()),
            token,
            logprob,
        })
    }
}

impl Logprobs {
    /// Of some tokens; none where they have none.
    fn of<'t>(
        tokens: impl IntoIterator<Item = &'t Token>,
        tokenizer: &Tokenizer,
    ) -> Result<Option<Self>, ApiError> {
        let mut content = Vec::new();
        for token in tokens {
            if let Some(logprobs) = &token.logprobs {
                let top = logprobs.top.iter();
                content.push(TokenLogprob {
                    token: Named::new(token.id, logprobs.chosen, tokenizer)?,
                    top_logprobs: top
                        .map(|&(id, logprob)| Named::new(id, logprob, tokenizer))
                        .collect::<Result<_, _>>()?,
                });
            }
        }
        Ok((!content.is_empty()).then_some(Self { content }))
    }
}

impl Chat {
    fn reply<C>(
        &self,
        object: &'static str,
        choices: Vec<C>,
        usage: Option<Usage>,
    ) -> Reply<'_, C> {
        Reply {
            id: &self.id,
            object,
            created: self.created,
            model: &self.model,
            choices,
            usage,
        }
    }

    fn part(&self, part: Part, usage: Option<Usage>) -> Reply<'_, Part> {
        self.reply("chat.completion.chunk", vec![part], usage)
    }
}

impl Wording for Chat {
    fn opening(&self, choice: usize) -> Option<impl Serialize> {
        let part = Part {
            index: choice,
            delta: Delta {
                role: Some("assistant"),
                content: Some(String::new()),
            },
            logprobs: None,
            finish_reason: None,
        };
        Some(self.part(part, None))
    }

    fn chunk(
        &self,
        piece: Piece,
        usage: Option<Usage>,
        tokenizer: &Tokenizer,
    ) -> Result<impl Serialize, ApiError> {
        let part = Part {
            index: piece.choice,
            logprobs: Logprobs::of(&piece.token, tokenizer)?,
            delta: Delta {
                role: None,
                content: (!piece.text.is_empty()).then_some(piece.text),
            },
            finish_reason: piece.end,
        };
        Ok(self.part(part, usage))
    }

    fn usage_chunk(&self, usage: Usage) -> impl Serialize {
        self.reply::<Part>("chat.completion.chunk", Vec::new(), Some(usage))
    }

    fn whole(
        &self,
        choices: Vec<Choice>,
        usage: Usage,
        tokenizer: &Tokenizer,
    ) -> Result<impl Serialize, ApiError> {
        let whole = |(index, choice): (usize, Choice)| {
            Ok(Whole {
                index,
                logprobs: Logprobs::of(choice.tokens.iter().map(|(token, _)| token), tokenizer)?,
                message: Answered {
                    role: "assistant",
                    content: choice.text,
                },
                finish_reason: choice.end,
            })
        };
        let choices = choices.into_iter().enumerate().map(whole);
        let choices = choices.collect::<Result<_, ApiError>>()?;
        Ok(self.reply("chat.completion", choices, Some(usage)))
    }
}
