//! The Llama family (Llama, Mistral, Qwen2): its config.json and its tensors.

use super::config::{Config, most};
use super::family::Tensors;
use super::stored::Order;
use super::{Activation, ModelError, ModelSpec, NormKind, Param, Positions, Rope, RopeScaling};

pub(super) const MODEL_TYPES: [&str; 3] = ["llama", "mistral", "qwen2"];

/// Mistral's `sliding_window` where config.json has none.
const MISTRAL_WINDOW: usize = 4096;

/// Reads the config.json of one of [`MODEL_TYPES`], with Hugging Face's defaults.
pub(super) fn spec(
    name: &str,
    model_type: &str,
    config: &Config<'_>,
) -> Result<ModelSpec, ModelError> {
    let channels = config.size("hidden_size", most::CHANNELS)?;
    let (heads, head_dim) = heads(config, channels)?;
    let vocab = config.size("vocab_size", most::VOCAB)?;
    let is_llama = model_type == "llama";
    let attention_bias = is_llama && config.flag("attention_bias", false)?;
    Ok(ModelSpec {
        name: name.to_owned(),
        layers: config.size("num_hidden_layers", most::LAYERS)?,
        channels,
        heads,
        kv_heads: match config.given("num_key_value_heads") {
            None if is_llama => heads,
            _ => config.divisor("num_key_value_heads", ("num_attention_heads", heads))?,
        },
        head_dim,
        mlp_width: config.size("intermediate_size", most::MLP_WIDTH)?,
        vocab,
        max_positions: max_positions(model_type, config)?,
        positions: Positions::Rotary(rope(config)?),
        norm: NormKind::RmsNorm,
        norm_eps: config.norm_eps("rms_norm_eps", 1e-6)?,
        activation: config.activation("hidden_act", Activation::Silu)?,
        gated_mlp: true,
        qkv_bias: attention_bias || model_type == "qwen2",
        attn_out_bias: attention_bias,
        mlp_bias: is_llama && config.flag("mlp_bias", false)?,
        tied_head: config.flag("tie_word_embeddings", false)?,
        eos_tokens: config.eos_tokens(vocab)?.unwrap_or_default(),
        bf16_weights: config.says_bf16(),
    })
}

/// Query heads and their width: the model's width in equal parts, unless it is given.
fn heads(config: &Config<'_>, channels: usize) -> Result<(usize, usize), ModelError> {
    let (heads, head_dim) = match config.given("head_dim") {
        Some(_) => (
            config.size("num_attention_heads", most::CHANNELS)?,
            config.size("head_dim", most::HEAD_DIM)?,
        ),
        None => {
            let heads = config.divisor("num_attention_heads", ("hidden_size", channels))?;
            (heads, channels / heads)
        }
    };
    match head_dim.is_multiple_of(2) {
        true => Ok((heads, head_dim)),
        false => {
            let expected = "an even width: rotary positions turn it in pairs";
            Err(config.error("head_dim", head_dim.to_string(), expected))
        }
    }
}

/// The longest context. A sliding window limits it: attention to all that went before, which is what
/// the runners compute, is the same up to there.
fn max_positions(model_type: &str, config: &Config<'_>) -> Result<usize, ModelError> {
    let positions = config.size("max_position_embeddings", most::POSITIONS)?;
    let key = "sliding_window";
    let slides = match model_type {
        // Null means none; where the key is missing it is Hugging Face's default.
        "mistral" if !config.has(key) => return Ok(positions.min(MISTRAL_WINDOW)),
        "mistral" => true,
        "qwen2" => config.flag("use_sliding_window", false)?,
        _ => false,
    };
    match config.given(key) {
        Some(_) if slides => Ok(positions.min(config.size(key, most::POSITIONS)?)),
        _ => Ok(positions),
    }
}

/// `rope_scaling` beside `rope_theta`, or since transformers 5 `rope_parameters` with both in one.
fn rope(config: &Config<'_>) -> Result<Rope, ModelError> {
    turns_whole_heads(config)?;
    let theta = config.number("rope_theta", 1.0..=1e12, Some(10_000.0))?;
    let scaling = match config.section("rope_scaling")? {
        None => config.section("rope_parameters")?,
        scaling => scaling,
    };
    let Some(scaling) = scaling else {
        return Ok(Rope {
            theta,
            scaling: RopeScaling::Default,
        });
    };
    turns_whole_heads(&scaling)?;
    same_in_all_layers(&scaling)?;
    Ok(Rope {
        theta: scaling.number("rope_theta", 1.0..=1e12, Some(theta))?,
        scaling: rope_scaling(&scaling)?,
    })
}

