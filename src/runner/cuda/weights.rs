//! Parameters on the device, in the compute type.

use std::collections::HashMap;
use std::ops::Index;

use cudarc::driver::sys::CUdeviceptr;
use half::{bf16, f16};
use rayon::prelude::*;

use super::device::{Device, Memory};
use super::kernels::Kernels;
use super::memory::Placement;
use super::ops::RandomFillParams;
use crate::model::{Model, ModelSpec, Param, ParamData};
use crate::runner::{Dtype, RunnerError};

/// cuBLASLt is 3 to 5 times slower when the head's width is no multiple of its tiles.
const HEAD_ALIGNMENT: usize = 128;

/// Elements converted at a time on the host, so that a model is never there twice.
const CHUNK: usize = 4 << 20;

/// Rows of the token embedding and width of the logits: the vocabulary and its padding.
pub fn padded_vocab(spec: &ModelSpec) -> usize {
    spec.vocab.next_multiple_of(HEAD_ALIGNMENT)
}

/// Bytes that [`Weights::load`] takes.
pub fn bytes(spec: &ModelSpec, dtype: Dtype) -> u64 {
    place(0, spec, dtype).1
}

/// The address of every parameter, from `base` on, and the address after the last.
fn place(base: CUdeviceptr, spec: &ModelSpec, dtype: Dtype) -> (HashMap<Param, CUdeviceptr>, u64) {
    let mut placement = Placement::from(base);
    let addresses = Param::all(spec)
        .map(|param| {
            let count = match param {
                Param::TokenEmbedding | Param::Head => padded_vocab(spec) * spec.channels,
                other => other.count(spec),
            };
            (param, placement.place(count, dtype.bytes()))
        })
        .collect();
    (addresses, placement.end())
}

/// Where each parameter lies.
pub struct Weights {
    addresses: HashMap<Param, CUdeviceptr>,
    memory: Memory,
}

impl Index<Param> for Weights {
    type Output = CUdeviceptr;

    /// Every parameter of the model's spec is there.
    fn index(&self, param: Param) -> &CUdeviceptr {
        &self.addresses[&param]
    }
}

impl Weights {
    /// The address of a parameter that not every model has; 0 where this one has it not.
    pub fn optional(&self, param: Param) -> CUdeviceptr {
        self.addresses.get(&param).copied().unwrap_or(0)
    }

    /// Device memory that they took.
    pub fn given_bytes(&self) -> u64 {
        self.memory.given
    }

    /// Places all parameters of `model`: converted from its files, or made on the device.
    pub fn load(
        device: &Device,
        kernels: &Kernels,
        model: &Model,
        dtype: Dtype,
    ) -> Result<Self, RunnerError> {
        let spec = &model.spec;
        // Zeroed, which is what the rows that pad the token embedding must be.
        let memory = device.allocate("the weights", bytes(spec, dtype))?;
        let (addresses, _end) = place(memory.address, spec, dtype);
        for param in Param::all(spec) {
            let (out, count) = (addresses[&param], param.count(spec));
            match model.param(param)? {
                ParamData::Seeded { seed, mean, spread } => {
                    let fill = RandomFillParams {
                        out,
                        seed,
                        count: count as u64,
                        mean,
                        spread,
                    };
                    kernels.random_fill(&device.stream, dtype, &fill)?;
                }
                ParamData::F32(raw) => upload::<f32>(device, dtype, param, raw, out, count)?,
                ParamData::F16(raw) => upload::<f16>(device, dtype, param, raw, out, count)?,
                ParamData::BF16(raw) => upload::<bf16>(device, dtype, param, raw, out, count)?,
            }
        }
        device.synchronize()?;
        Ok(Self { addresses, memory })
    }
}

/// Converts `raw`, elements of type `S`, to `dtype` and puts them at `out`.
fn upload<S: Element>(
    device: &Device,
    dtype: Dtype,
    param: Param,
    raw: &[u8],
    out: CUdeviceptr,
    count: usize,
) -> Result<(), RunnerError> {
    if raw.len() != count * size_of::<S>() {
        return Err(RunnerError::Options(format!(
            "{param:?} has {} bytes, but the model's shape needs {count} elements of {}",
            raw.len(),
            S::DTYPE
        )));
    }
    if S::DTYPE == dtype {
        // SAFETY: `count` elements of `dtype` were placed at `out`.
        return unsafe { device.upload(out, raw) };
    }
    let mut converted = Vec::new();
    for (index, chunk) in raw.chunks(CHUNK * size_of::<S>()).enumerate() {
        let overflow = match dtype {
            Dtype::F32 => convert::<S, f32>(chunk, &mut converted),
            Dtype::F16 => convert::<S, f16>(chunk, &mut converted),
            Dtype::BF16 => convert::<S, bf16>(chunk, &mut converted),
        };
        if let Some((element, value)) = overflow {
            return Err(RunnerError::Options(format!(
                "{param:?} holds {value} at element {}, which {dtype} cannot; use --dtype f32",
                index * CHUNK + element
            )));
        }
        let at = out + (index * CHUNK * dtype.bytes()) as u64;
        // SAFETY: chunk `index` of the `count` elements of `dtype` placed at `out`.
        unsafe { device.upload(at, &converted) }?;
    }
    Ok(())
}

