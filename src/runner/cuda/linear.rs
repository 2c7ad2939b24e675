//! The network's four products a layer, each with what follows it in one kernel, or cuBLASLt and the
//! kernel of the next operation.

use cudarc::driver::CudaStream;

use crate::model::Param;
use crate::runner::{Dtype, RunnerError};

use super::forward::{Forward, Network, Pending};
use super::gemm::{Gemms, Op, Operands, Shape};
use super::kernels::Kernels;
use super::ops::bias_activation::activation_code;
use super::ops::linear_slim;
use super::ops::linear_small::SMALL_WEIGHT;
use super::ops::{BiasActivationParams, KvAppendParams, LinearParams, QkvTarget};
use super::shape::bucket;

/// Every block of `linear_small` reads all of X from L2: up to here it is the fastest everywhere.
const FEW_ROWS: usize = 16;
/// Of a small weight it is ahead of cuBLASLt for a few rows more, where there is no `linear_tiled` ...
const FEW_ROWS_OF_SMALL_WEIGHT: usize = 32;
/// ... which, with what it fuses, is ahead of cuBLASLt and the kernels after it up to this many rows,
/// and of a narrow weight, whose tiles are few, up to twice as many. Where all blocks of `linear_slim` run
/// at once, that is ahead of it.
const TILED_ROWS: usize = 256;
const NARROW_WEIGHT: usize = 2 << 20;
/// Rows that a large weight meets at once in `linear_wide`, up to which it is ahead of cuBLASLt ...
const WIDE_ROWS: usize = 64;
/// ... and at more in pairs of tiles: it is as fast as cuBLASLt with the kernels after it where an eighth
/// of their rows at most is empty.
const PAIR_ROWS: usize = 256;

/// Who multiplies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    LinearSmall,
    LinearSlim,
    LinearTiled,
    LinearWide,
    LinearPortable,
    CublasLt,
}

/// What there is to multiply with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Means {
    pub dtype: Dtype,
    pub sms: usize,
    pub has_linear_slim: bool,
    pub has_linear_tiled: bool,
    pub has_linear_wide: bool,
    pub has_cublaslt: bool,
}

impl Means {
    pub fn of(dtype: Dtype, kernels: &Kernels, gemms: &Gemms) -> Self {
        Self {
            dtype,
            sms: kernels.sms,
            has_linear_slim: kernels.has_linear_slim(dtype),
            has_linear_tiled: kernels.has_linear_tiled(dtype),
            has_linear_wide: kernels.has_linear_wide(dtype),
            has_cublaslt: gemms.has_cublaslt(),
        }
    }

    /// The fastest for `m` rows and a weight of `k × n`.
    pub fn choose(self, m: usize, k: usize, n: usize) -> By {
        let rows_fill_tiles = m <= WIDE_ROWS || 8 * m >= 7 * m.next_multiple_of(PAIR_ROWS);
        let wide_is_ahead = k * n <= SMALL_WEIGHT || rows_fill_tiles;
        match self.kernel(m, k, n) {
            By::LinearPortable if self.has_cublaslt => By::CublasLt,
            By::LinearWide if self.has_cublaslt && !wide_is_ahead => By::CublasLt,
            kernel => kernel,
        }
    }

    /// The fastest of the kernels.
    pub fn kernel(self, m: usize, k: usize, n: usize) -> By {
        let is_small_weight = k * n <= SMALL_WEIGHT;
        let tiled_rows = match k * n <= NARROW_WEIGHT {
            true => 2 * TILED_ROWS,
            false => TILED_ROWS,
        };
        if self.dtype == Dtype::F32 {
            By::LinearPortable
        } else if m <= FEW_ROWS {
            By::LinearSmall
        } else if self.has_linear_slim
            && is_small_weight
            && m <= TILED_ROWS
            && linear_slim::runs_at_once([m, k, n], self.sms)
        {
            By::LinearSlim
        } else if self.has_linear_tiled && is_small_weight && m <= tiled_rows {
            By::LinearTiled
        } else if self.has_linear_wide {
            By::LinearWide
        } else if m <= FEW_ROWS_OF_SMALL_WEIGHT && is_small_weight {
            By::LinearSmall
        } else {
            By::LinearPortable
        }
    }
}

