//! What opens, and sources that name nothing.

use std::fs;

use batchlab::model::{Model, Param, ParamData};
use serde_json::json;

use crate::broken::{Broken, WEIGHTS, assert_says, fixture, open, open_named};

#[test]
fn every_fixture_opens_and_its_parameters_have_their_length() {
    for name in [
        "gpt2-f32",
        "gpt2-f16",
        "gpt2-bf16",
        "gpt2-sharded",
        "gpt2-bare-names",
        "llama-sharded",
        "llama-linear",
        "llama-biases",
        "qwen2-f32",
        "mistral-f16",
    ] {
        let model = open(&fixture(name)).unwrap();
        for param in Param::all(&model.spec) {
            let ParamData::Stored(stored) = model.param(param).unwrap() else {
                panic!("{name} is stored");
            };
            let count = param.count(&model.spec);
            assert_eq!(stored.rows * stored.columns, count, "{name} {param:?}");
        }
    }
}

#[test]
fn generation_config_says_what_ends_a_sequence() {
    let model = open(&fixture("llama-sharded")).unwrap();
    assert_eq!(model.spec.eos_tokens, [306, 3, 42]);
    let broken = Broken::copy_of("llama-sharded");
    for (ids, wanted) in [
        (json!({}), vec![306]),
        (json!({"eos_token_id": 7}), vec![7]),
    ] {
        fs::write(broken.path("generation_config.json"), ids.to_string()).unwrap();
        assert_eq!(open(broken.folder.path()).unwrap().spec.eos_tokens, wanted);
    }
    broken.edit_json("generation_config.json", |c| {
        c["eos_token_id"] = json!([1, 307])
    });
    assert_says(
        &broken.error(),
        &["generation_config.json", "eos_token_id", "307"],
    );
}

#[test]
fn a_dummy_takes_only_tokens_of_its_own_vocabulary() {
    // Fewer tokens than the tokenizer that stands in, and more.
    for name in ["dummy:smollm2-135m", "dummy:qwen2.5-0.5b"] {
        let model = Model::open(Some(name)).unwrap();
        let text = "Shall I compare thee? 🙂 ".repeat(20) + "<|endoftext|>";
        let ids = model.tokenizer.encode(&text).unwrap();
        assert!(ids.len() > 100);
        assert!(ids.iter().all(|&id| (id as usize) < model.spec.vocab));
        let last = model.spec.vocab as u32 - 1;
        assert!(!model.tokenizer.decode(&[last]).unwrap().is_empty());
    }
}

#[test]
fn the_bundled_model_opens() {
    let model = Model::open(None).unwrap();
    assert_eq!((model.spec.vocab, model.spec.head_dim), (50257, 64));
    for param in Param::all(&model.spec) {
        let data = model.param(param).unwrap();
        let values = data.to_vec::<f32>(param.count(&model.spec)).unwrap();
        assert_eq!(values.len(), param.count(&model.spec));
    }
}

#[test]
fn dummy_weights_have_gpt2s_shape_and_spread() {
    let model = Model::open(Some("dummy:distilgpt2")).unwrap();
    let total: usize = Param::all(&model.spec).map(|p| p.count(&model.spec)).sum();
    assert_eq!(total, 81_912_576, "distilgpt2's own number of parameters");
    let values = |param: Param| {
        let data = model.param(param).unwrap();
        data.to_vec::<f32>(param.count(&model.spec)).unwrap()
    };
    assert!(values(Param::AttnNormWeight(3)).iter().all(|&v| v == 1.0));
    assert!(values(Param::QkvBias(0)).iter().all(|&v| v == 0.0));
    let (a, b) = (
        values(Param::AttnOutWeight(0)),
        values(Param::AttnOutWeight(1)),
    );
    assert_ne!(a, b, "each parameter has a seed of its own");
    assert_eq!(a, values(Param::AttnOutWeight(0)), "the same in every run");
    let mean = a.iter().sum::<f32>() / a.len() as f32;
    let deviation = (a.iter().map(|v| v * v).sum::<f32>() / a.len() as f32).sqrt();
    assert!(
        mean.abs() < 2e-4 && (deviation - 0.02).abs() < 2e-4,
        "{mean} {deviation}"
    );
}

#[test]
fn sources_that_name_nothing() {
    let file = fixture("gpt2-f32").join("config.json");
    for (source, parts) in [
        (
            "dummy:gpt5",
            ["dummy:gpt5", "no dummy model", "dummy:gpt2-xl"],
        ),
        ("", ["no such folder", "OWNER/NAME", "check the path"]),
        (
            "./nowhere",
            ["no such folder", "model id", "check the path"],
        ),
        (
            "/nowhere/at/all",
            ["no such folder", "model id", "check the path"],
        ),
        (
            "models/nowhere/v1",
            ["no such folder", "model id", "check the path"],
        ),
        (
            file.to_str().unwrap(),
            ["is a file", "folder", "config.json"],
        ),
    ] {
        assert_says(&open_named(source).unwrap_err(), &parts);
    }
}

#[test]
fn missing_files() {
    for (file, parts) in [
        (
            "config.json",
            ["config.json", "cannot be read", "Hugging Face layout"],
        ),
        (
            "tokenizer.json",
            ["tokenizer.json", "cannot be read", "Hugging Face layout"],
        ),
        (
            WEIGHTS,
            ["has neither model.safetensors", "index.json", "download"],
        ),
    ] {
        let broken = Broken::copy_of("gpt2-f32");
        fs::remove_file(broken.path(file)).unwrap();
        assert_says(&broken.error(), &parts);
    }
    let broken = Broken::copy_of("gpt2-f32");
    fs::rename(broken.path(WEIGHTS), broken.path("pytorch_model.bin")).unwrap();
    assert_says(
        &broken.error(),
        &["convert pytorch_model.bin", "save_pretrained"],
    );
}
