//! The first contact: is there a server, which model, and what does it take.

use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::Client;
use serde::Deserialize;
use tokio::time::sleep;

use super::exchange::{End, Failure, Peer, STALL, broken, client, exchange};
use super::wire::{Dialect, PromptForm, Usage, message};
use super::{Address, TargetError};
use crate::clock::WallClock;
use crate::metrics::Counted;
use crate::model::Tokenizer;
use crate::request::Request;
use crate::sampling::Sampling;

/// For one answer, and for a server that loads to be ready.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two questions whether it is.
const RETRY: Duration = Duration::from_millis(500);
const FEW: usize = 2;

/// What is asked of a server.
pub struct Asked<'a> {
    pub address: Address,
    /// None: the first that the server names.
    pub model: Option<String>,
    pub api_key: Option<&'a str>,
    /// None: token ids, or text where the server refuses them.
    pub prompts: Option<PromptForm>,
    pub ignore_eos: bool,
    /// One of the sweep's prompts.
    pub prompt: Vec<u32>,
}

/// A server that answers, and what it takes.
#[derive(Debug)]
pub struct Contact {
    pub address: Address,
    pub dialect: Dialect,
    /// What a user should know of it.
    pub notes: Vec<String>,
}

/// Finds out by trying, from the most that could be wanted to the least.
pub fn contact(
    asked: Asked<'_>,
    tokenizer: &Arc<Tokenizer>,
    clock: WallClock,
) -> Result<Contact, TargetError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| TargetError::Client(e.to_string()))?;
    let client = client(&asked.address, asked.api_key)?;
    let tokenizer = Arc::clone(tokenizer);
    runtime.block_on(
        Probe {
            asked,
            client,
            tokenizer,
            clock,
            begin: Instant::now(),
        }
        .contact(),
    )
}

struct Probe<'a> {
    asked: Asked<'a>,
    client: Client,
    tokenizer: Arc<Tokenizer>,
    clock: WallClock,
    begin: Instant,
}

#[derive(Deserialize)]
struct Models {
    data: Vec<Named>,
}

#[derive(Deserialize)]
struct Named {
    id: String,
}