impl By {
    /// For people: the kernel and what it multiplies with.
    pub fn name(self, dtype: Dtype) -> &'static str {
        match self {
            Self::LinearSmall => "linear_small (mma.sync)",
            Self::LinearSlim => "linear_slim (wgmma)",
            Self::LinearTiled => "linear_tiled (wgmma)",
            Self::LinearWide => "linear_wide (wgmma)",
            Self::LinearPortable if dtype == Dtype::F32 => "linear_portable (CUDA cores)",
            Self::LinearPortable => "linear_portable (mma.sync)",
            Self::CublasLt => "cuBLASLt",
        }
    }

    /// Multiplies with a kernel. False, and nothing launched, where it is none of ours.
    pub fn launch(
        self,
        kernels: &Kernels,
        stream: &CudaStream,
        dtype: Dtype,
        p: &LinearParams,
    ) -> Result<bool, RunnerError> {
        match self {
            Self::LinearSmall => kernels.linear_small(stream, dtype, p)?,
            Self::LinearSlim => kernels.linear_slim(stream, dtype, p)?,
            Self::LinearTiled => kernels.linear_tiled(stream, dtype, p)?,
            Self::LinearWide => kernels.linear_wide(stream, dtype, p)?,
            Self::LinearPortable => kernels.linear_portable(stream, dtype, p)?,
            Self::CublasLt => return Ok(false),
        }
        Ok(true)
    }
}

/// `x · weight`.
struct Product {
    x: u64,
    weight: Param,
    k: usize,
    n: usize,
}

impl Network {
    fn means(&self) -> Means {
        Means::of(self.dtype, &self.kernels, &self.gemms)
    }

    /// Whether what multiplies `m` normalised rows had better not start before the kernel that leaves
    /// the rows' stream has ended: blocks of `linear_wide` that start beside it crowd onto the SMs with
    /// room, and other SMs then get none.
    pub(super) fn starts_better_late(&self, m: usize, n: usize) -> bool {
        m <= WIDE_ROWS && self.means().choose(m, self.spec.channels, n) == By::LinearWide
    }
}

