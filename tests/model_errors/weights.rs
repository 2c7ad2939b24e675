//! Weights files: cut short, damaged, or of another model.

use std::fs;

use batchlab::model::Param;
use safetensors::tensor::Dtype;
use serde_json::json;

use crate::broken::{Broken, Stored, WEIGHTS, assert_says, fixture, named, open};

#[test]
fn weights_cut_short() {
    let length = fs::metadata(fixture("gpt2-f32").join(WEIGHTS))
        .unwrap()
        .len() as usize;
    for keep in [0, 3, 8, 100, 5000, length / 2, length - 1] {
        let broken = Broken::copy_of("gpt2-f32");
        broken.edit_bytes(WEIGHTS, |bytes| bytes.truncate(keep));
        assert_says(
            &broken.error(),
            &[WEIGHTS, "cut short", "download or copy the file again"],
        );
    }
    let broken = Broken::copy_of("gpt2-f32");
    broken.edit_bytes(WEIGHTS, |bytes| bytes.extend([0; 16]));
    assert_says(
        &broken.error(),
        &[WEIGHTS, "after its last tensor", "again"],
    );
}

#[test]
fn weights_with_a_damaged_header() {
    for length in [u64::MAX, u64::MAX - 7, 1 << 40, 0] {
        let broken = Broken::copy_of("gpt2-f32");
        broken.edit_bytes(WEIGHTS, |bytes| {
            bytes[..8].copy_from_slice(&length.to_le_bytes())
        });
        assert_says(&broken.error(), &[WEIGHTS, "header", "again"]);
    }
    let broken = Broken::copy_of("gpt2-f32");
    broken.edit_bytes(WEIGHTS, |bytes| bytes[20] = 0xff);
    assert_says(&broken.error(), &[WEIGHTS, "damaged header", "again"]);
    let broken = Broken::copy_of("gpt2-f32");
    broken.edit_header(|h| *h = json!([]));
    assert_says(&broken.error(), &[WEIGHTS, "damaged header", "again"]);
}

#[test]
fn weights_with_absurd_or_overlapping_offsets() {
    let name = "transformer.wpe.weight";
    for (offsets, part) in [
        (json!([0, u64::MAX]), "cut short"),
        (json!([0, 8]), "header"),
        (json!([100, 24676]), "overlaps"),
        (json!([8, 0]), "header"),
        (json!([-1, 8]), "header"),
        (json!("all"), "header"),
    ] {
        let broken = Broken::copy_of("gpt2-f32");
        broken.edit_header(|h| h[name]["data_offsets"] = offsets.clone());
        assert_says(&broken.error(), &[WEIGHTS, part, "again"]);
    }
    let broken = Broken::copy_of("gpt2-f32");
    broken.edit_header(|h| h[name]["shape"] = json!([u64::MAX, u64::MAX]));
    assert_says(&broken.error(), &[WEIGHTS, "damaged header", "again"]);
}

#[test]
fn tensors_that_do_not_fit() {
    type Edit = fn(&mut Vec<Stored>);
    let cases: [(Edit, &[&str]); 6] = [
        (
            |t| t.retain(|t| t.0 != "transformer.ln_f.bias"),
            &["ln_f.bias", "is missing", "config.json"],
        ),
        (
            |t| named(t, "transformer.h.1.attn.c_attn.weight").2.reverse(),
            &["[192, 64]", "makes it [64, 192]", "config.json"],
        ),
        (
            |t| named(t, "transformer.h.1.attn.c_attn.weight").1 = Dtype::I32,
            &["stored as I32", "F32, F16 or BF16"],
        ),
        (
            |t| named(t, "lm_head.weight").3[0] ^= 1,
            &["lm_head.weight", "differs from the token embedding", "tied"],
        ),
        (
            |t| {
                let mut copy = named(t, "transformer.wte.weight").clone();
                copy.0 = "wte.weight".into();
                t.push(copy);
            },
            &["wte.weight", "stored twice", "keep one"],
        ),
        (
            |t| {
                named(t, "transformer.h.1.attn.c_attn.weight").0 =
                    "transformer.h.1.attn.q.weight".into()
            },
            &["c_attn.weight", "is missing", "belong to config.json"],
        ),
    ];
    for (edit, parts) in cases {
        let broken = Broken::copy_of("gpt2-f32");
        broken.edit_tensors(edit);
        let error = broken.error();
        assert_says(&error, parts);
        assert_says(&error, &[WEIGHTS]);
    }
    assert!(
        open(&fixture("gpt2-f32"))
            .unwrap()
            .param(Param::QkvWeight(2))
            .is_err(),
        "it has layers 0 and 1"
    );
}

#[test]
fn values_that_are_not_finite() {
    for (name, bits, index) in [
        ("gpt2-f32", f32::NAN.to_le_bytes().to_vec(), 0),
        ("gpt2-f32", f32::NEG_INFINITY.to_le_bytes().to_vec(), 12_287),
        ("gpt2-f16", 0x7c00u16.to_le_bytes().to_vec(), 5),
        ("gpt2-bf16", 0x7fc0u16.to_le_bytes().to_vec(), 777),
    ] {
        let broken = Broken::copy_of(name);
        let tensor = "transformer.h.0.attn.c_attn.weight";
        broken.edit_tensors(|t| {
            let data = &mut named(t, tensor).3;
            data[index * bits.len()..][..bits.len()].copy_from_slice(&bits);
        });
        let element = format!("element {index};");
        assert_says(
            &broken.error(),
            &[WEIGHTS, tensor, "NaN or an infinity", &element, "finite"],
        );
    }
}

#[test]
fn sharded_weights_with_a_damaged_index() {
    let index = "model.safetensors.index.json";
    let broken = Broken::copy_of("gpt2-sharded");
    fs::remove_file(broken.path("model-00002-of-00003.safetensors")).unwrap();
    assert_says(
        &broken.error(),
        &[
            "model-00002-of-00003",
            "is missing, but model.safetensors.index.json lists it",
            "download all files",
        ],
    );
    for (edit, part) in [
        (json!({}), "no object \"weight_map\""),
        (json!({"weight_map": {}}), "lists no file"),
        (
            json!({"weight_map": {"wte.weight": "../../secret.safetensors"}}),
            "secret",
        ),
        (json!({"weight_map": {"wte.weight": 3}}), "names 3"),
    ] {
        let broken = Broken::copy_of("gpt2-sharded");
        broken.edit_json(index, |v| *v = edit.clone());
        assert_says(&broken.error(), &[index, part, "again"]);
    }
    let broken = Broken::copy_of("gpt2-sharded");
    fs::write(broken.path(index), "{").unwrap();
    assert_says(&broken.error(), &[index, "not valid JSON", "again"]);
}
