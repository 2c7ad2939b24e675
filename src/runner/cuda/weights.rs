//! Parameters on the device, in the compute type.

use std::collections::HashMap;
use std::ops::Index;

use cudarc::driver::sys::CUdeviceptr;
use half::{bf16, f16};

use super::device::{Device, Memory};
use super::kernels::Kernels;
use super::memory::Placement;
use super::ops::RandomFillParams;
use crate::model::{Element, Model, ModelSpec, Param, ParamData, Stored};
use crate::runner::{Dtype, RunnerError};

/// cuBLASLt is 3 to 5 times slower when the head's width is no multiple of its tiles, and the kernels
/// need one of 8.
const HEAD_ALIGNMENT: usize = 128;

/// Elements converted at a time on the host, about: so that a model is never there twice.
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
                ParamData::Stored(stored) => match dtype {
                    Dtype::F32 => upload::<f32>(device, &stored, out)?,
                    Dtype::F16 => upload::<f16>(device, &stored, out)?,
                    Dtype::BF16 => upload::<bf16>(device, &stored, out)?,
                },
            }
        }
        device.synchronize()?;
        Ok(Self { addresses, memory })
    }
}

/// Puts `stored` at `out`, as elements of type `T`.
fn upload<T: Element>(
    device: &Device,
    stored: &Stored<'_>,
    out: CUdeviceptr,
) -> Result<(), RunnerError> {
    let mut converted = Vec::new();
    for rows in stored.chunks(CHUNK) {
        converted.resize(rows.len() * stored.columns, T::zeroed());
        stored.read(rows.start, &mut converted)?;
        let at = out + (rows.start * stored.columns * size_of::<T>()) as u64;
        // SAFETY: these rows of the `rows · columns` elements of `T` that were placed at `out`.
        unsafe { device.upload(at, bytemuck::cast_slice(&converted)) }?;
    }
    Ok(())
}
