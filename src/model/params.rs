//! The parameters of a model by role, and the raw data behind each.

use rayon::prelude::*;

use super::{Element, ModelError, ModelSpec, NormKind, Positions, Stored};

/// A parameter by role. Matrices are `[in, out]` row-major, so that `y = x · W`.
///
/// What an operation takes in pairs lies in neighbouring columns: with rotary positions, columns 2i and
/// 2i + 1 of a query or key head are dimensions i and i + D/2 of HF's; with a gated MLP, columns 2j and
/// 2j + 1 are feature j of gate and up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Param {
    /// `[V, C]`; also the output head where it is tied to it.
    TokenEmbedding,
    /// `[S, C]`
    PositionEmbedding,
    /// `[C]`
    AttnNormWeight(usize),
    /// `[C]`
    AttnNormBias(usize),
    /// `[C, (Hq + 2·Hkv)·D]`
    QkvWeight(usize),
    /// `[(Hq + 2·Hkv)·D]`
    QkvBias(usize),
    /// `[Hq·D, C]`
    AttnOutWeight(usize),
    /// `[C]`
    AttnOutBias(usize),
    /// `[C]`
    MlpNormWeight(usize),
    /// `[C]`
    MlpNormBias(usize),
    /// `[C, F]`, or `[C, 2·F]` with the gate.
    MlpUpWeight(usize),
    /// `[F]`, or `[2·F]` with the gate.
    MlpUpBias(usize),
    /// `[F, C]`
    MlpDownWeight(usize),
    /// `[C]`
    MlpDownBias(usize),
    /// `[C]`
    FinalNormWeight,
    /// `[C]`
    FinalNormBias,
    /// `[V, C]`, an output head of its own.
    Head,
}

impl Param {
    /// Every parameter of a model, in the order of a forward pass.
    pub fn all(spec: &ModelSpec) -> impl Iterator<Item = Self> {
        let layers = (0..spec.layers).flat_map(|layer| LAYER.iter().map(move |make| make(layer)));
        [Self::TokenEmbedding, Self::PositionEmbedding]
            .into_iter()
            .chain(layers)
            .chain([Self::FinalNormWeight, Self::FinalNormBias, Self::Head])
            .filter(|param| param.is_of(spec))
    }

    /// Whether a model of this spec has it.
    pub fn is_of(self, spec: &ModelSpec) -> bool {
        match self {
            Self::PositionEmbedding => spec.positions == Positions::Learned,
            Self::AttnNormBias(_) | Self::MlpNormBias(_) | Self::FinalNormBias => {
                spec.norm == NormKind::LayerNorm
            }
            Self::QkvBias(_) => spec.qkv_bias,
            Self::AttnOutBias(_) => spec.attn_out_bias,
            Self::MlpUpBias(_) | Self::MlpDownBias(_) => spec.mlp_bias,
            Self::Head => !spec.tied_head,
            Self::TokenEmbedding
            | Self::AttnNormWeight(_)
            | Self::QkvWeight(_)
            | Self::AttnOutWeight(_)
            | Self::MlpNormWeight(_)
            | Self::MlpUpWeight(_)
            | Self::MlpDownWeight(_)
            | Self::FinalNormWeight => true,
        }
    }

    /// The output head.
    pub fn head(spec: &ModelSpec) -> Self {
        match spec.tied_head {
            true => Self::TokenEmbedding,
            false => Self::Head,
        }
    }

    /// Row-major shape, as a runner has it.
    pub fn shape(self, spec: &ModelSpec) -> Vec<usize> {
        let attention = spec.heads * spec.head_dim;
        match self {
            Self::TokenEmbedding | Self::Head => vec![spec.vocab, spec.channels],
            Self::PositionEmbedding => vec![spec.max_positions, spec.channels],
            Self::QkvWeight(_) => vec![spec.channels, spec.qkv_width()],
            Self::QkvBias(_) => vec![spec.qkv_width()],
            Self::AttnOutWeight(_) => vec![attention, spec.channels],
            Self::MlpUpWeight(_) => vec![spec.channels, spec.mlp_up_width()],
            Self::MlpUpBias(_) => vec![spec.mlp_up_width()],
            Self::MlpDownWeight(_) => vec![spec.mlp_width, spec.channels],
            Self::AttnNormWeight(_)
            | Self::AttnNormBias(_)
            | Self::AttnOutBias(_)
            | Self::MlpNormWeight(_)
            | Self::MlpNormBias(_)
            | Self::MlpDownBias(_)
            | Self::FinalNormWeight
            | Self::FinalNormBias => vec![spec.channels],
        }
    }

    /// Elements in it.
    pub fn count(self, spec: &ModelSpec) -> usize {
        self.shape(spec).iter().product()
    }

