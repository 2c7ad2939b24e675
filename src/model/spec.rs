//! The shape of a model, read from config.json.

use std::path::Path;

use serde_json::{Map, Value};

use super::ModelError;

/// The MLP's activation function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// GELU's tanh approximation, HF's `gelu_new` (Hendrycks & Gimpel 2016).
    GeluTanh,
    /// GELU by the error function, HF's `gelu`.
    GeluErf,
    Relu,
}

impl Activation {
    pub fn apply(self, x: f32) -> f32 {
        match self {
            Self::GeluTanh => {
                let inner = 0.797_884_6 * (x + 0.044_715 * x * x * x);
                0.5 * x * (1.0 + inner.tanh())
            }
            Self::GeluErf => 0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2)),
            Self::Relu => x.max(0.0),
        }
    }
}

fn erf(x: f32) -> f32 {
    statrs::function::erf::erf(f64::from(x)) as f32
}

/// Everything a forward pass must know about a model besides its parameters.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelSpec {
    /// What the user called it.
    pub name: String,
    pub layers: usize,
    /// C, the width of the residual stream.
    pub channels: usize,
    /// Hq, query heads.
    pub heads: usize,
    /// Hkv, key and value heads.
    pub kv_heads: usize,
    /// D, the width of a head.
    pub head_dim: usize,
    /// F, the inner width of the MLP.
    pub mlp_width: usize,
    /// V, tokens the head scores.
    pub vocab: usize,
    /// Positions the model was built for: the longest context.
    pub max_positions: usize,
    pub norm_eps: f32,
    pub activation: Activation,
    /// Tokens that end a sequence.
    pub eos_tokens: Vec<u32>,
}

impl ModelSpec {
    /// Width of the fused QKV projection, (Hq + 2·Hkv)·D.
    pub fn qkv_width(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }
}

/// Largest values taken for real; beyond them a config.json is damaged, and memory sizes computed
/// from it could overflow.
mod most {
    pub const LAYERS: usize = 1 << 10;
    pub const CHANNELS: usize = 1 << 16;
    pub const MLP_WIDTH: usize = 1 << 18;
    pub const VOCAB: usize = 1 << 22;
    pub const POSITIONS: usize = 1 << 24;
}

impl ModelSpec {
    /// GPT-2's shape with its usual vocabulary, 1024 positions and heads of 64.
    pub(super) fn gpt2(name: &str, layers: usize, channels: usize) -> Self {
        Self {
            name: name.to_owned(),
            layers,
            channels,
            heads: channels / 64,
            kv_heads: channels / 64,
            head_dim: 64,
            mlp_width: 4 * channels,
            vocab: 50257,
            max_positions: 1024,
            norm_eps: 1e-5,
            activation: Activation::GeluTanh,
            eos_tokens: vec![50256],
        }
    }

    /// Reads Hugging Face's config.json. `path` is only named in errors.
    pub(super) fn from_config(name: &str, path: &Path, json: &[u8]) -> Result<Self, ModelError> {
        let config = Config::parse(path, json)?;
        config.one_of("model_type", &["gpt2"])?;
        // Settings that change the arithmetic and that this forward pass does not have.
        for (key, only) in [
            ("scale_attn_weights", true),
            ("scale_attn_by_inverse_layer_idx", false),
            ("add_cross_attention", false),
            ("tie_word_embeddings", true),
        ] {
            if let Some(found) = config.given(key)
                && found != &Value::Bool(only)
            {
                return Err(config.error(
                    key,
                    found.to_string(),
                    format!("{only}, the only one supported"),
                ));
            }
        }
        if let Some(found) = config.given("quantization_config") {
            return Err(config.error(
                "quantization_config",
                found.to_string(),
                "none: unquantized weights",
            ));
        }

        let channels = config.size("n_embd", most::CHANNELS)?;
        let heads = config.size("n_head", channels)?;
        if !channels.is_multiple_of(heads) {
            let expected = format!("a divisor of \"n_embd\", {channels}");
            return Err(config.error("n_head", heads.to_string(), expected));
        }
        let vocab = config.size("vocab_size", most::VOCAB)?;
        Ok(Self {
            name: name.to_owned(),
            layers: config.size("n_layer", most::LAYERS)?,
            channels,
            heads,
            kv_heads: heads,
            head_dim: channels / heads,
            mlp_width: match config.given("n_inner") {
                Some(_) => config.size("n_inner", most::MLP_WIDTH)?,
                None => 4 * channels,
            },
            vocab,
            max_positions: config.size("n_positions", most::POSITIONS)?,
            norm_eps: config.norm_eps()?,
            activation: config.activation()?,
            eos_tokens: config.eos_tokens(vocab)?,
        })
    }
}

