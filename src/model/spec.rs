//! The shape of a model, read from config.json.

use serde_json::Value;

use super::config::{Config, most};
use super::{ModelError, Rope};
use crate::kv::KvLayout;

/// The MLP's activation function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// GELU's tanh approximation, HF's `gelu_new` (Hendrycks & Gimpel 2016).
    GeluTanh,
    /// GELU by the error function, HF's `gelu`.
    GeluErf,
    Relu,
    /// x · sigmoid(x), also called swish (Elfwing et al. 2017).
    Silu,
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
            Self::Silu => x / (1.0 + (-x).exp()),
        }
    }
}

fn erf(x: f32) -> f32 {
    statrs::function::erf::erf(f64::from(x)) as f32
}

/// How the input of a block is normalised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormKind {
    /// Mean and deviation, weight and bias (Ba et al. 2016).
    LayerNorm,
    /// Root mean square and weight (Zhang & Sennrich 2019).
    RmsNorm,
}

/// How the model knows a token's position.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Positions {
    /// An embedding for each, added to the token's.
    Learned,
    /// Queries and keys are turned by an angle that grows with the position.
    Rotary(Rope),
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
    /// F, the inner width of the MLP: what its down projection reads.
    pub mlp_width: usize,
    /// V, tokens the head scores.
    pub vocab: usize,
    /// Positions the model was built for: the longest context.
    pub max_positions: usize,
    pub positions: Positions,
    pub norm: NormKind,
    pub norm_eps: f32,
    pub activation: Activation,
    /// The MLP is activation(gate) · up instead of activation(up) (Shazeer 2020).
    pub gated_mlp: bool,
    pub qkv_bias: bool,
    /// Of the attention's output projection.
    pub attn_out_bias: bool,
    pub mlp_bias: bool,
    /// The head is the token embedding.
    pub tied_head: bool,
    /// Tokens that end a sequence.
    pub eos_tokens: Vec<u32>,
}

impl ModelSpec {
    /// Width of the fused QKV projection, (Hq + 2·Hkv)·D.
    pub fn qkv_width(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    /// Width of the MLP's first product: F, or 2·F with the gate.
    pub fn mlp_up_width(&self) -> usize {
        match self.gated_mlp {
            true => 2 * self.mlp_width,
            false => self.mlp_width,
        }
    }

    /// How a runner lays out the KV slab, in pages of `page_size` positions.
    pub fn kv_layout(&self, page_size: usize, bytes_per_element: usize) -> KvLayout {
        KvLayout {
            layers: self.layers,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            page_size,
            bytes_per_element,
        }
    }

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
            positions: Positions::Learned,
            norm: NormKind::LayerNorm,
            norm_eps: 1e-5,
            activation: Activation::GeluTanh,
            gated_mlp: false,
            qkv_bias: true,
            attn_out_bias: true,
            mlp_bias: true,
            tied_head: true,
            eos_tokens: vec![50256],
        }
    }

    /// Reads GPT-2's config.json.
    pub(super) fn from_config(name: &str, config: &Config<'_>) -> Result<Self, ModelError> {
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
        config.unquantized()?;

        let channels = config.size("n_embd", most::CHANNELS)?;
        let heads = config.divisor("n_head", ("n_embd", channels))?;
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
            positions: Positions::Learned,
            norm: NormKind::LayerNorm,
            norm_eps: config.norm_eps()?,
            activation: config.activation()?,
            gated_mlp: false,
            qkv_bias: true,
            attn_out_bias: true,
            mlp_bias: true,
            tied_head: true,
            eos_tokens: config.eos_tokens(vocab)?,
        })
    }
}

/// What only GPT-2's config.json has.
impl Config<'_> {
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