    /// A number of its own for every parameter, the same whatever the model's size.
    pub fn index(self) -> u64 {
        let in_layer = |layer: usize, role: u64| 16 * (layer as u64 + 1) + role;
        match self {
            Self::TokenEmbedding => 0,
            Self::PositionEmbedding => 1,
            Self::FinalNormWeight => 2,
            Self::FinalNormBias => 3,
            Self::Head => 4,
            Self::AttnNormWeight(l) => in_layer(l, 0),
            Self::AttnNormBias(l) => in_layer(l, 1),
            Self::QkvWeight(l) => in_layer(l, 2),
            Self::QkvBias(l) => in_layer(l, 3),
            Self::AttnOutWeight(l) => in_layer(l, 4),
            Self::AttnOutBias(l) => in_layer(l, 5),
            Self::MlpNormWeight(l) => in_layer(l, 6),
            Self::MlpNormBias(l) => in_layer(l, 7),
            Self::MlpUpWeight(l) => in_layer(l, 8),
            Self::MlpUpBias(l) => in_layer(l, 9),
            Self::MlpDownWeight(l) => in_layer(l, 10),
            Self::MlpDownBias(l) => in_layer(l, 11),
        }
    }

    /// Seeded values as GPT-2 is initialised: norms 1, biases 0, the rest with deviation 0.02.
    pub(super) fn seeded<'a>(self, seed: u64) -> ParamData<'a> {
        // A uniform on (−a, a) has the standard deviation a/√3.
        const SPREAD: f32 = 0.034_641_016;
        let (mean, spread) = match self {
            Self::AttnNormWeight(_) | Self::MlpNormWeight(_) | Self::FinalNormWeight => (1.0, 0.0),
            Self::TokenEmbedding
            | Self::PositionEmbedding
            | Self::Head
            | Self::QkvWeight(_)
            | Self::AttnOutWeight(_)
            | Self::MlpUpWeight(_)
            | Self::MlpDownWeight(_) => (0.0, SPREAD),
            Self::AttnNormBias(_)
            | Self::QkvBias(_)
            | Self::AttnOutBias(_)
            | Self::MlpNormBias(_)
            | Self::MlpUpBias(_)
            | Self::MlpDownBias(_)
            | Self::FinalNormBias => (0.0, 0.0),
        };
        ParamData::Seeded {
            seed: seed.wrapping_add(self.index()),
            mean,
            spread,
        }
    }
}

/// The parameters of one layer, in the order of a forward pass.
const LAYER: [fn(usize) -> Param; 12] = [
    Param::AttnNormWeight,
    Param::AttnNormBias,
    Param::QkvWeight,
    Param::QkvBias,
    Param::AttnOutWeight,
    Param::AttnOutBias,
    Param::MlpNormWeight,
    Param::MlpNormBias,
    Param::MlpUpWeight,
    Param::MlpUpBias,
    Param::MlpDownWeight,
    Param::MlpDownBias,
];

/// The values of one parameter, before a runner converts or makes them.
#[derive(Debug, Clone)]
pub enum ParamData<'a> {
    /// As a checkpoint has them.
    Stored(Stored<'a>),
    /// Elements of `mean + spread · u`, u uniform in (−1, 1) from [`seeded_unit`].
    Seeded { seed: u64, mean: f32, spread: f32 },
}

impl ParamData<'_> {
    /// The values in `T`, exact in f32 for every stored type. `count` is [`Param::count`].
    ///
    /// # Errors
    /// A value that overflows `T`.
    pub fn to_vec<T: Element>(&self, count: usize) -> Result<Vec<T>, ModelError> {
        match *self {
            Self::Stored(ref stored) => {
                let mut values = vec![T::zeroed(); count];
                stored.read(0, &mut values)?;
                Ok(values)
            }
            Self::Seeded {
                mean, spread: 0.0, ..
            } => Ok(vec![T::from_f32(mean); count]),
            Self::Seeded { seed, mean, spread } => Ok((0..count as u64)
                .into_par_iter()
                .map(|i| T::from_f32(mean + spread * seeded_unit(seed, i)))
                .collect()),
        }
    }
}

/// Element `index` of a seeded parameter, uniform in (−1, 1): the top 23 bits of one Philox word,
/// exact in f32 on every device.
pub fn seeded_unit(seed: u64, index: u64) -> f32 {
    let words = crate::sampling::philox(
        [(index / 4) as u32, ((index / 4) >> 32) as u32, 0, 1],
        [seed as u32, (seed >> 32) as u32],
    );
    2.0 * crate::sampling::unit_interval(words[(index % 4) as usize]) - 1.0
}
