//! `h = activation(h + bias)` in place.

use cudarc::driver::CudaStream;

use super::{VECTOR, blocks, mirrored, whole_vectors};
use crate::model::Activation;
use crate::runner::cuda::kernels::{Kernels, Launch};
use crate::runner::{Dtype, RunnerError};

/// Arguments of `bias_activation`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct BiasActivationParams {
    /// `[T, F]`, read and written.
    pub h: u64,
    /// `[F]`
    pub bias: u64,
    /// T
    pub tokens: i32,
    /// F, a multiple of 8.
    pub features: i32,
    /// See [`activation_code`].
    pub activation: i32,
}

mirrored!(BiasActivationParams, 32, {
    h: 0, bias: 8, tokens: 16, features: 20, activation: 24,
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
