//! Real models' shapes without their weights: what may follow `dummy:`.

use super::{Activation, ModelSpec, NormKind, Positions, Rope, RopeScaling};

type Shape = fn() -> ModelSpec;

const SHAPES: [(&str, Shape); 10] = [
    ("distilgpt2", || gpt2(6, 768)),
    ("gpt2", || gpt2(12, 768)),
    ("gpt2-medium", || gpt2(24, 1024)),
    ("gpt2-large", || gpt2(36, 1280)),
    ("gpt2-xl", || gpt2(48, 1600)),
    ("llama-7b", llama_7b),
    ("llama-3.1-8b", llama_3_1_8b),
    ("tinyllama-1.1b", tinyllama_1_1b),
    ("smollm2-135m", smollm2_135m),
    ("qwen2.5-0.5b", qwen2_5_0_5b),
];

/// The spec of a shape, under the name that was asked for.
pub(super) fn spec(asked: &str, shape: &str) -> Option<ModelSpec> {
    let (_, make) = SHAPES.iter().find(|(name, _)| *name == shape)?;
    Some(ModelSpec {
        name: asked.to_owned(),
        ..make()
    })
}

/// All of them, as one writes them.
pub(super) fn names() -> String {
    SHAPES.map(|(name, _)| format!("dummy:{name}")).join(", ")
}

/// The usual vocabulary, 1024 positions and heads of 64.
fn gpt2(layers: usize, channels: usize) -> ModelSpec {
    ModelSpec {
        name: String::new(),
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
        bf16_weights: false,
    }
}

/// The first Llama, whose parts the others vary.
fn llama_7b() -> ModelSpec {
    ModelSpec {
        name: String::new(),
        layers: 32,
        channels: 4096,
        heads: 32,
        kv_heads: 32,
        head_dim: 128,
        mlp_width: 11008,
        vocab: 32000,
        max_positions: 2048,
        positions: rotary(10_000.0),
        norm: NormKind::RmsNorm,
        norm_eps: 1e-6,
        activation: Activation::Silu,
        gated_mlp: true,
        qkv_bias: false,
        attn_out_bias: false,
        mlp_bias: false,
        tied_head: false,
        eos_tokens: vec![2],
        bf16_weights: false,
    }
}

fn rotary(theta: f32) -> Positions {
    Positions::Rotary(Rope {
        theta,
        scaling: RopeScaling::Default,
    })
}

fn llama_3_1_8b() -> ModelSpec {
    ModelSpec {
        kv_heads: 8,
        mlp_width: 14336,
        vocab: 128_256,
        max_positions: 131_072,
        positions: Positions::Rotary(Rope {
            theta: 500_000.0,
            scaling: RopeScaling::Llama3 {
                factor: 8.0,
                low_freq_factor: 1.0,
                high_freq_factor: 4.0,
                original_max_positions: 8192,
            },
        }),
        norm_eps: 1e-5,
        eos_tokens: vec![128_001],
        ..llama_7b()
    }
}

fn tinyllama_1_1b() -> ModelSpec {
    ModelSpec {
        layers: 22,
        channels: 2048,
        kv_heads: 4,
        head_dim: 64,
        mlp_width: 5632,
        norm_eps: 1e-5,
        ..llama_7b()
    }
}

fn smollm2_135m() -> ModelSpec {
    ModelSpec {
        layers: 30,
        channels: 576,
        heads: 9,
        kv_heads: 3,
        head_dim: 64,
        mlp_width: 1536,
        vocab: 49152,
        max_positions: 8192,
        positions: rotary(100_000.0),
        norm_eps: 1e-5,
        tied_head: true,
        eos_tokens: vec![0],
        ..llama_7b()
    }
}

fn qwen2_5_0_5b() -> ModelSpec {
    ModelSpec {
        layers: 24,
        channels: 896,
        heads: 14,
        kv_heads: 2,
        head_dim: 64,
        mlp_width: 4864,
        vocab: 151_936,
        max_positions: 32768,
        positions: rotary(1_000_000.0),
        qkv_bias: true,
        tied_head: true,
        eos_tokens: vec![151_643],
        ..llama_7b()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Totals that Hugging Face prints for these models (safetensors' parameter counts).
    #[test]
    fn parameters_are_the_published_ones() {
        for (shape, parameters) in [
            ("distilgpt2", 81_912_576),
            ("gpt2", 124_439_808),
            ("llama-7b", 6_738_415_616),
            ("llama-3.1-8b", 8_030_261_248),
            ("tinyllama-1.1b", 1_100_048_384),
            ("smollm2-135m", 134_515_008),
            ("qwen2.5-0.5b", 494_032_768),
        ] {
            assert_eq!(spec("", shape).unwrap().parameters(), parameters, "{shape}");
        }
    }
}