/// Rewrites `raw` as elements of `D`. A value that overflows `D` is given back with its index.
fn convert<S: Element, D: Element>(raw: &[u8], out: &mut Vec<u8>) -> Option<(usize, f32)> {
    out.resize(raw.len() / size_of::<S>() * size_of::<D>(), 0);
    out.par_chunks_exact_mut(size_of::<D>())
        .zip(raw.par_chunks_exact(size_of::<S>()))
        .with_min_len(1 << 14)
        .enumerate()
        .find_map_first(|(index, (to, from))| {
            let value = S::read(from);
            let fits = D::write(value, to) || !value.is_finite();
            (!fits).then_some((index, value))
        })
}

/// A floating-point type as it lies in memory, little-endian.
trait Element {
    const DTYPE: Dtype;
    fn read(bytes: &[u8]) -> f32;
    /// Rounds to nearest even; false when the result is not finite.
    fn write(value: f32, bytes: &mut [u8]) -> bool;
}

impl Element for f32 {
    const DTYPE: Dtype = Dtype::F32;

    fn read(bytes: &[u8]) -> f32 {
        f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
    }

    fn write(value: f32, bytes: &mut [u8]) -> bool {
        bytes.copy_from_slice(&value.to_le_bytes());
        value.is_finite()
    }
}

impl Element for f16 {
    const DTYPE: Dtype = Dtype::F16;

    fn read(bytes: &[u8]) -> f32 {
        f16::from_le_bytes([bytes[0], bytes[1]]).to_f32()
    }

    fn write(value: f32, bytes: &mut [u8]) -> bool {
        let rounded = f16::from_f32(value);
        bytes.copy_from_slice(&rounded.to_le_bytes());
        rounded.is_finite()
    }
}

impl Element for bf16 {
    const DTYPE: Dtype = Dtype::BF16;

    fn read(bytes: &[u8]) -> f32 {
        bf16::from_le_bytes([bytes[0], bytes[1]]).to_f32()
    }

    fn write(value: f32, bytes: &mut [u8]) -> bool {
        let rounded = bf16::from_f32(value);
        bytes.copy_from_slice(&rounded.to_le_bytes());
        rounded.is_finite()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes_of(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|v| v.to_le_bytes()).collect()
    }

    #[test]
    fn conversions_round_to_nearest_even() {
        // 1 + 2⁻¹¹ and 1 + 3·2⁻¹¹ are ties for f16, 1 + 2⁻⁸ and 1 + 3·2⁻⁸ for bf16.
        let half = bytes_of(&[1.0 + 2f32.powi(-11), 1.0 + 3.0 * 2f32.powi(-11), -0.0]);
        let mut out = Vec::new();
        assert_eq!(convert::<f32, f16>(&half, &mut out), None);
        assert_eq!(out, [0x00, 0x3c, 0x02, 0x3c, 0x00, 0x80]);
        let brain = bytes_of(&[1.0 + 2f32.powi(-8), 1.0 + 3.0 * 2f32.powi(-8), -0.0]);
        assert_eq!(convert::<f32, bf16>(&brain, &mut out), None);
        assert_eq!(out, [0x80, 0x3f, 0x82, 0x3f, 0x00, 0x80]);
        let back = out.clone();
        assert_eq!(convert::<bf16, f32>(&back, &mut out), None);
        assert_eq!(out, bytes_of(&[1.0, 1.0 + 2f32.powi(-6), -0.0]));
    }

    #[test]
    fn overflow_is_found_and_named() {
        let mut values = vec![1.0; 70_000];
        values[50_000] = -70_000.0;
        values[60_000] = 1e30;
        let mut out = Vec::new();
        assert_eq!(
            convert::<f32, f16>(&bytes_of(&values), &mut out),
            Some((50_000, -70_000.0))
        );
        assert_eq!(convert::<f32, bf16>(&bytes_of(&values), &mut out), None);
    }
}
