//! A model's parameters, decoded and packed once when the runner opens: matrices in the type asked
//! for, all else in f32.

use super::matmul::{PackedMatrix, Weight};
use crate::model::{Element, Model, ModelError, ModelSpec, Param, Positions};

/// A norm's `[C]` weight, and its bias where it has one.
pub struct Norm {
    pub weight: Vec<f32>,
    pub bias: Option<Vec<f32>>,
}

/// A matrix and the bias of its product, if any.
pub struct Linear {
    pub matrix: PackedMatrix,
    pub bias: Option<Vec<f32>>,
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
    /// How the model knows positions.
    pub positions: PositionTable,
    pub layers: Vec<Layer>,
    pub final_norm: Norm,
    /// Packed for the product with the last hidden states; a tied head once more.
    pub head: PackedMatrix,
}

pub enum PositionTable {
    /// `[S, C]`
    Learned(Vec<f32>),
    /// [`Rope::table`](crate::model::Rope::table) of as many positions as a row may have.
    Rotary(Vec<[f32; 2]>),
}

impl Weights {
    /// For rows of up to `max_kv_len` positions, matrices in `T`.
    pub fn load<T: Weight>(model: &Model, max_kv_len: usize) -> Result<Self, ModelError> {
        let spec = &model.spec;
        let c = spec.channels;
        let values = |param| read::<f32>(model, param);
        let optional = |param: Param| param.is_of(spec).then(|| values(param)).transpose();
        let norm = |weight, bias| -> Result<_, ModelError> {
            Ok(Norm {
                weight: values(weight)?,
                bias: optional(bias)?,
            })
        };
        let linear = |weight, bias, inputs, outputs| -> Result<_, ModelError> {
            let matrix = read::<T>(model, weight)?;
            Ok(Linear {
                matrix: PackedMatrix::pack(&matrix, inputs, outputs),
                bias: optional(bias)?,
            })
        };
        let layer = |i| -> Result<_, ModelError> {
            let (qkv, q) = (spec.qkv_width(), spec.heads * spec.head_dim);
            let (up, f) = (spec.mlp_up_width(), spec.mlp_width);
            Ok(Layer {
                attn_norm: norm(Param::AttnNormWeight(i), Param::AttnNormBias(i))?,
                qkv: linear(Param::QkvWeight(i), Param::QkvBias(i), c, qkv)?,
                attn_out: linear(Param::AttnOutWeight(i), Param::AttnOutBias(i), q, c)?,
                mlp_norm: norm(Param::MlpNormWeight(i), Param::MlpNormBias(i))?,
                mlp_up: linear(Param::MlpUpWeight(i), Param::MlpUpBias(i), c, up)?,
                mlp_down: linear(Param::MlpDownWeight(i), Param::MlpDownBias(i), f, c)?,
            })
        };
        let head = read::<T>(model, Param::head(spec))?;
        Ok(Self {
            head: PackedMatrix::pack_transposed(&head, c, spec.vocab),
            token_embedding: match spec.tied_head {
                true => head.into_iter().map(T::to_f32).collect(),
                false => values(Param::TokenEmbedding)?,
            },
            positions: match spec.positions {
                Positions::Learned => PositionTable::Learned(values(Param::PositionEmbedding)?),
                Positions::Rotary(rope) => PositionTable::Rotary(
                    rope.table(spec.head_dim, rotary_positions(spec, max_kv_len)),
                ),
            },
            layers: (0..spec.layers).map(layer).collect::<Result<_, _>>()?,
            final_norm: norm(Param::FinalNormWeight, Param::FinalNormBias)?,
        })
    }

    /// Bytes that the loaded parameters take.
    pub fn held_bytes(&self) -> u64 {
        let vector = |values: &[f32]| size_of_val(values);
        let optional = |values: &Option<Vec<f32>>| values.as_deref().map_or(0, vector);
        let norm = |n: &Norm| vector(&n.weight) + optional(&n.bias);
        let linear = |l: &Linear| l.matrix.held_bytes() + optional(&l.bias);
        let layer = |l: &Layer| {
            [&l.qkv, &l.attn_out, &l.mlp_up, &l.mlp_down]
                .map(linear)
                .iter()
                .sum::<usize>()
                + norm(&l.attn_norm)
                + norm(&l.mlp_norm)
        };
        let positions = match &self.positions {
            PositionTable::Learned(values) => vector(values),
            PositionTable::Rotary(table) => size_of_val(&**table),
        };
        let embeddings = vector(&self.token_embedding) + positions + self.head.held_bytes();
        let layers: usize = self.layers.iter().map(layer).sum();
        (embeddings + layers + norm(&self.final_norm)) as u64
    }

    /// Bytes that [`Self::load`] will hold, with matrices of so many bytes an element.
    pub fn bytes(spec: &ModelSpec, max_kv_len: usize, matrix_element: usize) -> u64 {
        let held = |param: Param| match param {
            Param::QkvWeight(_)
            | Param::AttnOutWeight(_)
            | Param::MlpUpWeight(_)
            | Param::MlpDownWeight(_) => {
                let shape = param.shape(spec);
                PackedMatrix::bytes(shape[0], shape[1], matrix_element)
            }
            // Only its packed form, counted below.
            Param::Head => 0,
            other => other.count(spec) * size_of::<f32>(),
        };
        let params: u64 = Param::all(spec).map(|param| held(param) as u64).sum();
        let head = PackedMatrix::bytes(spec.channels, spec.vocab, matrix_element);
        let rotary = match spec.positions {
            Positions::Learned => 0,
            Positions::Rotary(_) => {
                rotary_positions(spec, max_kv_len) * spec.head_dim * size_of::<f32>()
            }
        };
        params + (head + rotary) as u64
    }
}

fn read<T: Element>(model: &Model, param: Param) -> Result<Vec<T>, ModelError> {
    model.param(param)?.to_vec(param.count(&model.spec))
}

/// Positions that a row of up to `max_kv_len` can have.
fn rotary_positions(spec: &ModelSpec, max_kv_len: usize) -> usize {
    spec.max_positions.min(max_kv_len)
}
