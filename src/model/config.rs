//! Hugging Face's JSON files, config.json before all: typed look-ups whose errors name the file, the
//! key and what is expected.

use std::path::Path;

use serde_json::{Map, Value};

use super::ModelError;

/// Largest values taken for real; beyond them a config.json is damaged, and memory sizes computed
/// from it could overflow.
pub(super) mod most {
    pub const LAYERS: usize = 1 << 10;
    pub const CHANNELS: usize = 1 << 16;
    pub const MLP_WIDTH: usize = 1 << 18;
    pub const VOCAB: usize = 1 << 22;
    pub const POSITIONS: usize = 1 << 24;
}

/// Such a file, parsed, with the path that its errors name.
pub(super) struct Config<'a> {
    path: &'a Path,
    keys: Map<String, Value>,
}

impl<'a> Config<'a> {
    pub(super) fn parse(path: &'a Path, json: &[u8]) -> Result<Self, ModelError> {
        let cause = match serde_json::from_slice(json) {
            Ok(Value::Object(keys)) => return Ok(Self { path, keys }),
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
            key: key.to_owned(),
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

    /// True or false; `default` where the key is missing or null.
    pub(super) fn flag(&self, key: &str, default: bool) -> Result<bool, ModelError> {
        match self.given(key) {
            None => Ok(default),
            Some(Value::Bool(value)) => Ok(*value),
            Some(other) => Err(self.error(key, other.to_string(), "true or false")),
        }
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
