//! A model as data: its shape, its parameters, its tokenizer, and where they come from.

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

pub use element::Element;
pub use error::ModelError;
pub use params::{Param, ParamData, seeded_unit};
pub use rope::{Rope, RopeScaling};
pub use spec::{Activation, ModelSpec, NormKind, Positions};
pub use stored::Stored;
pub use tokenizer::{TextStream, Tokenizer};

use weights::Checkpoint;

/// A model ready to be placed on a device.
#[derive(Debug)]
pub struct Model {
    pub spec: ModelSpec,
    pub tokenizer: Tokenizer,
    weights: Weights,
}

#[derive(Debug)]
enum Weights {
    Stored(Checkpoint),
    Seeded { seed: u64 },
}

impl Model {
    /// The values of one parameter, as they are stored: shape and type are checked, and every value
    /// is finite. A seeded parameter is only described, the runner makes it.
    pub fn param(&self, param: Param) -> Result<ParamData<'_>, ModelError> {
        match &self.weights {
            Weights::Stored(checkpoint) => checkpoint.param(param).map(ParamData::Stored),
            Weights::Seeded { seed } => Ok(param.seeded(*seed)),
        }
    }
}
