//! The Llama family: what its files may say, and what they may not.

use std::fs;

use batchlab::model::{ModelError, ModelSpec, Positions, Rope, RopeScaling};
use safetensors::tensor::Dtype;
use serde_json::{Value, json};

use crate::broken::{Broken, Stored, assert_says, named, open};

/// Llama 2 7B, as published.
fn llama2() -> Value {
    json!({
        "model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008,
        "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 32,
        "vocab_size": 32000, "max_position_embeddings": 4096, "tie_word_embeddings": false,
        "rms_norm_eps": 1e-5, "hidden_act": "silu", "rope_scaling": null, "eos_token_id": 2,
    })
}

/// The spec of a folder with this config.json and nothing else.
fn spec(config: &Value) -> Result<ModelSpec, ModelError> {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    ModelSpec::open(folder.path().to_str())
}

fn with(config: &Value, keys: &[(&str, Value)]) -> Value {
    let mut config = config.clone();
    for (key, value) in keys {
        config[key] = value.clone();
    }
    config
}

#[test]
fn published_configs_are_read() {
    let llama = spec(&llama2()).unwrap();
    assert_eq!(llama.parameters(), 6_738_415_616);
    assert_eq!((llama.head_dim, llama.max_positions), (128, 4096));
    assert!(llama.gated_mlp && !llama.qkv_bias && !llama.tied_head);
    assert_eq!((llama.norm_eps, &llama.eos_tokens[..]), (1e-5, &[2][..]));
    let old = with(
        &llama2(),
        &[
            ("num_key_value_heads", json!(null)),
            ("head_dim", json!(null)),
        ],
    );
    assert_eq!(spec(&old).unwrap().kv_heads, 32);

    let qwen = json!({
        "model_type": "qwen2", "hidden_size": 896, "intermediate_size": 4864,
        "num_attention_heads": 14, "num_hidden_layers": 24, "num_key_value_heads": 2,
        "vocab_size": 151_936, "max_position_embeddings": 32768, "tie_word_embeddings": true,
        "rope_theta": 1e6, "rms_norm_eps": 1e-6, "eos_token_id": 151_643,
        "use_sliding_window": false, "sliding_window": 32768,
    });
    let dummy = ModelSpec::open(Some("dummy:qwen2.5-0.5b")).unwrap();
    let qwen = spec(&qwen).unwrap();
    let name = qwen.name.clone();
    assert_eq!(qwen, ModelSpec { name, ..dummy });

    // Mistral 7B v0.3, and Nemo's heads, which are narrower than hidden/heads.
    let mistral = with(
        &llama2(),
        &[
            ("model_type", json!("mistral")),
            ("intermediate_size", json!(14336)),
            ("num_key_value_heads", json!(8)),
            ("vocab_size", json!(32768)),
            ("max_position_embeddings", json!(32768)),
            ("sliding_window", json!(null)),
            ("rope_theta", json!(1e6)),
        ],
    );
    let v3 = spec(&mistral).unwrap();
    assert_eq!((v3.parameters(), v3.max_positions), (7_248_023_552, 32768));
    let nemo = with(&mistral, &[("head_dim", json!(96))]);
    assert_eq!(spec(&nemo).unwrap().qkv_width(), (32 + 2 * 8) * 96);
}

#[test]
fn both_ways_to_write_rotary_positions_say_the_same() {
    let llama3 = json!({
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    });
    let scaling = RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_positions: 8192,
    };
    let newer = |scaling: &Value| with(scaling, &[("rope_theta", json!(5e5))]);
    for (keys, theta, scaling) in [
        (vec![], 1e4, RopeScaling::Default),
        (vec![("rope_theta", json!(5e5))], 5e5, RopeScaling::Default),
        (
            vec![("rope_scaling", json!({"type": "linear", "factor": 2}))],
            1e4,
            RopeScaling::Linear { factor: 2.0 },
        ),
        (
            vec![("rope_theta", json!(5e5)), ("rope_scaling", llama3.clone())],
            5e5,
            scaling,
        ),
        (vec![("rope_parameters", newer(&llama3))], 5e5, scaling),
        (
            vec![("partial_rotary_factor", json!(1.0))],
            1e4,
            RopeScaling::Default,
        ),
        (
            vec![("rope_parameters", newer(&json!({"rope_type": "default"})))],
            5e5,
            RopeScaling::Default,
        ),
    ] {
        let rope = spec(&with(&llama2(), &keys)).unwrap().positions;
        assert_eq!(rope, Positions::Rotary(Rope { theta, scaling }), "{keys:?}");
    }
}