/// A parsed config.json, with the path that its errors name.
struct Config<'a> {
    path: &'a Path,
    keys: Map<String, Value>,
}

impl<'a> Config<'a> {
    fn parse(path: &'a Path, json: &[u8]) -> Result<Self, ModelError> {
        let remedy = "copy the model's original config.json again";
        match serde_json::from_slice(json) {
            Ok(Value::Object(keys)) => Ok(Self { path, keys }),
            Ok(_) => Err(ModelError::file(path, "is JSON but not an object", remedy)),
            Err(e) => Err(ModelError::file(
                path,
                format!("is not valid JSON ({e})"),
                remedy,
            )),
        }
    }

    /// The value of a key that is there and not null.
    fn given(&self, key: &str) -> Option<&Value> {
        self.keys.get(key).filter(|value| !value.is_null())
    }

    fn error(
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

    fn needed(&self, key: &str, expected: &str) -> Result<&Value, ModelError> {
        self.given(key)
            .ok_or_else(|| self.error(key, "missing", expected))
    }

    fn one_of(&self, key: &str, known: &[&str]) -> Result<&str, ModelError> {
        let expected = format!("one of {}", known.join(", "));
        let value = self.needed(key, &expected)?;
        match value.as_str() {
            Some(text) if known.contains(&text) => Ok(text),
            _ => Err(self.error(key, value.to_string(), expected)),
        }
    }

    /// A whole number from 1 to `most`.
    fn size(&self, key: &str, most: usize) -> Result<usize, ModelError> {
        let expected = format!("a whole number from 1 to {most}");
        let value = self.needed(key, &expected)?;
        match value.as_u64().and_then(|n| usize::try_from(n).ok()) {
            Some(n) if (1..=most).contains(&n) => Ok(n),
            _ => Err(self.error(key, value.to_string(), expected)),
        }
    }

    fn norm_eps(&self) -> Result<f32, ModelError> {
        let key = "layer_norm_epsilon";
        let Some(value) = self.given(key) else {
            return Ok(1e-5);
        };
        match value.as_f64() {
            Some(eps) if eps > 0.0 && eps < 1.0 => Ok(eps as f32),
            _ => Err(self.error(key, value.to_string(), "a number between 0 and 1")),
        }
    }

    fn activation(&self) -> Result<Activation, ModelError> {
        let key = "activation_function";
        if self.given(key).is_none() {
            return Ok(Activation::GeluTanh);
        }
        let known = ["gelu_new", "gelu_pytorch_tanh", "gelu", "relu"];
        Ok(match self.one_of(key, &known)? {
            "gelu" => Activation::GeluErf,
            "relu" => Activation::Relu,
            _ => Activation::GeluTanh,
        })
    }

    /// One id, a list of ids, or none.
    fn eos_tokens(&self, vocab: usize) -> Result<Vec<u32>, ModelError> {
        let key = "eos_token_id";
        let ids = match self.given(key) {
            None => return Ok(Vec::new()),
            Some(Value::Array(ids)) => ids.as_slice(),
            Some(id) => std::slice::from_ref(id),
        };
        let below_vocab = |id: &Value| id.as_u64().filter(|&id| id < vocab as u64);
        ids.iter()
            .map(|id| {
                let expected = || format!("token ids below \"vocab_size\", {vocab}");
                below_vocab(id)
                    .map(|id| id as u32)
                    .ok_or_else(|| self.error(key, id.to_string(), expected()))
            })
            .collect()
    }
}
