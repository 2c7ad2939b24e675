//! What a step must at least do, and how long that takes at the limits of the device: the roofline
//! model (Williams, Waterman and Patterson, 2009). The formulas are explained in docs/measuring.md.

use std::ops::AddAssign;

use serde::Serialize;

use crate::kv::KvLayout;
use crate::model::{ModelSpec, Param};
use crate::scheduler::StepShape;

/// The measured limits of a device.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Ceilings {
    /// Bytes read plus bytes written per second by a large copy.
    pub copy_bytes_per_s: f64,
    /// Of a large matrix product in the type that the runner computes in.
    pub flop_per_s: f64,
    /// What multiplied: the fastest that the runner has.
    pub product_by: &'static str,
}

/// Operations that must be done, and bytes that must move between memory and the cores.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Work {
    pub flop: f64,
    pub bytes: f64,
}

impl AddAssign for Work {
    fn add_assign(&mut self, other: Self) {
        self.flop += other.flop;
        self.bytes += other.bytes;
    }
}

/// What holds a step back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    Memory,
    Compute,
}

impl Work {
    /// Seconds that moving the bytes takes at the copy's rate.
    pub fn memory_s(&self, ceilings: &Ceilings) -> f64 {
        self.bytes / ceilings.copy_bytes_per_s
    }

    /// Seconds that the operations take at the product's rate.
    pub fn compute_s(&self, ceilings: &Ceilings) -> f64 {
        self.flop / ceilings.flop_per_s
    }

    /// The longer of the two, and the seconds it takes.
    pub fn bound(&self, ceilings: &Ceilings) -> (Bound, f64) {
        let (memory, compute) = (self.memory_s(ceilings), self.compute_s(ceilings));
        match memory >= compute {
            true => (Bound::Memory, memory),
            false => (Bound::Compute, compute),
        }
    }
}

/// What of a model decides the work of its steps. Sizes in elements.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NetworkSize {
    /// Matrices of all layers: every token is multiplied by each.
    layer_matrices: f64,
    /// V·C: every row's last token is multiplied by it.
    head: f64,
    /// All parameters that each step reads whole: every one but the embeddings, of which it reads a
    /// row a token. A tied token embedding is the head, and read whole.
    read_by_a_step: f64,
    /// layers · Hq · D
    attention_width: f64,
    bytes_per_weight: f64,
    kv_bytes_per_token: f64,
}

impl NetworkSize {
    /// With weights of so many bytes each.
    pub fn of(spec: &ModelSpec, layout: &KvLayout, bytes_per_weight: usize) -> Self {
        let head = Param::head(spec);
        let total = |wanted: &dyn Fn(Param) -> bool| -> f64 {
            let params = Param::all(spec).filter(|&p| wanted(p));
            params.map(|p| p.count(spec) as f64).sum()
        };
        Self {
            layer_matrices: total(&|p| {
                matches!(
                    p,
                    Param::QkvWeight(_)
                        | Param::AttnOutWeight(_)
                        | Param::MlpUpWeight(_)
                        | Param::MlpDownWeight(_)
                )
            }),
            head: total(&|p| p == head),
            read_by_a_step: total(&|p| {
                p == head || !matches!(p, Param::TokenEmbedding | Param::PositionEmbedding)
            }),
            attention_width: (spec.layers * spec.heads * spec.head_dim) as f64,
            bytes_per_weight: bytes_per_weight as f64,
            kv_bytes_per_token: layout.bytes_per_token() as f64,
        }
    }

    /// FLOP: 2 for each weight and token, 4·D for each head and visible query-key pair. Bytes: each
    /// weight once, K and V of every visible position once, those of the new tokens once more to
    /// write them. Activations are not counted: they may stay in a cache.
    pub fn work(&self, step: &StepShape) -> Work {
        let (tokens, rows) = (step.tokens as f64, step.rows as f64);
        let kv_positions = (step.kv_positions + step.tokens) as f64;
        Work {
            flop: 2.0 * (tokens * self.layer_matrices + rows * self.head)
                + 4.0 * self.attention_width * step.query_key_pairs as f64,
            bytes: self.bytes_per_weight * self.read_by_a_step
                + self.kv_bytes_per_token * kv_positions,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// distilgpt2: 81,912,576 parameters, of them 786,432 positions and 38,597,376 embedding; six
    /// layers of matrices with 12·768² elements.
    fn distilgpt2() -> NetworkSize {
        let spec = ModelSpec::open(Some("dummy:distilgpt2")).unwrap();
        NetworkSize::of(&spec, &spec.kv_layout(32, 4), 4)
    }

    #[test]
    fn a_decode_step_by_hand() {
        let step = StepShape {
            rows: 1,
            tokens: 1,
            kv_positions: 14,
            query_key_pairs: 14,
            ..StepShape::default()
        };
        let work = distilgpt2().work(&step);
        // 2·(6·12·768² + 50257·768) + 4·6·768·14
        assert_eq!(work.flop, 2.0 * (42_467_328.0 + 38_597_376.0) + 258_048.0);
        // 4·(81,912,576 − 786,432) + 36,864·(14 + 1)
        assert_eq!(work.bytes, 4.0 * 81_126_144.0 + 552_960.0);
    }

    #[test]
    fn a_prefill_by_hand() {
        // Two prompts, of 3 and 2 tokens: 6 + 3 pairs.
        let step = StepShape {
            rows: 2,
            tokens: 5,
            kv_positions: 5,
            query_key_pairs: 9,
            ..StepShape::default()
        };
        let work = distilgpt2().work(&step);
        let flop = 2.0 * (5.0 * 42_467_328.0 + 2.0 * 38_597_376.0) + 4.0 * 4608.0 * 9.0;
        assert_eq!(work.flop, flop);
        assert_eq!(work.bytes, 4.0 * 81_126_144.0 + 368_640.0);
    }

    /// Llama 3.1 8B: 32 layers of matrices with 4096 · (6144 + 4096 + 3 · 14336) elements, an
    /// embedding and a head of 128,256 · 4096 each, 8 KV heads for 32 query heads.
    #[test]
    fn grouped_queries_a_gate_and_a_head_of_its_own_by_hand() {
        let spec = ModelSpec::open(Some("dummy:llama-3.1-8b")).unwrap();
        let step = StepShape {
            rows: 2,
            tokens: 2,
            kv_positions: 300,
            query_key_pairs: 300,
            ..StepShape::default()
        };
        let work = NetworkSize::of(&spec, &spec.kv_layout(32, 2), 2).work(&step);
        let (layers, head) = (32.0 * 4096.0 * 53_248.0, 128_256.0 * 4096.0);
        let flop = 2.0 * 2.0 * (layers + head) + 4.0 * (32.0 * 4096.0) * 300.0;
        assert_eq!(work.flop, flop);
        // 8,030,261,248 parameters less the embedding; 32 · 2 · 8 · 128 · 2 bytes of K and V a token.
        assert_eq!(
            work.bytes,
            2.0 * (8_030_261_248.0 - head) + 131_072.0 * 302.0
        );
    }

    #[test]
    fn the_longer_time_binds() {
        let ceilings = Ceilings {
            copy_bytes_per_s: 100.0,
            flop_per_s: 1000.0,
            product_by: "gemm",
        };
        let of = |flop, bytes| Work { flop, bytes }.bound(&ceilings);
        assert_eq!(of(500.0, 100.0), (Bound::Memory, 1.0));
        assert_eq!(of(2000.0, 100.0), (Bound::Compute, 2.0));
        assert_eq!(of(1000.0, 100.0), (Bound::Memory, 1.0));
    }
}
