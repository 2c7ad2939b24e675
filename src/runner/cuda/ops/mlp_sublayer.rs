//! Norm and MLP for few rows of a small model, in one kernel.

use cudarc::driver::CudaStream;

use super::sublayer::{self, Carver, MAX_SHARED_BYTES, RANKS, ROWS, THREADS};
use super::{StreamParams, mirrored};
use crate::runner::cuda::kernels::Kernels;
use crate::runner::cuda::launch::Launch;
use crate::runner::{Dtype, RunnerError};

/// Arguments of `mlp_sublayer`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct MlpSublayerParams {
    pub stream: StreamParams,
    /// `[C, F]`, with the gate `[C, 2·F]`.
    pub w_up: u64,
    /// `[F]`, with the gate `[2·F]`; or 0 for none.
    pub up_bias: u64,
    /// `[F, C]`
    pub w_down: u64,
    /// f32 `[slices, M, C]`, written: what each of the [`slices`] of F adds to the stream.
    pub parts: u64,
    /// F
    pub features: i32,
    /// An [`activation_code`](super::bias_activation::activation_code).
    pub activation: i32,
    /// 1: columns 2j and 2j + 1 of W_up are gate and up of feature j.
    pub gated: i32,
}

mirrored!(MlpSublayerParams, 120, {
    stream: 0, w_up: 72, up_bias: 80, w_down: 88, parts: 96, features: 104, activation: 108,
    gated: 112,
});

/// Into how many slices F may be divided, the best first: enough blocks to read the weights, and few
/// parts to add.
const SLICES: [usize; 7] = [8, 16, 32, 64, 4, 2, 1];

/// Shared memory of a block whose slice has this many features.
fn shared_bytes(channels: usize, features: usize, gated: bool) -> usize {
    let (part, columns) = (
        channels / RANKS,
        if gated { 2 * features } else { features },
    );
    let mut carver = Carver::default();
    carver.tile(part.next_multiple_of(16), columns);
    carver.tile(features, part.next_multiple_of(16));
    carver.tile(ROWS, part.next_multiple_of(32));
    carver.tile(ROWS, features.next_multiple_of(32));
    // The row's features, and the bias.
    carver.take(features, 2);
    carver.take(columns, 2);
    carver.exchange(columns, 4)
}

/// Slices of F, each a cluster's; `None` where there is no kernel for these sizes.
pub fn slices(channels: usize, features: usize, gated: bool) -> Option<usize> {
    let fits = |slices: &usize| {
        let own = features / slices;
        features > 0
            && features.is_multiple_of(16 * slices)
            && sublayer::can_fetch(if gated { 2 * own } else { own })
            && shared_bytes(channels, own, gated) <= MAX_SHARED_BYTES
    };
    SLICES
        .into_iter()
        .find(fits)
        .filter(|_| sublayer::divides(channels))
}

impl Kernels {
    /// # Errors
    /// In f32, before Hopper, for sizes that have no [`slices`], or when the driver refuses the
    /// launch.
    pub fn mlp_sublayer(
        &self,
        stream: &CudaStream,
        dtype: Dtype,
        p: &MlpSublayerParams,
    ) -> Result<(), RunnerError> {
        sublayer::check(&p.stream)?;
        let (channels, features, gated) = (
            p.stream.channels as usize,
            p.features as usize,
            p.gated != 0,
        );
        let (Some(function), Some(slices)) = (
            self.mlp_sublayer.get(dtype),
            slices(channels, features, gated),
        ) else {
            return Err(RunnerError::Unavailable(format!(
                "the CUDA MLP sublayer is for small models in f16 or bf16, not for {channels} channels and {features} features in {dtype}"
            )));
        };
        Launch {
            function: function.on_hopper("mlp_sublayer")?,
            grid: (RANKS as u32, slices as u32, sublayer::row_groups(&p.stream)),
            threads: THREADS,
            shared_bytes: shared_bytes(channels, features / slices, gated) as u32,
        }
        .behind_in_clusters(stream, p)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_are_whole_steps_of_the_product_and_fit() {
        assert_eq!(slices(768, 3072, false), Some(8));
        assert_eq!(slices(576, 1536, true), Some(8));
        assert_eq!(slices(1024, 4096, false), Some(16));
        assert_eq!(slices(64, 48, false), Some(1));
        // No multiple of 16, and too wide a stream.
        assert_eq!(slices(64, 40, false), None);
        assert_eq!(slices(4096, 11_008, true), None);
    }
}