impl Forward<'_> {
    /// The queries to scratch, keys and values to their pages, each with its bias.
    pub(super) fn project_qkv(&mut self, layer: usize) -> Result<(), RunnerError> {
        let network = &*self.network;
        let qkv = network.scratch.qkv;
        let bias = network.weights.optional(Param::QkvBias(layer));
        let product = Product {
            x: network.scratch.normed,
            weight: Param::QkvWeight(layer),
            k: network.spec.channels,
            n: network.spec.qkv_width(),
        };
        let to = self.qkv_target(layer);
        let fused = |p| LinearParams { bias, qkv: to, ..p };
        if self.multiply_fused(&product, fused)? {
            return Ok(());
        }
        self.multiply(&product, qkv)?;
        let p = KvAppendParams {
            qkv,
            bias,
            to,
            tokens: self.shape.tokens as i32,
        };
        let Self {
            network, device, ..
        } = self;
        network.kernels.kv_append(&device.stream, network.dtype, &p)
    }

    fn qkv_target(&self, layer: usize) -> QkvTarget {
        let n = &*self.network;
        QkvTarget {
            q: n.scratch.query,
            kv: n.layer_kv(layer),
            token_row: self.inputs.token_row,
            kv_index: self.inputs.kv_index,
            page_table: self.inputs.page_table,
            positions: self.inputs.positions,
            rotary: n.rotary,
            query_heads: n.spec.heads as i32,
            kv_heads: n.spec.kv_heads as i32,
            head_dim: n.spec.head_dim as i32,
            page_size: n.layout.page_size as i32,
            page_stride: self.inputs.page_stride as i32,
        }
    }

    pub(super) fn project_attention(&mut self, layer: usize) -> Result<(), RunnerError> {
        let network = &*self.network;
        let product = Product {
            x: network.scratch.attended,
            weight: Param::AttnOutWeight(layer),
            k: network.spec.heads * network.spec.head_dim,
            n: network.spec.channels,
        };
        self.add_to_residual(&product, Param::AttnOutBias(layer))
    }

    pub(super) fn project_down(&mut self, layer: usize) -> Result<(), RunnerError> {
        let network = &*self.network;
        let product = Product {
            x: network.scratch.hidden,
            weight: Param::MlpDownWeight(layer),
            k: network.spec.mlp_width,
            n: network.spec.channels,
        };
        self.add_to_residual(&product, Param::MlpDownBias(layer))
    }

    /// With the activation, and the gate where there is one.
    pub(super) fn project_up(&mut self, layer: usize) -> Result<(), RunnerError> {
        let network = &*self.network;
        let (y, spec) = (network.scratch.hidden, &network.spec);
        let bias = network.weights.optional(Param::MlpUpBias(layer));
        let activation = activation_code(spec.activation);
        let gated = i32::from(spec.gated_mlp);
        let features = spec.mlp_width as i32;
        let h = match spec.gated_mlp {
            true => network.scratch.gated,
            false => y,
        };
        let product = Product {
            x: network.scratch.normed,
            weight: Param::MlpUpWeight(layer),
            k: spec.channels,
            n: spec.mlp_up_width(),
        };
        let fused = |p| LinearParams {
            y,
            bias,
            activation,
            gated,
            ..p
        };
        if self.multiply_fused(&product, fused)? {
            return Ok(());
        }
        self.multiply(&product, h)?;
        let p = BiasActivationParams {
            y,
            h,
            bias,
            tokens: self.shape.tokens as i32,
            features,
            activation,
            gated,
        };
        let Self {
            network, device, ..
        } = self;
        network
            .kernels
            .bias_activation(&device.stream, network.dtype, &p)
    }

    /// Adds product and bias to the residual stream, or leaves them for the next norm to add.
    fn add_to_residual(&mut self, product: &Product, bias: Param) -> Result<(), RunnerError> {
        let (residual, update) = (self.network.scratch.residual, self.network.scratch.update);
        let bias = self.network.weights.optional(bias);
        let fused = |p| LinearParams {
            residual,
            bias,
            ..p
        };
        if self.multiply_fused(product, fused)? {
            return Ok(());
        }
        self.pending = Pending {
            add: update,
            bias,
            ..Pending::default()
        };
        self.multiply(product, update)
    }

    /// Multiplies with what `fused` adds to the arguments. False, and nothing launched, where
    /// cuBLASLt is better.
    fn multiply_fused(
        &self,
        product: &Product,
        fused: impl FnOnce(LinearParams) -> LinearParams,
    ) -> Result<bool, RunnerError> {
        let Product { x, weight, k, n } = *product;
        let Self {
            network, device, ..
        } = self;
        let (m, dtype, kernels) = (self.shape.tokens, network.dtype, &network.kernels);
        let p = fused(LinearParams::plain(x, network.weights[weight], [m, n, k]));
        let by = network.means().choose(m, k, n);
        by.launch(kernels, &device.stream, dtype, &p)
    }

    /// The tokens are rounded up to a bucket, so that few shapes exist; the extra rows are scratch
    /// that nobody reads.
    fn multiply(&mut self, product: &Product, y: u64) -> Result<(), RunnerError> {
        let Product { x, weight, k, n } = *product;
        let w = self.network.weights[weight];
        let shape = Shape {
            m: bucket(self.shape.tokens),
            n,
            k,
            op: Op::Linear,
        };
        self.network
            .gemms
            .multiply(self.device, shape, Operands { x, w, y })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cublaslt_is_never_needed() {
        for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16] {
            for on_hopper in [false, true] {
                for (m, k, n) in [(1, 768, 768), (64, 4096, 12_288), (4096, 768, 2304)] {
                    let with = |has_cublaslt| Means {
                        dtype,
                        sms: 132,
                        has_linear_slim: on_hopper,
                        has_linear_tiled: on_hopper,
                        has_linear_wide: on_hopper,
                        has_cublaslt,
                    };
                    let kernel = with(false).choose(m, k, n);
                    assert_ne!(kernel, By::CublasLt, "{dtype} {m}×{k}×{n}");
                    let fastest = with(true).choose(m, k, n);
                    let may_yield = [By::LinearPortable, By::LinearWide].contains(&kernel);
                    assert!(fastest == kernel || may_yield);
                }
            }
        }
    }
}
