//! A model's parameters in f32, decoded and packed once when the runner opens.

use super::matmul::PackedMatrix;
use crate::model::{Model, ModelError, ModelSpec, Param};

/// A layer norm's `[C]` weight and bias.
pub struct Norm {
    pub weight: Vec<f32>,
    pub bias: Vec<f32>,
}

/// A matrix and its bias.
pub struct Linear {
    pub matrix: PackedMatrix,
    pub bias: Vec<f32>,
}

pub struct Layer {
    pub attn_norm: Norm,
    pub qkv: Linear,
    pub attn_out: Linear,
    pub mlp_norm: Norm,
    pub mlp_up: Linear,
    pub mlp_down: Linear,
}

pub struct Weights {
    /// `[V, C]`, read by the embedding.
    pub token_embedding: Vec<f32>,
    /// `[S, C]`
    pub position_embedding: Vec<f32>,
    pub layers: Vec<Layer>,
    pub final_norm: Norm,
    /// The token embedding once more, packed for the product with the last hidden states.
    pub head: PackedMatrix,
}

impl Weights {
    pub fn load(model: &Model) -> Result<Self, ModelError> {
        let spec = &model.spec;
        let c = spec.channels;
        let values = |param: Param| -> Result<_, ModelError> {
            Ok(model.param(param)?.to_f32(param.count(spec)))
        };
        let norm = |weight, bias| -> Result<_, ModelError> {
            Ok(Norm {
                weight: values(weight)?,
                bias: values(bias)?,
            })
        };
        let linear = |weight, bias, inputs, outputs| -> Result<_, ModelError> {
            let matrix = values(weight)?;
            Ok(Linear {
                matrix: PackedMatrix::pack(&matrix, inputs, outputs),
                bias: values(bias)?,
            })
        };
        let layer = |i| -> Result<_, ModelError> {
            let (qkv, q, f) = (spec.qkv_width(), spec.heads * spec.head_dim, spec.mlp_width);
            Ok(Layer {
                attn_norm: norm(Param::AttnNormWeight(i), Param::AttnNormBias(i))?,
                qkv: linear(Param::QkvWeight(i), Param::QkvBias(i), c, qkv)?,
                attn_out: linear(Param::AttnOutWeight(i), Param::AttnOutBias(i), q, c)?,
                mlp_norm: norm(Param::MlpNormWeight(i), Param::MlpNormBias(i))?,
                mlp_up: linear(Param::MlpUpWeight(i), Param::MlpUpBias(i), c, f)?,
                mlp_down: linear(Param::MlpDownWeight(i), Param::MlpDownBias(i), f, c)?,
            })
        };
        let token_embedding = values(Param::TokenEmbedding)?;
        Ok(Self {
            head: PackedMatrix::pack_transposed(&token_embedding, c, spec.vocab),
            token_embedding,
            position_embedding: values(Param::PositionEmbedding)?,
            layers: (0..spec.layers).map(layer).collect::<Result<_, _>>()?,
            final_norm: norm(Param::FinalNormWeight, Param::FinalNormBias)?,
        })
    }

    /// Bytes that the loaded parameters take.
    pub fn held_bytes(&self) -> u64 {
        let norm = |n: &Norm| n.weight.len() + n.bias.len();
        let linear = |l: &Linear| l.matrix.len() + l.bias.len();
        let layer = |l: &Layer| {
            [&l.qkv, &l.attn_out, &l.mlp_up, &l.mlp_down]
                .map(linear)
                .iter()
                .sum::<usize>()
                + norm(&l.attn_norm)
                + norm(&l.mlp_norm)
        };
        let embeddings =
            self.token_embedding.len() + self.position_embedding.len() + self.head.len();
        let layers: usize = self.layers.iter().map(layer).sum();
        4 * (embeddings + layers + norm(&self.final_norm)) as u64
    }

    /// Bytes that [`Self::load`] will hold.
    pub fn bytes(spec: &ModelSpec) -> u64 {
        let packed = |inputs: usize, outputs: usize| PackedMatrix::packed_len(inputs, outputs);
        let (c, q, f) = (spec.channels, spec.heads * spec.head_dim, spec.mlp_width);
        let qkv = spec.qkv_width();
        let matrices = packed(c, qkv) + packed(q, c) + packed(c, f) + packed(f, c);
        let norms_and_biases = 4 * c + qkv + c + f + c;
        let embeddings = (spec.vocab + spec.max_positions) * c + packed(c, spec.vocab);
        let layer = (matrices + norms_and_biases) as u64;
        4 * ((embeddings + 2 * c) as u64 + spec.layers as u64 * layer)
    }
}