/// Refuses positions that turn a part of each head only.
fn turns_whole_heads(config: &Config<'_>) -> Result<(), ModelError> {
    let key = "partial_rotary_factor";
    match config.given(key) {
        Some(factor) if factor.as_f64() != Some(1.0) => {
            let expected = "1: positions that turn whole heads";
            Err(config.error(key, factor.to_string(), expected))
        }
        _ => Ok(()),
    }
}

/// Refuses an object for each kind of layer.
fn same_in_all_layers(scaling: &Config<'_>) -> Result<(), ModelError> {
    match scaling.entries().find(|(_, value)| value.is_object()) {
        Some((key, found)) => {
            let expected = "a number or a text: the same positions in all layers";
            Err(scaling.error(key, found.to_string(), expected))
        }
        None => Ok(()),
    }
}

fn rope_scaling(config: &Config<'_>) -> Result<RopeScaling, ModelError> {
    // Older files call it `type`.
    let key = match config.given("rope_type") {
        None => "type",
        Some(_) => "rope_type",
    };
    let kind = match config.given(key) {
        None => "default",
        Some(_) => config.one_of(key, &["default", "linear", "llama3"])?,
    };
    if kind == "default" {
        return Ok(RopeScaling::Default);
    }
    let factor = config.number("factor", 1.0..=1e6, None)?;
    if kind == "linear" {
        return Ok(RopeScaling::Linear { factor });
    }
    let low_freq_factor = config.number("low_freq_factor", 1e-6..=1e6, None)?;
    Ok(RopeScaling::Llama3 {
        factor,
        low_freq_factor,
        // What lies between the two is blended, so they may not meet.
        high_freq_factor: config.number(
            "high_freq_factor",
            low_freq_factor.next_up()..=1e6,
            None,
        )?,
        original_max_positions: config.size("original_max_position_embeddings", most::POSITIONS)?,
    })
}

/// Matrices are stored as `[out, in]`; queries, keys and values, and gate and up, are tensors of
/// their own. No model of the family has a position embedding or biases of norms.
pub(super) fn tensors(param: Param, spec: &ModelSpec) -> Tensors {
    let (c, f) = (spec.channels, spec.mlp_width);
    let (queries, keys) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
    let as_stored = |name: String| Tensors {
        stored: vec![(name, param.shape(spec))],
        order: Order::AsStored,
    };
    let weights = |l: usize, order, inputs, modules: &[(&str, usize)]| Tensors {
        stored: modules
            .iter()
            .map(|&(module, outputs)| {
                (format!("layers.{l}.{module}.weight"), vec![outputs, inputs])
            })
            .collect(),
        order,
    };
    let biases = |l: usize, order, modules: &[(&str, usize)]| Tensors {
        stored: modules
            .iter()
            .map(|&(module, outputs)| (format!("layers.{l}.{module}.bias"), vec![outputs]))
            .collect(),
        order,
    };
    let in_heads = Order::Qkv {
        head_dim: spec.head_dim,
        queries,
        keys,
    };
    let qkv = [
        ("self_attn.q_proj", queries),
        ("self_attn.k_proj", keys),
        ("self_attn.v_proj", keys),
    ];
    let gate_up = [("mlp.gate_proj", f), ("mlp.up_proj", f)];
    let (attn_out, down) = ([("self_attn.o_proj", c)], [("mlp.down_proj", c)]);
    match param {
        Param::TokenEmbedding => as_stored("embed_tokens.weight".into()),
        Param::PositionEmbedding => as_stored("embed_positions.weight".into()),
        Param::AttnNormWeight(l) => as_stored(format!("layers.{l}.input_layernorm.weight")),
        Param::AttnNormBias(l) => as_stored(format!("layers.{l}.input_layernorm.bias")),
        Param::QkvWeight(l) => weights(l, in_heads, c, &qkv),
        Param::QkvBias(l) => biases(l, in_heads, &qkv),
        Param::AttnOutWeight(l) => weights(l, Order::Transposed, queries, &attn_out),
        Param::AttnOutBias(l) => biases(l, Order::AsStored, &attn_out),
        Param::MlpNormWeight(l) => as_stored(format!("layers.{l}.post_attention_layernorm.weight")),
        Param::MlpNormBias(l) => as_stored(format!("layers.{l}.post_attention_layernorm.bias")),
        Param::MlpUpWeight(l) => weights(l, Order::GateUp, c, &gate_up),
        Param::MlpUpBias(l) => biases(l, Order::GateUp, &gate_up),
        Param::MlpDownWeight(l) => weights(l, Order::Transposed, f, &down),
        Param::MlpDownBias(l) => biases(l, Order::AsStored, &down),
        Param::FinalNormWeight => as_stored("norm.weight".into()),
        Param::FinalNormBias => as_stored("norm.bias".into()),
        Param::Head => as_stored("lm_head.weight".into()),
    }
}