impl Probe<'_> {
    async fn contact(self) -> Result<Contact, TargetError> {
        let model = match &self.asked.model {
            Some(model) => model.clone(),
            None => self.first_model().await?,
        };
        let forms = match self.asked.prompts {
            Some(form) => vec![form],
            None => vec![PromptForm::Ids, PromptForm::Text],
        };
        let dialect = |prompts, usage, ignore_eos| Dialect {
            model: model.clone(),
            prompts,
            ignore_eos,
            usage,
        };
        let usages = [Usage::EachChunk, Usage::AtTheEnd, Usage::Never];
        let (mut refused, mut ids_refused) = (String::new(), None);
        for &prompts in &forms {
            for usage in usages {
                let dialect = dialect(prompts, usage, self.asked.ignore_eos);
                match self.attempt(&dialect).await? {
                    Ok(end) => return Ok(self.found(dialect, &end, ids_refused)),
                    Err(cause) => refused = cause,
                }
            }
            ids_refused = Some(refused.clone());
        }
        let without = |&form: &PromptForm| dialect(form, Usage::Never, false);
        if self.asked.ignore_eos
            && let Some(last) = forms.last().map(without)
            && self.attempt(&last).await?.is_ok()
        {
            let cause = format!("the server does not take the field ignore_eos ({refused})");
            let remedy = "give --ignore-eos false; outputs then end where the model ends them";
            return Err(self.unusable(cause, remedy));
        }
        let remedy = match forms.last() {
            Some(PromptForm::Text) => {
                "give --model with the server's own tokenizer, or another prompt"
            }
            _ => {
                "give --model with the server's own tokenizer, another prompt, or \
                 --target-prompts text"
            }
        };
        Err(self.unusable(format!("it refuses a completion ({refused})"), remedy))
    }

    fn found(&self, dialect: Dialect, end: &End, ids_refused: Option<String>) -> Contact {
        let mut notes = Vec::new();
        if let Some(cause) = ids_refused {
            notes.push(format!(
                "the server refuses token ids ({cause}): prompts are sent as text"
            ));
        }
        let (sent, counted) = (self.tokens_of(dialect.prompts), end.finished.prompt_len);
        if sent != self.asked.prompt.len() {
            notes.push(format!(
                "as text, a prompt of {} tokens has {sent}: the lengths of prompts are not quite those asked for",
                self.asked.prompt.len()
            ));
        }
        if sent != counted {
            notes.push(format!(
                "the server counts {counted} tokens in a prompt of {sent}: --model names whose \
                 tokenizer is used here"
            ));
        }
        if end.counted != Counted::EachChunk {
            notes.push(end.counted.to_string());
        }
        Contact {
            address: self.asked.address.clone(),
            dialect,
            notes,
        }
    }

    /// Of the prompt as it is sent, by the tokenizer here.
    fn tokens_of(&self, form: PromptForm) -> usize {
        let ids = &self.asked.prompt;
        let again = |text: String| self.tokenizer.encode(&text);
        match form {
            PromptForm::Ids => ids.len(),
            // One that is no text has been refused.
            PromptForm::Text => self
                .tokenizer
                .decode(ids)
                .and_then(again)
                .map_or(ids.len(), |ids| ids.len()),
        }
    }

    async fn first_model(&self) -> Result<String, TargetError> {
        let (status, body) = loop {
            let url = self.asked.address.of("models");
            let response = self.client.get(url).timeout(PATIENCE).send().await;
            let response = response.map_err(|e| self.absent(&broken(&e)))?;
            let status = response.status();
            if !self.waited(status.as_u16()).await {
                break (status, response.bytes().await.unwrap_or_default());
            }
        };
        if !status.is_success() {
            let cause = format!("GET /v1/models gives {status}: {}", message(&body));
            return Err(self.refused(status.as_u16(), cause, "give --target-model NAME"));
        }
        let models = serde_json::from_slice::<Models>(&body).ok();
        let first = models.and_then(|models| models.data.into_iter().next());
        first.map(|named| named.id).ok_or_else(|| {
            let cause = "GET /v1/models names no model".into();
            self.unusable(cause, "give --target-model NAME")
        })
    }

    /// Inside: whether the server took it, else what it said. Outside: nothing else can help.
    async fn attempt(&self, dialect: &Dialect) -> Result<Result<End, String>, TargetError> {
        let peer = Peer {
            address: self.asked.address.clone(),
            dialect: dialect.clone(),
            tokenizer: Arc::clone(&self.tokenizer),
            clock: self.clock,
            stall: STALL,
        };
        let request = Request {
            id: 0,
            prompt: self.asked.prompt.clone(),
            max_new_tokens: FEW,
            stop_tokens: Vec::new(),
            sampling: Sampling::GREEDY,
            logprobs: None,
            arrival: Duration::ZERO,
            timeout: Some(PATIENCE),
        };
        let mut end = loop {
            let end = exchange(&self.client, &peer, request.clone(), |_| {}).await;
            let status = end.failure.as_ref().and_then(|failure| failure.status);
            if !self.waited(status.unwrap_or(0)).await {
                break end;
            }
        };
        match end.failure.take() {
            None => Ok(Ok(end)),
            Some(Failure {
                status: None,
                cause,
            }) => Err(self.absent(&cause)),
            Some(Failure {
                status: Some(400 | 422),
                cause,
            }) => Ok(Err(cause)),
            Some(Failure {
                status: Some(status),
                cause,
            }) => {
                let remedy = "see that it serves /v1/completions, and check --target-model";
                Err(self.refused(status, cause, remedy))
            }
        }
    }

    /// Waits a moment for a server whose status says that it may be ready soon; says whether it did.
    async fn waited(&self, status: u16) -> bool {
        let may_be_ready = status == 503 && self.begin.elapsed() < PATIENCE;
        if may_be_ready {
            sleep(RETRY).await;
        }
        may_be_ready
    }

    fn absent(&self, cause: &str) -> TargetError {
        let cause = format!("no completion comes from there ({cause})");
        self.unusable(cause, "start the server, or check the address")
    }

    fn refused(&self, status: u16, cause: String, remedy: &str) -> TargetError {
        let remedy = match status {
            401 | 403 => "give --api-key, or set OPENAI_API_KEY",
            503 => "wait until the server is ready, then try again",
            _ => remedy,
        };
        self.unusable(cause, remedy)
    }

    fn unusable(&self, cause: String, remedy: &str) -> TargetError {
        TargetError::Unusable {
            url: self.asked.address.to_string(),
            cause,
            remedy: remedy.into(),
        }
    }
}
