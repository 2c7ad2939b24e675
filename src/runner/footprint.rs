//! What a runner takes of its device's memory: known before anything is loaded, and counted after.

use serde::Serialize;

use super::{Dtype, RunnerError, RunnerOptions, cpu, cuda};
use crate::model::ModelSpec;

/// Bytes by what they are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Footprint {
    pub weights: u64,
    /// Activations of the largest step, its inputs, and the angles of rotary positions.
    pub scratch: u64,
    /// The KV slab, whole pages.
    pub kv: u64,
}

impl Footprint {
    pub fn total(&self) -> u64 {
        self.weights
            .saturating_add(self.scratch)
            .saturating_add(self.kv)
    }

    /// Bytes that must be free where only `share` of them may be taken, `reserve` bytes of it for
    /// the driver.
    pub fn free_needed(&self, reserve: u64, share: f64) -> u64 {
        (self.total().saturating_add(reserve) as f64 / share) as u64
    }
}

/// An open runner's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemoryUse {
    /// What it planned.
    pub asked: Footprint,
    /// What it got: on a GPU, by how much the device's free memory fell with each allocation; on a
    /// CPU the length of its buffers.
    pub given: Footprint,
    /// By how much the device's free memory fell while the runner opened: `given`, and the code of
    /// kernels and libraries, graphs and descriptors. None on a CPU.
    pub device: Option<u64>,
}

/// What kind of device memory is planned for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    Cpu,
    Cuda,
}

impl Target {
    /// The type of the weights where none is asked for: bf16 on CUDA; on a CPU f32, or bf16 where
    /// that is the checkpoint's own, so that nothing is rounded.
    pub fn usual_dtype(self, spec: &ModelSpec) -> Dtype {
        match self {
            Self::Cpu if !spec.bf16_weights => Dtype::F32,
            Self::Cpu | Self::Cuda => Dtype::BF16,
        }
    }

    /// The type of keys and values beside weights of a type.
    pub fn kv_dtype(self, weights: Dtype) -> Dtype {
        match self {
            Self::Cpu => Dtype::F32,
            Self::Cuda => weights,
        }
    }

    /// Bytes that a runner leaves to the driver besides its footprint.
    pub fn reserve(self) -> u64 {
        match self {
            Self::Cpu => 0,
            Self::Cuda => cuda::DRIVER_RESERVE,
        }
    }

    /// What the runner asks for when it is opened with `options` and full use of its limits, which
    /// is the slab that [`super::KvBudget::Utilization`] gives where memory suffices.
    ///
    /// # Errors
    /// [`RunnerError`] for sizes that this runner does not have.
    pub fn footprint(
        self,
        spec: &ModelSpec,
        options: &RunnerOptions,
    ) -> Result<Footprint, RunnerError> {
        match self {
            Self::Cpu => cpu::footprint(spec, options),
            Self::Cuda => cuda::footprint(spec, options),
        }
    }
}