#[test]
fn a_sliding_window_limits_the_context() {
    let mistral = with(
        &llama2(),
        &[
            ("model_type", json!("mistral")),
            ("max_position_embeddings", json!(32768)),
        ],
    );
    let qwen = with(
        &mistral,
        &[
            ("model_type", json!("qwen2")),
            ("sliding_window", json!(1000)),
        ],
    );
    for (config, context) in [
        // Hugging Face's default.
        (mistral.clone(), 4096),
        (with(&mistral, &[("sliding_window", json!(8192))]), 8192),
        (with(&mistral, &[("sliding_window", json!(1 << 20))]), 32768),
        (with(&mistral, &[("sliding_window", json!(null))]), 32768),
        (qwen.clone(), 32768),
        (with(&qwen, &[("use_sliding_window", json!(true))]), 1000),
    ] {
        assert_eq!(spec(&config).unwrap().max_positions, context, "{config}");
    }
}

#[test]
fn what_a_config_may_not_say_is_named() {
    let rope = |settings: Value| ("rope_scaling", settings);
    let llama3 = |low: Value, high: Value| {
        rope(json!({
            "rope_type": "llama3", "factor": 8, "low_freq_factor": low, "high_freq_factor": high,
            "original_max_position_embeddings": 8192,
        }))
    };
    let whole = "a whole number from 1";
    for ((key, value), parts) in [
        (
            ("model_type", json!("mamba")),
            ["\"mamba\"", "one of gpt2, llama, mistral, qwen2"],
        ),
        (
            ("num_key_value_heads", json!(5)),
            ["is 5", "a divisor of \"num_attention_heads\", 32"],
        ),
        (
            ("num_attention_heads", json!(3)),
            ["is 3", "a divisor of \"hidden_size\", 4096"],
        ),
        (
            ("num_attention_heads", json!(4096)),
            ["\"head_dim\" is 1", "even"],
        ),
        (("head_dim", json!(81)), ["\"head_dim\" is 81", "even"]),
        (("head_dim", json!(0)), ["head_dim", whole]),
        (
            ("num_hidden_layers", json!(null)),
            ["num_hidden_layers", "missing"],
        ),
        (("hidden_size", json!(0)), ["hidden_size", whole]),
        (
            ("intermediate_size", json!(u64::MAX)),
            ["intermediate_size", whole],
        ),
        (("vocab_size", json!("many")), ["vocab_size", whole]),
        (
            ("max_position_embeddings", json!(-1)),
            ["max_position_embeddings", whole],
        ),
        (
            ("tie_word_embeddings", json!("no")),
            ["tie_word_embeddings", "true or false"],
        ),
        (
            ("attention_bias", json!(1)),
            ["attention_bias", "true or false"],
        ),
        (("mlp_bias", json!("yes")), ["mlp_bias", "true or false"]),
        (
            ("quantization_config", json!({"bits": 4})),
            ["quantization_config", "unquantized"],
        ),
        (
            ("hidden_act", json!("quick_gelu")),
            ["\"quick_gelu\"", "one of silu"],
        ),
        (
            ("rms_norm_eps", json!(0)),
            ["rms_norm_eps", "a number from"],
        ),
        (
            ("eos_token_id", json!([1, 32000])),
            ["is 32000", "below \"vocab_size\", 32000"],
        ),
        (
            ("rope_theta", json!(0)),
            ["rope_theta", "a number from 1.0"],
        ),
        (
            ("rope_theta", json!(1e300)),
            ["rope_theta", "a number from 1.0"],
        ),
        (rope(json!("linear")), ["rope_scaling", "an object"]),
        (
            rope(json!({"type": "dynamic", "factor": 2})),
            ["\"rope_scaling.type\" is \"dynamic\"", "linear, llama3"],
        ),
        (
            rope(json!({"rope_type": "yarn", "factor": 2})),
            ["\"rope_scaling.rope_type\" is \"yarn\"", "linear, llama3"],
        ),
        (
            ("rope_parameters", json!({"rope_type": "longrope"})),
            ["\"rope_parameters.rope_type\" is \"longrope\"", "linear"],
        ),
        (
            ("partial_rotary_factor", json!(0.5)),
            ["\"partial_rotary_factor\" is 0.5", "1: positions that turn"],
        ),
        (
            ("rope_parameters", json!({"partial_rotary_factor": 0.25})),
            [
                "rope_parameters.partial_rotary_factor\" is 0.25",
                "whole heads",
            ],
        ),
        (
            rope(json!({"type": "default", "partial_rotary_factor": "half"})),
            [
                "rope_scaling.partial_rotary_factor\" is \"half\"",
                "1: positions",
            ],
        ),
        (
            (
                "rope_parameters",
                json!({"full_attention": {"rope_type": "default", "rope_theta": 1e6}}),
            ),
            ["rope_parameters.full_attention\" is {", "in all layers"],
        ),
        (
            rope(json!({"type": "linear"})),
            ["rope_scaling.factor", "missing"],
        ),
        (
            rope(json!({"type": "linear", "factor": 0.5})),
            ["rope_scaling.factor", "a number from 1.0"],
        ),
        (
            llama3(json!(4), json!(4)),
            ["rope_scaling.high_freq_factor", "a number from 4"],
        ),
        (
            llama3(json!(0), json!(4)),
            ["rope_scaling.low_freq_factor", "a number from"],
        ),
    ] {
        let error = spec(&with(&llama2(), &[(key, value)])).unwrap_err();
        assert_says(&error, &["config.json", "expected", parts[0], parts[1]]);
    }
    // Hugging Face gives Mistral and Qwen2 other numbers of heads where the key is missing.
    for model_type in ["mistral", "qwen2"] {
        let keys = [
            ("model_type", json!(model_type)),
            ("num_key_value_heads", json!(null)),
        ];
        let error = spec(&with(&llama2(), &keys)).unwrap_err();
        assert_says(&error, &["num_key_value_heads", "missing"]);
    }
}

