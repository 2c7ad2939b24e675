//! Hugging Face's JSON files, config.json before all: typed look-ups whose errors name the file, the
//! key and what is expected.

use std::ops::RangeInclusive;
use std::path::Path;

use serde_json::{Map, Value};

use super::{Activation, ModelError};

/// Largest values taken for real; beyond them a config.json is damaged, and memory sizes computed
/// from it could overflow.
pub(super) mod most {
    pub const LAYERS: usize = 1 << 10;
    pub const CHANNELS: usize = 1 << 16;
    pub const HEAD_DIM: usize = 1 << 12;
    pub const MLP_WIDTH: usize = 1 << 18;
    pub const VOCAB: usize = 1 << 22;
    pub const POSITIONS: usize = 1 << 24;
}

/// Such a file, parsed, with the path that its errors name.
pub(super) struct Config<'a> {
    path: &'a Path,
    /// The key of this object in the one around it, with a dot; empty for the whole file.
    section: String,
    keys: Map<String, Value>,
}

impl<'a> Config<'a> {
    pub(super) fn parse(path: &'a Path, json: &[u8]) -> Result<Self, ModelError> {
        let cause = match serde_json::from_slice(json) {
            Ok(Value::Object(keys)) => {
                let section = String::new();
                return Ok(Self {
                    path,
                    section,
                    keys,
                });
            }
            Ok(_) => "is JSON but not an object".to_owned(),
            Err(e) => format!("is not valid JSON ({e})"),
        };
        let remedy = "copy the model's original file again";
        Err(ModelError::file(path, cause, remedy))
    }

    /// Every key, be its value null.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&String, &Value)> {
        self.keys.iter()
    }

    /// Whether a key is there, be it null.
    pub(super) fn has(&self, key: &str) -> bool {
        self.keys.contains_key(key)
    }

    /// The value of a key that is there and not null.
    pub(super) fn given(&self, key: &str) -> Option<&Value> {
        self.keys.get(key).filter(|value| !value.is_null())
    }

    pub(super) fn error(
        &self,
        key: &str,
        found: impl Into<String>,
        expected: impl Into<String>,
    ) -> ModelError {
        ModelError::Config {
            path: self.path.to_owned(),
            key: format!("{}{key}", self.section),
            found: found.into(),
            expected: expected.into(),
        }
    }

    pub(super) fn needed(&self, key: &str, expected: &str) -> Result<&Value, ModelError> {
        self.given(key)
            .ok_or_else(|| self.error(key, "missing", expected))
    }

    pub(super) fn one_of(&self, key: &str, known: &[&str]) -> Result<&str, ModelError> {
        let expected = format!("one of {}", known.join(", "));
        let value = self.needed(key, &expected)?;
        match value.as_str() {
            Some(text) if known.contains(&text) => Ok(text),
            _ => Err(self.error(key, value.to_string(), expected)),
        }
    }

    /// A whole number from 1 to `most`.
    pub(super) fn size(&self, key: &str, most: usize) -> Result<usize, ModelError> {
        let expected = format!("a whole number from 1 to {most}");
        let value = self.needed(key, &expected)?;
        match value.as_u64().and_then(|n| usize::try_from(n).ok()) {
            Some(n) if (1..=most).contains(&n) => Ok(n),
            _ => Err(self.error(key, value.to_string(), expected)),
        }
    }

    /// A whole number that divides the value of another key, given with its name.
    pub(super) fn divisor(&self, key: &str, of: (&str, usize)) -> Result<usize, ModelError> {
        let value = self.size(key, of.1)?;
        match of.1.is_multiple_of(value) {
            true => Ok(value),
            false => {
                let expected = format!("a divisor of {:?}, {}", of.0, of.1);
                Err(self.error(key, value.to_string(), expected))
            }
        }
    }

    /// The object of a key; none where the key is missing or null.
    pub(super) fn section(&self, key: &str) -> Result<Option<Self>, ModelError> {
        match self.given(key) {
            None => Ok(None),
            Some(Value::Object(keys)) => Ok(Some(Self {
                path: self.path,
                section: format!("{}{key}.", self.section),
                keys: keys.clone(),
            })),
            Some(other) => Err(self.error(key, other.to_string(), "an object")),
        }
    }

    /// A number in a range; `default`, if there is one, where the key is missing or null.
    pub(super) fn number(
        &self,
        key: &str,
        range: RangeInclusive<f32>,
        default: Option<f32>,
    ) -> Result<f32, ModelError> {
        if let (None, Some(default)) = (self.given(key), default) {
            return Ok(default);
        }
        let expected = format!("a number from {:?} to {:?}", range.start(), range.end());
        let value = self.needed(key, &expected)?;
        match value.as_f64().map(|number| number as f32) {
            Some(number) if range.contains(&number) => Ok(number),
            _ => Err(self.error(key, value.to_string(), expected)),
        }
    }

    /// What a norm adds to the mean square.
    pub(super) fn norm_eps(&self, key: &str, default: f32) -> Result<f32, ModelError> {
        self.number(key, 1e-20..=1.0, Some(default))
    }

    /// One of the activations that the runners have, by the names of Hugging Face.
    pub(super) fn activation(
        &self,
        key: &str,
        default: Activation,
    ) -> Result<Activation, ModelError> {
        if self.given(key).is_none() {
            return Ok(default);
        }
        let known = ["silu", "gelu_new", "gelu_pytorch_tanh", "gelu", "relu"];
        Ok(match self.one_of(key, &known)? {
            "silu" => Activation::Silu,
            "gelu" => Activation::GeluErf,
            "relu" => Activation::Relu,
            _ => Activation::GeluTanh,
        })
    }

    /// `eos_token_id`: one id or a list of ids; none where the key is missing or null.
    pub(super) fn eos_tokens(&self, vocab: usize) -> Result<Option<Vec<u32>>, ModelError> {
        let key = "eos_token_id";
        let ids = match self.given(key) {
            None => return Ok(None),
            Some(Value::Array(ids)) => ids.as_slice(),
            Some(id) => std::slice::from_ref(id),
        };
        let checked = |id: &Value| match id.as_u64() {
            Some(number) if number < vocab as u64 => Ok(number as u32),
            _ => {
                let expected = format!("token ids below \"vocab_size\", {vocab}");
                Err(self.error(key, id.to_string(), expected))
            }
        };
        ids.iter().map(checked).collect::<Result<_, _>>().map(Some)
    }

    /// True or false; `default` where the key is missing or null.
    pub(super) fn flag(&self, key: &str, default: bool) -> Result<bool, ModelError> {
        match self.given(key) {
            None => Ok(default),
            Some(Value::Bool(value)) => Ok(*value),
            Some(other) => Err(self.error(key, other.to_string(), "true or false")),
        }
    }

    /// Whether the weights are in bf16, by the key of transformers 4 or 5.
    pub(super) fn says_bf16(&self) -> bool {
        let value = self.given("dtype").or_else(|| self.given("torch_dtype"));
        value.is_some_and(|value| value == "bfloat16")
    }

    /// Refuses weights that are stored in another form than the compute type's.
    pub(super) fn unquantized(&self) -> Result<(), ModelError> {
        let key = "quantization_config";
        match self.given(key) {
            None => Ok(()),
            Some(found) => Err(self.error(key, found.to_string(), "none: unquantized weights")),
        }
    }
}
