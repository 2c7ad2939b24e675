//! A model that spells one line for ever, a byte a token: every character of several bytes is split
//! over several tokens.

use std::collections::BTreeMap;
use std::fs;

use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use tempfile::TempDir;

/// No byte comes twice, so that each token says which one follows.
pub const LINE: &str = "é→🙂日 ok\n";

const VOCAB: usize = 256;
const WIDTH: usize = 64;

/// Its folder; token ids are bytes.
pub fn model() -> TempDir {
    let folder = TempDir::new().unwrap();
    let write =
        |name: &str, content: Vec<u8>| fs::write(folder.path().join(name), content).unwrap();
    let config = json!({
        "model_type": "llama", "vocab_size": VOCAB, "hidden_size": WIDTH, "intermediate_size": WIDTH,
        "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2,
        "hidden_act": "silu", "rms_norm_eps": 1e-5, "max_position_embeddings": 512,
        "tie_word_embeddings": false,
    });
    write("config.json", config.to_string().into_bytes());
    write("tokenizer.json", tokenizer().to_string().into_bytes());
    write("model.safetensors", weights());
    folder
}

fn tokenizer() -> Value {
    let vocab: BTreeMap<String, usize> = (0..VOCAB).map(|b| (letter(b as u8).into(), b)).collect();
    let byte_level = json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true,
    });
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": byte_level, "post_processor": null, "decoder": byte_level,
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    })
}

/// The printable letter that GPT-2's tokenizer writes for a byte.
fn letter(byte: u8) -> char {
    let prints = |b: u8| matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    match prints(byte) {
        true => char::from(byte),
        false => {
            let before = (0..byte).filter(|&b| !prints(b)).count() as u32;
            char::from_u32(256 + before).unwrap()
        }
    }
}

/// Nothing but the embedding: what stands for a byte is what the head looks for in the byte after it.
fn weights() -> Vec<u8> {
    let mut embedding = vec![0f32; VOCAB * WIDTH];
    let mut head = vec![0f32; VOCAB * WIDTH];
    let bytes = LINE.as_bytes();
    for (place, (&byte, &next)) in bytes.iter().zip(bytes.iter().cycle().skip(1)).enumerate() {
        embedding[usize::from(byte) * WIDTH + place] = 1.0;
        head[usize::from(next) * WIDTH + place] = 1.0;
    }
    let (square, ones) = (vec![0f32; WIDTH * WIDTH], vec![1f32; WIDTH]);
    let mut tensors = vec![
        (
            "model.embed_tokens.weight".to_owned(),
            vec![VOCAB, WIDTH],
            &embedding,
        ),
        ("lm_head.weight".to_owned(), vec![VOCAB, WIDTH], &head),
        ("model.norm.weight".to_owned(), vec![WIDTH], &ones),
    ];
    for name in ["input_layernorm", "post_attention_layernorm"] {
        tensors.push((format!("model.layers.0.{name}.weight"), vec![WIDTH], &ones));
    }
    for name in [
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
        "self_attn.o_proj",
        "mlp.gate_proj",
        "mlp.up_proj",
        "mlp.down_proj",
    ] {
        let name = format!("model.layers.0.{name}.weight");
        tensors.push((name, vec![WIDTH, WIDTH], &square));
    }
    let views = tensors.iter().map(|(name, shape, values)| {
        let bytes: &[u8] = bytemuck::cast_slice(values.as_slice());
        let view = TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap();
        (name.clone(), view)
    });
    safetensors::serialize(views, None).unwrap()
}
