//! GPT-2: its config.json and its tensors.

use serde_json::Value;

use super::config::{Config, most};
use super::family::Tensors;
use super::stored::Order;
use super::{Activation, ModelError, ModelSpec, NormKind, Param, Positions};

pub(super) const MODEL_TYPE: &str = "gpt2";

/// Reads config.json, with Hugging Face's defaults.
pub(super) fn spec(name: &str, config: &Config<'_>) -> Result<ModelSpec, ModelError> {
    // Settings that change the arithmetic and that this forward pass does not have.
    for (key, only) in [
        ("scale_attn_weights", true),
        ("scale_attn_by_inverse_layer_idx", false),
        ("add_cross_attention", false),
    ] {
        if let Some(found) = config.given(key)
            && found != &Value::Bool(only)
        {
            let expected = format!("{only}, the only one supported");
            return Err(config.error(key, found.to_string(), expected));
        }
    }
    let channels = config.size("n_embd", most::CHANNELS)?;
    let heads = config.divisor("n_head", ("n_embd", channels))?;
    let vocab = config.size("vocab_size", most::VOCAB)?;
    Ok(ModelSpec {
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
        norm_eps: config.norm_eps("layer_norm_epsilon", 1e-5)?,
        activation: config.activation("activation_function", Activation::GeluTanh)?,
        gated_mlp: false,
        qkv_bias: true,
        attn_out_bias: true,
        mlp_bias: true,
        tied_head: config.flag("tie_word_embeddings", true)?,
        eos_tokens: config.eos_tokens(vocab)?.unwrap_or_default(),
        bf16_weights: config.says_bf16(),
    })
}

/// GPT-2's matrices are stored as `[in, out]`, queries, keys and values in one.
pub(super) fn tensors(param: Param, spec: &ModelSpec) -> Tensors {
    let name = match param {
        Param::TokenEmbedding => "wte.weight".into(),
        Param::PositionEmbedding => "wpe.weight".into(),
        Param::FinalNormWeight => "ln_f.weight".into(),
        Param::FinalNormBias => "ln_f.bias".into(),
        Param::Head => "lm_head.weight".into(),
        Param::AttnNormWeight(l) => format!("h.{l}.ln_1.weight"),
        Param::AttnNormBias(l) => format!("h.{l}.ln_1.bias"),
        Param::QkvWeight(l) => format!("h.{l}.attn.c_attn.weight"),
        Param::QkvBias(l) => format!("h.{l}.attn.c_attn.bias"),
        Param::AttnOutWeight(l) => format!("h.{l}.attn.c_proj.weight"),
        Param::AttnOutBias(l) => format!("h.{l}.attn.c_proj.bias"),
        Param::MlpNormWeight(l) => format!("h.{l}.ln_2.weight"),
        Param::MlpNormBias(l) => format!("h.{l}.ln_2.bias"),
        Param::MlpUpWeight(l) => format!("h.{l}.mlp.c_fc.weight"),
        Param::MlpUpBias(l) => format!("h.{l}.mlp.c_fc.bias"),
        Param::MlpDownWeight(l) => format!("h.{l}.mlp.c_proj.weight"),
        Param::MlpDownBias(l) => format!("h.{l}.mlp.c_proj.bias"),
    };
    Tensors {
        stored: vec![(name, param.shape(spec))],
        order: Order::AsStored,
    }
}