#[test]
fn config_and_weights_of_different_models() {
    for (key, value, parts) in [
        (
            "num_hidden_layers",
            json!(1),
            ["layers.1.", "has no place in the shape"],
        ),
        ("num_hidden_layers", json!(3), ["layers.2.", "is missing"]),
        (
            "num_attention_heads",
            json!(3),
            [
                "q_proj.weight",
                "[224, 64], but config.json makes it [96, 64]",
            ],
        ),
        (
            "intermediate_size",
            json!(64),
            [
                "gate_proj.weight",
                "[96, 64], but config.json makes it [64, 64]",
            ],
        ),
        (
            "head_dim",
            json!(16),
            ["q_proj.weight", "makes it [112, 64]"],
        ),
        (
            "model_type",
            json!("mistral"),
            ["proj.bias", "has no place in the shape"],
        ),
        (
            "tie_word_embeddings",
            json!(false),
            ["lm_head.weight", "is missing"],
        ),
    ] {
        let broken = Broken::copy_of("qwen2-f32");
        broken.edit_json("config.json", |c| c[key] = value.clone());
        assert_says(&broken.error(), &[parts[0], parts[1], "config.json"]);
    }
}

#[test]
fn tensors_that_do_not_fit() {
    type Edit = fn(&mut Vec<Stored>);
    let k_proj = "model.layers.1.self_attn.k_proj.weight";
    let cases: [(Edit, &[&str]); 5] = [
        (
            |t| t.retain(|t| t.0 != "model.layers.1.mlp.up_proj.weight"),
            &["\"model.layers.1.mlp.up_proj.weight\" is missing"],
        ),
        (
            |t| named(t, "model.layers.0.mlp.down_proj.weight").2.reverse(),
            &["[96, 64]", "makes it [64, 96]"],
        ),
        (
            |t| named(t, "model.layers.1.self_attn.k_proj.weight").1 = Dtype::U16,
            &["k_proj.weight", "stored as U16", "F32, F16 or BF16"],
        ),
        (
            |t| named(t, "lm_head.weight").3[0] ^= 1,
            &["lm_head.weight", "differs from the token embedding", "tied"],
        ),
        (
            |t| {
                let bad = &mut named(t, "model.layers.1.self_attn.k_proj.weight").3;
                bad[2 * 77..][..2].copy_from_slice(&0x7fc0u16.to_le_bytes());
            },
            &[k_proj, "NaN or an infinity at element 77;"],
        ),
    ];
    for (edit, parts) in cases {
        let broken = Broken::copy_of("llama-linear");
        broken.edit_tensors(edit);
        assert_says(&broken.error(), parts);
    }
}

#[test]
fn a_missing_shard_is_named_with_its_index() {
    let broken = Broken::copy_of("llama-sharded");
    let shard = "model-00002-of-00002.safetensors";
    fs::remove_file(broken.path(shard)).unwrap();
    assert_says(
        &open(broken.folder.path()).unwrap_err(),
        &[
            shard,
            "is missing",
            "model.safetensors.index.json",
            "download",
        ],
    );
}
