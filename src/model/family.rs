//! The model families: how `model_type` in config.json makes files of different kinds one
//! [`ModelSpec`] and one set of [`Param`]s.

use super::config::Config;
use super::stored::Order;
use super::{ModelError, ModelSpec, Param, gpt2, llama};

/// How a checkpoint names and lays out its tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    Gpt2,
    /// Llama, Mistral and Qwen2.
    Llama,
}

/// The tensors that a parameter is made of.
#[derive(Debug)]
pub(super) struct Tensors {
    /// Name, without [`Family::prefix`], and shape.
    pub stored: Vec<(String, Vec<usize>)>,
    pub order: Order,
}

impl Family {
    /// Reads config.json of any family.
    pub fn read(name: &str, config: &Config<'_>) -> Result<(Self, ModelSpec), ModelError> {
        let known: Vec<&str> = [gpt2::MODEL_TYPE]
            .into_iter()
            .chain(llama::MODEL_TYPES)
            .collect();
        let model_type = config.one_of("model_type", &known)?;
        config.unquantized()?;
        Ok(match model_type {
            gpt2::MODEL_TYPE => (Self::Gpt2, gpt2::spec(name, config)?),
            _ => (Self::Llama, llama::spec(name, model_type, config)?),
        })
    }

    /// What the names of the body's tensors may begin with.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Gpt2 => "transformer.",
            Self::Llama => "model.",
        }
    }

    pub fn tensors(self, param: Param, spec: &ModelSpec) -> Tensors {
        match self {
            Self::Gpt2 => gpt2::tensors(param, spec),
            Self::Llama => llama::tensors(param, spec),
        }
    }

    /// Whether a tensor of this name, without the prefix, belongs to a layer. Buffers such as
    /// attention masks and rotary frequencies do not: the forward pass makes them.
    pub fn in_layer(self, name: &str) -> bool {
        let (layer, buffers): (&str, &[&str]) = match self {
            Self::Gpt2 => ("h.", &[".attn.bias", ".attn.masked_bias"]),
            Self::Llama => ("layers.", &[".rotary_emb.inv_freq"]),
        };
        name.starts_with(layer) && !buffers.iter().any(|buffer| name.ends_with(buffer))
    }
}
