//! A model's chat template: messages in, out comes the text that the model was trained on.
//!
//! Templates are Jinja, written for `apply_chat_template` of Hugging Face transformers. They get the
//! same variables here and run in the same environment ([`jinja`]).

mod files;
mod jinja;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use jiff::ZonedDateTime;
use minijinja::value::Serde;
use minijinja::{Environment, Value, context};
use serde::Serialize;

use super::ModelError;

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Message {
    /// Who speaks, in the template's words: `system`, `user`, `assistant`, …
    pub role: String,
    pub content: String,
}

impl Message {
    pub fn system(content: &str) -> Self {
        Self::of("system", content)
    }

    pub fn user(content: &str) -> Self {
        Self::of("user", content)
    }

    fn of(role: &str, content: &str) -> Self {
        Self {
            role: role.to_owned(),
            content: content.to_owned(),
        }
    }
}

/// Writes a conversation as the text that its model continues.
#[derive(Debug)]
pub struct ChatTemplate {
    /// Holds one template, [`jinja::NAME`].
    jinja: Environment<'static>,
    /// `bos_token`, `eos_token` and the like: variables of every template.
    special_tokens: BTreeMap<String, String>,
    /// The file the template is from.
    path: PathBuf,
}

impl ChatTemplate {
    /// Reads the template of a folder in Hugging Face layout; `None` if it has none. Errors: a
    /// damaged file, or a template that is not Jinja.
    pub(super) fn open(folder: &Path) -> Result<Option<Self>, ModelError> {
        let Some((path, source)) = files::template(folder)? else {
            return Ok(None);
        };
        Self::new(path, source, files::special_tokens(folder)?).map(Some)
    }

    /// Reads a template that stands alone in a Jinja file; it gets no special tokens but those that it
    /// writes itself. Errors: the file cannot be read, or is not Jinja.
    pub fn from_file(path: &Path) -> Result<Self, ModelError> {
        let source = files::source(path)?;
        Self::new(path.to_owned(), source, BTreeMap::new())
    }

    fn new(
        path: PathBuf,
        source: String,
        special_tokens: BTreeMap<String, String>,
    ) -> Result<Self, ModelError> {
        let jinja = jinja::environment(source).map_err(|e| {
            let cause = format!(
                "holds a chat template that is not valid ({})",
                jinja::cause(&e)
            );
            ModelError::file(&path, cause, files::REMEDY)
        })?;
        Ok(Self {
            jinja,
            special_tokens,
            path,
        })
    }

    /// The conversation as text, up to where the assistant's answer begins. It has its special tokens
    /// written out: encode it with [`super::Tokenizer::encode_rendered`]. Errors: the template refuses
    /// the messages, for example because roles do not alternate, renders nothing or does not end.
    pub fn render(&self, messages: &[Message]) -> Result<String, ModelError> {
        self.render_at(messages, ZonedDateTime::now())
    }

    /// Some templates write the date.
    fn render_at(&self, messages: &[Message], now: ZonedDateTime) -> Result<String, ModelError> {
        let variables = context! {
            messages => Value::from(Serde(messages)),
            add_generation_prompt => true,
            // Templates tell "no tools" from "never heard of tools".
            tools => (),
            documents => (),
            strftime_now => jinja::strftime(now),
            ..Value::from(Serde(&self.special_tokens))
        };
        let template = self.jinja.get_template(jinja::NAME);
        let cause = match template.and_then(|template| template.render(variables)) {
            Ok(text) if text.trim().is_empty() => "it rendered nothing".to_owned(),
            Ok(text) => return Ok(text),
            Err(e) => jinja::cause(&e),
        };
        Err(ModelError::ChatTemplate {
            path: self.path.clone(),
            cause,
        })
    }
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;
    use serde_json::Value as Json;

    use super::*;

    /// The fixtures hold what transformers makes of the same conversations
    /// (`scripts/render_chat_fixtures.py`).
    #[test]
    fn templates_render_as_in_transformers() {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/chat");
        for name in ["chatml", "llama3", "mistral", "python-in-jinja"] {
            let folder = fixtures.join(name);
            let json = std::fs::read(folder.join("rendered.json")).unwrap();
            let rendered: Json = serde_json::from_slice(&json).unwrap();
            let now: jiff::civil::DateTime = rendered["now"].as_str().unwrap().parse().unwrap();
            let now = now.to_zoned_datetime(TimeZone::UTC).unwrap();
            let template = ChatTemplate::open(&folder).unwrap().unwrap();
            for conversation in rendered["conversations"].as_array().unwrap() {
                let messages = messages(&conversation["messages"]);
                let text = template.render_at(&messages, now.clone());
                match conversation["error"].as_str() {
                    None => assert_eq!(text.unwrap(), conversation["text"], "{name}"),
                    Some(refusal) => {
                        let error = text.unwrap_err().to_string();
                        assert!(error.contains(refusal), "{name}: {error}");
                        assert!(error.contains("leave out --chat"), "{name}: {error}");
                        assert!(!error.contains('\n'), "{name}: {error}");
                    }
                }
            }
        }
    }

    fn messages(json: &Json) -> Vec<Message> {
        let message = |m: &Json| {
            let [role, content] = ["role", "content"].map(|key| m[key].as_str().unwrap());
            Message::of(role, content)
        };
        json.as_array().unwrap().iter().map(message).collect()
    }

    #[test]
    fn the_date_is_todays() {
        let folder = tempfile::tempdir().unwrap();
        let source = "{{ strftime_now('%Y-%m-%d') }}";
        std::fs::write(folder.path().join("chat_template.jinja"), source).unwrap();
        let template = ChatTemplate::open(folder.path()).unwrap().unwrap();
        let before = ZonedDateTime::now().date().to_string();
        let rendered = template.render(&[]).unwrap();
        let after = ZonedDateTime::now().date().to_string();
        assert!(before <= rendered && rendered <= after, "{rendered}");
    }
}
