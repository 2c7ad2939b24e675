//! What can be wrong with a model. Every message names the cause and the remedy in one line.

use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// `--model` names nothing that can be opened.
    #[error("model {asked:?}: {cause}; {remedy}")]
    Source {
        asked: String,
        cause: String,
        remedy: String,
    },
    /// A file is missing, unreadable or damaged as a whole.
    #[error("{path}: {cause}; {remedy}")]
    File {
        path: PathBuf,
        cause: String,
        remedy: String,
    },
    /// config.json asks for something that is not a model batchlab can run.
    #[error(
        "{path}: \"{key}\" is {found}, expected {expected}; copy the model's original file again, or \
         use another model"
    )]
    Config {
        path: PathBuf,
        key: String,
        found: String,
        expected: String,
    },
    /// One tensor of a weights file cannot be used.
    #[error("{path}: tensor {tensor:?} {cause}; {remedy}")]
    Tensor {
        path: PathBuf,
        tensor: String,
        cause: String,
        remedy: String,
    },
    /// The model was not trained on conversations, or its files do not say how they are written.
    #[error(
        "model {model:?} has no chat template; leave out --chat to have the prompt continued as it \
         stands, or use an instruct model"
    )]
    NoChatTemplate { model: String },
    /// The chat template refused the messages.
    #[error("{path}: the chat template failed ({cause}); change the messages, or leave out --chat")]
    ChatTemplate { path: PathBuf, cause: String },
    /// The tokenizer refused its input.
    #[error("the tokenizer failed: {0}; use the tokenizer.json that belongs to this model")]
    Tokenizer(String),
}

impl ModelError {
    pub(super) fn file(
        path: impl Into<PathBuf>,
        cause: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self::File {
            path: path.into(),
            cause: cause.into(),
            remedy: remedy.into(),
        }
    }

    pub(super) fn source(asked: &str, cause: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Source {
            asked: asked.to_owned(),
            cause: cause.into(),
            remedy: remedy.into(),
        }
    }
}
