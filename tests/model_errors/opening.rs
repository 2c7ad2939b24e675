//! What opens, and sources that name nothing.

use std::fs;

use batchlab::model::{Model, Param, ParamData};

use crate::broken::{Broken, WEIGHTS, assert_says, fixture, open, open_named};

#[test]
fn every_fixture_opens_and_its_parameters_have_their_length() {
    for (name, dtype) in [
        ("gpt2-f32", 4),
        ("gpt2-f16", 2),
        ("gpt2-bf16", 2),
        ("gpt2-sharded", 2),
        ("gpt2-bare-names", 4),
    ] {
        let model = open(&fixture(name)).unwrap();
        for param in Param::all(&model.spec) {
            let count = param.count(&model.spec);
            let data = model.param(param).unwrap();
            let (ParamData::F32(bytes) | ParamData::F16(bytes) | ParamData::BF16(bytes)) = data
            else {
                panic!("{name} is stored");
            };
            assert_eq!(bytes.len(), count * dtype, "{name} {param:?}");
            assert_eq!(data.to_f32(count).len(), count);
        }
    }
}

#[test]
fn the_bundled_model_opens() {
    let model = Model::open(None).unwrap();
    assert_eq!((model.spec.vocab, model.spec.head_dim), (50257, 64));
    for param in Param::all(&model.spec) {
        let values = model.param(param).unwrap().to_f32(param.count(&model.spec));
        assert_eq!(values.len(), param.count(&model.spec));
    }
}

#[test]
fn dummy_weights_have_gpt2s_shape_and_spread() {
    let model = Model::open(Some("dummy:distilgpt2")).unwrap();
    let total: usize = Param::all(&model.spec).map(|p| p.count(&model.spec)).sum();
    assert_eq!(total, 81_912_576, "distilgpt2's own number of parameters");
    let values = |param: Param| model.param(param).unwrap().to_f32(param.count(&model.spec));
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
