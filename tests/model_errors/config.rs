//! config.json and tokenizer.json.

use std::fs;

use serde_json::{Value, json};

use crate::broken::{Broken, assert_says, fixture, open};

#[test]
fn a_needed_key_is_missing_or_null() {
    for key in [
        "model_type",
        "n_embd",
        "n_head",
        "n_layer",
        "n_positions",
        "vocab_size",
    ] {
        let broken = Broken::copy_of("gpt2-f32");
        broken.edit_json("config.json", |c| {
            c.as_object_mut().unwrap().remove(key);
        });
        assert_says(
            &broken.error(),
            &["config.json", key, "missing", "expected"],
        );
        let broken = Broken::copy_of("gpt2-f32");
        broken.edit_json("config.json", |c| c[key] = Value::Null);
        assert_says(
            &broken.error(),
            &["config.json", key, "missing", "expected"],
        );
    }
}

#[test]
fn config_values_that_no_model_has() {
    for (key, value, expected) in [
        ("model_type", json!("mamba"), "one of gpt2"),
        ("model_type", json!(2), "one of gpt2"),
        ("activation_function", json!("swish"), "gelu_new"),
        ("n_head", json!(3), "a divisor of \"n_embd\", 64"),
        ("n_head", json!(0), "from 1 to 64"),
        ("n_head", json!(4096), "from 1 to 64"),
        ("n_embd", json!(-64), "a whole number from 1 to"),
        ("n_embd", json!(64.5), "a whole number from 1 to"),
        ("n_layer", json!(u64::MAX), "a whole number from 1 to"),
        ("n_layer", json!("two"), "a whole number from 1 to"),
        ("vocab_size", json!(1u64 << 40), "a whole number from 1 to"),
        ("n_positions", json!(0), "a whole number from 1 to"),
        ("n_inner", json!(u64::MAX), "a whole number from 1 to"),
        ("layer_norm_epsilon", json!(0), "a number from 1e-20 to 1"),
        (
            "layer_norm_epsilon",
            json!("1e-5"),
            "a number from 1e-20 to 1",
        ),
        (
            "eos_token_id",
            json!(331),
            "token ids below \"vocab_size\", 331",
        ),
        (
            "eos_token_id",
            json!([0, -1]),
            "token ids below \"vocab_size\", 331",
        ),
        ("scale_attn_by_inverse_layer_idx", json!(true), "false"),
        ("scale_attn_weights", json!(false), "true"),
        ("add_cross_attention", json!(true), "false"),
        ("tie_word_embeddings", json!("no"), "true or false"),
        ("quantization_config", json!({"bits": 4}), "unquantized"),
    ] {
        let broken = Broken::copy_of("gpt2-f32");
        broken.edit_json("config.json", |c| c[key] = value.clone());
        assert_says(&broken.error(), &["config.json", key, "expected", expected]);
    }
}

#[test]
fn config_values_with_a_default_may_be_missing() {
    let broken = Broken::copy_of("gpt2-f32");
    broken.edit_json("config.json", |c| {
        for key in [
            "n_inner",
            "activation_function",
            "layer_norm_epsilon",
            "eos_token_id",
        ] {
            c.as_object_mut().unwrap().remove(key);
        }
    });
    let spec = open(broken.folder.path()).unwrap().spec;
    assert_eq!((spec.mlp_width, spec.norm_eps), (4 * spec.channels, 1e-5));
    assert!(spec.eos_tokens.is_empty());
}

#[test]
fn config_that_is_no_config() {
    for text in ["", "{", "[1, 2]", "\u{0}\u{1}"] {
        let broken = Broken::copy_of("gpt2-f32");
        fs::write(broken.path("config.json"), text).unwrap();
        assert_says(
            &broken.error(),
            &["config.json", "JSON", "copy the model's original"],
        );
    }
}

#[test]
fn config_and_weights_of_different_models() {
    for (key, value, parts) in [
        (
            "n_layer",
            json!(1),
            ["h.1.", "has no place in the shape", "config.json"],
        ),
        ("n_layer", json!(3), ["h.2.", "is missing", "config.json"]),
        (
            "n_positions",
            json!(128),
            ["wpe.weight", "has the shape [96, 64]", "[128, 64]"],
        ),
        (
            "n_inner",
            json!(100),
            ["mlp.c_fc.weight", "[64, 256]", "[64, 100]"],
        ),
    ] {
        let broken = Broken::copy_of("gpt2-f32");
        broken.edit_json("config.json", |c| c[key] = value.clone());
        assert_says(&broken.error(), &parts);
    }
}

#[test]
fn tokenizer_of_another_model() {
    let broken = Broken::copy_of("gpt2-f32");
    fs::copy(
        fixture("gpt2-bf16").join("tokenizer.json"),
        broken.path("tokenizer.json"),
    )
    .unwrap();
    assert_says(
        &broken.error(),
        &["token ids up to 383", "331", "belongs to this model"],
    );
    // 307 of 331 tokens: a vocabulary padded to a round size is no mismatch.
    fs::copy(
        fixture("gpt2-bare-names").join("tokenizer.json"),
        broken.path("tokenizer.json"),
    )
    .unwrap();
    assert!(open(broken.folder.path()).is_ok());
    let broken = Broken::copy_of("gpt2-bf16");
    fs::copy(
        fixture("gpt2-bare-names").join("tokenizer.json"),
        broken.path("tokenizer.json"),
    )
    .unwrap();
    assert_says(
        &broken.error(),
        &["knows 307 tokens", "384", "belongs to this model"],
    );
    for damage in [r#""decoder":"#, r#""decoder":{"type":"ByteLevel""#] {
        let broken = Broken::copy_of("gpt2-f32");
        let text = fs::read_to_string(broken.path("tokenizer.json")).unwrap();
        let cut = text.replacen(damage, &format!("{damage}\u{0}"), 1);
        assert_ne!(cut, text);
        fs::write(broken.path("tokenizer.json"), cut).unwrap();
        assert_says(
            &broken.error(),
            &["tokenizer.json", "is not a tokenizer", "copy"],
        );
    }
    let broken = Broken::copy_of("gpt2-f32");
    broken.edit_json("tokenizer.json", |t| {
        t["normalizer"] = json!({"type": "Precompiled", "precompiled_charsmap": "AA=="});
    });
    assert_says(
        &broken.error(),
        &["tokenizer.json", "is not a tokenizer", "copy"],
    );
    // A template with a token that it does not define: the file opens, the library panics later.
    let broken = Broken::copy_of("gpt2-f32");
    broken.edit_json("tokenizer.json", |t| {
        t["post_processor"] = json!({
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "X", "type_id": 0}}],
            "pair": [],
            "special_tokens": {},
        });
    });
    let model = open(broken.folder.path()).unwrap();
    let error = model.tokenizer.encode("a").unwrap_err().to_string();
    assert!(
        error.contains("damaged") && error.contains("tokenizer.json"),
        "{error}"
    );
    fs::write(broken.path("tokenizer.json"), "{}").unwrap();
    assert_says(
        &broken.error(),
        &["tokenizer.json", "is not a tokenizer", "copy"],
    );
}
