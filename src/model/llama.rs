//! The Llama family's sizes (Llama, Mistral, Qwen2): what planning memory needs. No runner computes
//! this family yet.

use super::ModelError;
use super::config::{Config, most};
use super::shape::ModelShape;

/// `model_type` in config.json.
pub(super) const FAMILIES: [&str; 3] = ["llama", "mistral", "qwen2"];

/// The widest head taken for real.
const HEAD_DIM: usize = 1 << 12;

/// A gated MLP, rotary positions and RMS norms, in numbers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Llama {
    layers: usize,
    channels: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    mlp_width: usize,
    vocab: usize,
    max_positions: usize,
    /// The head is the token embedding.
    tied_head: bool,
    qkv_bias: bool,
    /// Of the attention's output projection.
    out_bias: bool,
    mlp_bias: bool,
}

/// What most of the family has.
const PLAIN: Llama = Llama {
    layers: 32,
    channels: 4096,
    heads: 32,
    kv_heads: 32,
    head_dim: 128,
    mlp_width: 11008,
    vocab: 32000,
    max_positions: 2048,
    tied_head: false,
    qkv_bias: false,
    out_bias: false,
    mlp_bias: false,
};

/// What may follow `dummy:`.
pub(super) const SHAPES: [(&str, Llama); 5] = [
    ("llama-7b", PLAIN),
    (
        "llama-3.1-8b",
        Llama {
            kv_heads: 8,
            mlp_width: 14336,
            vocab: 128_256,
            max_positions: 131_072,
            ..PLAIN
        },
    ),
    (
        "tinyllama-1.1b",
        Llama {
            layers: 22,
            channels: 2048,
            kv_heads: 4,
            head_dim: 64,
            mlp_width: 5632,
            ..PLAIN
        },
    ),
    (
        "smollm2-135m",
        Llama {
            layers: 30,
            channels: 576,
            heads: 9,
            kv_heads: 3,
            head_dim: 64,
            mlp_width: 1536,
            vocab: 49152,
            max_positions: 8192,
            tied_head: true,
            ..PLAIN
        },
    ),
    (
        "qwen2.5-0.5b",
        Llama {
            layers: 24,
            channels: 896,
            heads: 14,
            kv_heads: 2,
            head_dim: 64,
            mlp_width: 4864,
            vocab: 151_936,
            max_positions: 32768,
            tied_head: true,
            qkv_bias: true,
            ..PLAIN
        },
    ),
];

impl Llama {
    /// Reads the config.json of one of [`FAMILIES`], with Hugging Face's defaults.
    pub(super) fn from_config(config: &Config<'_>) -> Result<Self, ModelError> {
        let family = config.one_of("model_type", &FAMILIES)?;
        config.unquantized()?;
        let channels = config.size("hidden_size", most::CHANNELS)?;
        let heads = match config.given("head_dim") {
            Some(_) => config.size("num_attention_heads", most::CHANNELS)?,
            None => config.divisor("num_attention_heads", ("hidden_size", channels))?,
        };
        let kv_heads = match config.given("num_key_value_heads") {
            None if family == "llama" => heads,
            _ => config.divisor("num_key_value_heads", ("num_attention_heads", heads))?,
        };
        let attention_bias = family == "llama" && config.flag("attention_bias", false)?;
        Ok(Self {
            layers: config.size("num_hidden_layers", most::LAYERS)?,
            channels,
            heads,
            kv_heads,
            head_dim: match config.given("head_dim") {
                Some(_) => config.size("head_dim", HEAD_DIM)?,
                None => channels / heads,
            },
            mlp_width: config.size("intermediate_size", most::MLP_WIDTH)?,
            vocab: config.size("vocab_size", most::VOCAB)?,
            max_positions: config.size("max_position_embeddings", most::POSITIONS)?,
            tied_head: config.flag("tie_word_embeddings", false)?,
            qkv_bias: attention_bias || family == "qwen2",
            out_bias: attention_bias,
            mlp_bias: family == "llama" && config.flag("mlp_bias", false)?,
        })
    }

    pub(super) fn shape(&self, name: &str) -> ModelShape {
        ModelShape {
            name: name.to_owned(),
            layers: self.layers,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            max_positions: self.max_positions,
            parameters: self.parameters(),
            spec: None,
        }
    }

    /// Elements of all parameters: embedding and head, and in each layer QKV and output projection,
    /// gate, up and down projection and two norms; last one norm more.
    fn parameters(&self) -> u64 {
        let n = |size: usize| size as u64;
        let given = |bias: bool, size: u64| if bias { size } else { 0 };
        let (c, f) = (n(self.channels), n(self.mlp_width));
        let (d, q) = (n(self.head_dim), n(self.heads) * n(self.head_dim));
        let qkv = q + 2 * n(self.kv_heads) * d;
        let biases =
            given(self.qkv_bias, qkv) + given(self.out_bias, c) + given(self.mlp_bias, 2 * f + c);
        let layer = c * qkv + q * c + 3 * c * f + 2 * c + biases;
        let heads = if self.tied_head { 1 } else { 2 };
        heads * n(self.vocab) * c + n(self.layers) * layer + c
    }
}
