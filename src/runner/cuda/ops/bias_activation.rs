//! `y = activation(h + bias)`, or with the gate the product of neighbouring pairs.

use cudarc::driver::CudaStream;

use super::{VECTOR, blocks, mirrored, whole_vectors};
use crate::model::Activation;
use crate::runner::cuda::kernels::Kernels;
use crate::runner::cuda::launch::Launch;
use crate::runner::{Dtype, RunnerError};

/// Arguments of `bias_activation`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct BiasActivationParams {
    /// `[T, F]`, written; may be `h` without the gate.
    pub y: u64,
    /// `[T, F]`; with the gate `[T, 2·F]`, each feature of gate and up side by side.
    pub h: u64,
    /// As wide as `h`, or 0 for none.
    pub bias: u64,
    /// T
    pub tokens: i32,
    /// F, a multiple of 8.
    pub features: i32,
    /// See [`activation_code`].
    pub activation: i32,
    /// 1: `y[j] = activation(h[2j])·h[2j + 1]`, with biases added.
    pub gated: i32,
}

mirrored!(BiasActivationParams, 40, {
    y: 0, h: 8, bias: 16, tokens: 24, features: 28, activation: 32, gated: 36,
});

/// The kernel's number for an activation.
pub fn activation_code(activation: Activation) -> i32 {
    match activation {
        Activation::GeluTanh => 0,
        Activation::GeluErf => 1,
        Activation::Relu => 2,
        Activation::Silu => 3,
    }
}

const THREADS: u32 = 128;
/// Tokens a block walks over, so that it reads its part of the bias once.
const TOKENS_PER_BLOCK: i32 = 4;

impl Kernels {
    /// # Errors
    /// When F is not a multiple of 8, or the driver refuses the launch.
    pub fn bias_activation(
        &self,
        stream: &CudaStream,
        dtype: Dtype,
        p: &BiasActivationParams,
    ) -> Result<(), RunnerError> {
        whole_vectors("the MLP's width", p.features)?;
        Launch {
            function: self.bias_activation.get(dtype),
            grid: (
                blocks(p.tokens, TOKENS_PER_BLOCK),
                blocks(p.features / VECTOR, THREADS as i32),
                1,
            ),
            threads: THREADS,
            shared_bytes: 0,
        }
        .behind(stream, p)
    }
}
