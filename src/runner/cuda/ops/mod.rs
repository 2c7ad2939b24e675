//! Launch wrappers, one file a kernel: its params struct and a method on
//! [`Kernels`](super::kernels::Kernels).
//!
//! A wrapper only launches: it allocates nothing, waits for nothing and can be captured into a CUDA
//! graph. Device pointers are `u64` (`CUdeviceptr`); every array must hold what the struct's
//! documentation says and live until the stream has run the kernel.

pub mod advance_rows;
pub mod argmax;
pub mod attention_decode;
pub mod attention_prefill;
pub mod attention_prefill_wgmma;
pub mod attention_sublayer;
pub mod bias_activation;
pub mod embedding;
pub mod head;
pub mod kv_append;
pub mod linear;
pub mod linear_portable;
pub mod linear_slim;
pub mod linear_small;
pub mod linear_tiled;
pub mod linear_wide;
pub mod mlp_sublayer;
pub mod penalise;
pub mod random_fill;
pub mod residual_norm;
pub mod sample;
pub mod stream;
pub(in crate::runner::cuda) mod sublayer;

use crate::runner::RunnerError;

pub use advance_rows::{AdvanceRowsParams, Turn};
pub use argmax::ArgmaxParams;
pub use attention_decode::AttentionDecodeParams;
pub use attention_prefill::AttentionPrefillParams;
pub use attention_sublayer::AttentionSublayerParams;
pub use bias_activation::BiasActivationParams;
pub use embedding::EmbeddingParams;
pub use head::HeadParams;
pub use kv_append::{KvAppendParams, QkvTarget};
pub use linear::LinearParams;
pub use linear_portable::LogitsParams;
pub use mlp_sublayer::MlpSublayerParams;
pub use penalise::PenaliseParams;
pub use random_fill::RandomFillParams;
pub use residual_norm::ResidualNormParams;
pub use sample::SampleParams;
pub use stream::StreamParams;

/// Elements that one thread moves: 16 bytes of a 16-bit type.
pub(super) const VECTOR: i32 = 8;

/// A struct that a kernel takes by value.
///
/// # Safety
/// The type is `#[repr(C)]` and its layout is that of the struct of the same name in
/// kernels/params.cuh.
pub(super) unsafe trait DeviceParams: Copy {}

/// Asserts a params struct's size and offsets; kernels/params.cuh asserts the same numbers.
macro_rules! mirrored {
    ($name:ident, $size:literal, { $($field:ident: $offset:literal),+ $(,)? }) => {
        const _: () = {
            assert!(size_of::<$name>() == $size);
            $(assert!(std::mem::offset_of!($name, $field) == $offset);)+
        };
        // SAFETY: the assertions above and the static_asserts in kernels/params.cuh.
        unsafe impl $crate::runner::cuda::ops::DeviceParams for $name {}
    };
}
use mirrored;

/// A size that kernels handle in whole vectors.
fn whole_vectors(what: &str, size: i32) -> Result<(), RunnerError> {
    if size > 0 && size % VECTOR == 0 {
        return Ok(());
    }
    Err(RunnerError::Unavailable(format!(
        "the CUDA kernels need {what} to be a multiple of {VECTOR}, not {size}; use --device cpu"
    )))
}

/// Shared memory of one of Hopper's SMs, and what a block takes of it beside its own.
const SM_BYTES: usize = 228 << 10;
const BLOCK_BYTES: usize = 1 << 10;

/// `count` things in blocks of `each`; 0 for nothing or less.
fn blocks(count: i32, each: i32) -> u32 {
    u32::try_from(count).unwrap_or(0).div_ceil(each as u32)
}
