//! A model as data: its shape, its parameters, its tokenizer, and where they come from.

mod chat;
mod config;
mod contained;
mod dummy;
mod element;
mod error;
mod family;
mod gpt2;
mod hub;
mod llama;
mod params;
mod rope;
mod safetensors_file;
mod source;
mod spec;
mod stored;
mod tokenizer;
mod weights;

pub use chat::{ChatTemplate, Message};
pub use element::Element;
pub use error::ModelError;
pub use params::{Param, ParamData, seeded_unit};
pub use rope::{Rope, RopeScaling};
pub use spec::{Activation, ModelSpec, NormKind, Positions};
pub use stored::Stored;
pub use tokenizer::{TextStream, Tokenizer};

use std::path::PathBuf;

use weights::Checkpoint;

/// A model ready to be placed on a device.
#[derive(Debug)]
pub struct Model {
    pub spec: ModelSpec,
    pub tokenizer: Tokenizer,
    weights: Weights,
    /// In Hugging Face layout; none if the model is part of the binary.
    folder: Option<PathBuf>,
}

#[derive(Debug)]
enum Weights {
    Stored(Checkpoint),
    Seeded { seed: u64 },
}

impl Model {
    /// Reads the chat template, which only a conversation needs. Errors: there is none, or its file is
    /// damaged.
    pub fn chat_template(&self) -> Result<ChatTemplate, ModelError> {
        let found = self.folder.as_deref().map(ChatTemplate::open).transpose()?;
        found.flatten().ok_or_else(|| ModelError::NoChatTemplate {
            model: self.spec.name.clone(),
        })
    }

    /// The values of one parameter, as they are stored: shape and type are checked, and every value
    /// is finite. A seeded parameter is only described, the runner makes it.
    pub fn param(&self, param: Param) -> Result<ParamData<'_>, ModelError> {
        match &self.weights {
            Weights::Stored(checkpoint) => checkpoint.param(param).map(ParamData::Stored),
            Weights::Seeded { seed } => Ok(param.seeded(*seed)),
        }
    }
}
