//! A model as data: its shape, its parameters, its tokenizer, and where they come from.

mod params;
mod spec;

pub use params::{Param, ParamData, seeded_unit};
pub use spec::{Activation, ModelSpec};

use std::path::PathBuf;

/// What is wrong with a model, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    #[error("{path}: {cause}; {remedy}")]
    File {
        path: PathBuf,
        cause: String,
        remedy: String,
    },
}

/// A model ready to be placed on a device.
#[derive(Debug)]
pub struct Model {
    pub spec: ModelSpec,
}

impl Model {
    /// The raw values of one parameter. Its shape and type are checked, and its values are finite.
    pub fn param(&self, _param: Param) -> Result<ParamData<'_>, ModelError> {
        todo!("checkpoint and dummy weights")
    }
}
