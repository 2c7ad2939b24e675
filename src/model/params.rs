//! The parameters of a model by role, and the raw data behind each.

/// A parameter by role. Matrices are `[in, out]` row-major, so that `y = x · W`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Param {
    /// `[V, C]`; also the output head, which is tied to it.
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
    /// `[C, F]`
    MlpUpWeight(usize),
    /// `[F]`
    MlpUpBias(usize),
    /// `[F, C]`
    MlpDownWeight(usize),
    /// `[C]`
    MlpDownBias(usize),
    /// `[C]`
    FinalNormWeight,
    /// `[C]`
    FinalNormBias,
}

/// The values of one parameter, before a runner converts or makes them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ParamData<'a> {
    /// Little-endian elements as they lie in the file, row-major, `count` of them.
    F32(&'a [u8]),
    F16(&'a [u8]),
    BF16(&'a [u8]),
    /// `count` elements of `mean + spread · u`, u uniform in (−1, 1) from [`seeded_unit`].
    Seeded {
        seed: u64,
        mean: f32,
        spread: f32,
    },
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
