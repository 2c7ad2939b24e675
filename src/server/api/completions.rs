//! `POST /v1/completions`

use std::sync::Arc;

use serde::{Serialize, Serializer};

use super::answer::{Choice, Job, Usage, Wording};
use super::error::ApiError;
use super::fields::Fields;
use super::params::{MOST_LOGPROBS, Params};
use super::prompts::{Fitted, Prompt};
use super::{places, prompts, served_model, size};
use crate::model::Tokenizer;
use crate::request::Token;
use crate::server::app::{App, unix_seconds};
use crate::server::generation::{End, Piece};

/// As in OpenAI's API.
const USUAL_MAX_TOKENS: usize = 16;

/// A request as it came, read.
pub struct Asked {
    prompts: Vec<Prompt>,
    params: Params,
    logprobs: Option<usize>,
    echo: bool,
}

impl Asked {
    pub fn read(app: &App, mut fields: Fields) -> Result<Self, ApiError> {
        served_model(app, &mut fields)?;
        let prompts = prompts::prompts(fields.need("prompt")?)?;
        let params = Params::take(&mut fields, &["max_tokens"])?;
        let logprobs = fields.number("logprobs", |n| *n <= MOST_LOGPROBS, "0 to 20")?;
        let echo = fields.take("echo")?.unwrap_or(false);
        fields.end()?;
        if echo && logprobs.is_some() {
            let message = "'echo' with 'logprobs' is not supported: the prompt's log-probabilities are not computed";
            return Err(ApiError::field("echo", message).code("unsupported_parameter"));
        }
        Ok(Self {
            prompts,
            params,
            logprobs: logprobs.map(|n: u64| n as usize),
            echo,
        })
    }

    pub async fn job(self, app: &Arc<App>) -> Result<Job<Completion>, ApiError> {
        let Self {
            prompts,
            params,
            logprobs,
            echo,
        } = self;
        let places = places(app, prompts.len() * params.n)?;
        let usual = Some(USUAL_MAX_TOKENS);
        let prompts = prompts::fitted(app, "prompt", prompts, params.max_tokens, usual).await?;
        let (prompts, echoed) = match echo {
            true => texts(app, prompts).await?,
            false => (prompts, Vec::new()),
        };
        let bytes = size::echo(&echoed, params.n)?
            + size::logprobs("logprobs", logprobs, &prompts, params.n)?;
        let id = format!("cmpl-{:032x}", rand::random::<u128>());
        Ok(Job {
            wording: Completion {
                id: id.clone(),
                created: unix_seconds(),
                model: app.options.model_name.clone(),
                n: params.n,
                echoed,
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

/// The prompts, and the text of each.
async fn texts(app: &App, prompts: Vec<Fitted>) -> Result<(Vec<Fitted>, Vec<String>), ApiError> {
    let model = Arc::clone(&app.model);
    let decode = move || {
        let text = |(ids, _): &Fitted| model.tokenizer.decode(ids);
        let texts = prompts.iter().map(text).collect::<Result<_, _>>()?;
        Ok((prompts, texts))
    };
    super::done(app.turns.take(decode).await)
}

pub struct Completion {
    id: String,
    created: u64,
    model: String,
    n: usize,
    /// The prompts' texts, where they are part of the answer.
    echoed: Vec<String>,
}

#[derive(Serialize)]
struct Reply<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: Vec<Text>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Usage>,
}

#[derive(Serialize)]
struct Text {
    index: usize,
    text: String,
    logprobs: Option<Logprobs>,
    finish_reason: Option<End>,
}

/// Lists of equal length.
#[derive(Default, Serialize)]
struct Logprobs {
    tokens: Vec<String>,
    token_logprobs: Vec<f32>,
    top_logprobs: Vec<Top>,
    text_offset: Vec<usize>,
}

/// The most probable tokens, the best first, and the one that was drawn. Of several of one name, as parts of
/// characters are, the best.
struct Top(Vec<(String, f32)>);

impl Serialize for Top {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, logprob)| (name, logprob)))
    }
}

impl Logprobs {
    /// `offset` is the token's place in the choice's text.
    fn push(
        &mut self,
        token: &Token,
        offset: usize,
        tokenizer: &Tokenizer,
    ) -> Result<(), ApiError> {
        if let Some(logprobs) = &token.logprobs {
            // The drawn token's name is always there, as OpenAI has it.
            let chosen = (token.id, logprobs.chosen);
            let mut top: Vec<(String, f32)> = Vec::with_capacity(logprobs.top.len() + 1);
            for &(id, logprob) in logprobs.top.iter().chain([&chosen]) {
                let name = tokenizer.name(id)?;
                if !top.iter().any(|(known, _)| known == &name) {
                    top.push((name, logprob));
                }
            }
            self.tokens.push(tokenizer.name(token.id)?);
            self.token_logprobs.push(logprobs.chosen);
            self.top_logprobs.push(Top(top));
            self.text_offset.push(offset);
        }
        Ok(())
    }

    /// Of some tokens; none where they have none.
    fn of<'t>(
        tokens: impl IntoIterator<Item = (&'t Token, usize)>,
        tokenizer: &Tokenizer,
    ) -> Result<Option<Self>, ApiError> {
        let mut all = Self::default();
        for (token, offset) in tokens {
            all.push(token, offset, tokenizer)?;
        }
        Ok((!all.tokens.is_empty()).then_some(all))
    }
}

impl Completion {
    fn reply(&self, choices: Vec<Text>, usage: Option<Usage>) -> Reply<'_> {
        Reply {
            id: &self.id,
            object: "text_completion",
            created: self.created,
            model: &self.model,
            choices,
            usage,
        }
    }

    fn echoed(&self, choice: usize) -> &str {
        self.echoed.get(choice / self.n).map_or("", String::as_str)
    }
}

impl Wording for Completion {
    fn opening(&self, choice: usize) -> Option<impl Serialize> {
        let echoed = self.echoed(choice);
        let text = || Text {
            index: choice,
            text: echoed.to_owned(),
            logprobs: None,
            finish_reason: None,
        };
        (!echoed.is_empty()).then(|| self.reply(vec![text()], None))
    }

    fn chunk(
        &self,
        piece: Piece,
        usage: Option<Usage>,
        tokenizer: &Tokenizer,
    ) -> Result<impl Serialize, ApiError> {
        let token = piece.token.as_ref().map(|token| (token, piece.offset));
        let text = Text {
            index: piece.choice,
            logprobs: Logprobs::of(token, tokenizer)?,
            text: piece.text,
            finish_reason: piece.end,
        };
        Ok(self.reply(vec![text], usage))
    }

    fn usage_chunk(&self, usage: Usage) -> impl Serialize {
        self.reply(Vec::new(), Some(usage))
    }

    fn whole(
        &self,
        choices: Vec<Choice>,
        usage: Usage,
        tokenizer: &Tokenizer,
    ) -> Result<impl Serialize, ApiError> {
        let text = |(index, choice): (usize, Choice)| {
            let echoed = self.echoed(index);
            let tokens = choice.tokens.iter().map(|(token, offset)| (token, *offset));
            Ok(Text {
                index,
                logprobs: Logprobs::of(tokens, tokenizer)?,
                text: format!("{echoed}{}", choice.text),
                finish_reason: choice.end,
            })
        };
        let texts = choices.into_iter().enumerate().map(text);
        Ok(self.reply(texts.collect::<Result<_, ApiError>>()?, Some(usage)))
    }
}
