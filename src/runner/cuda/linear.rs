//! The network's four products a layer, each with what follows it: one kernel where rows are few,
//! cuBLASLt and the kernel of the next operation otherwise.

use crate::model::Param;
use crate::runner::{Dtype, RunnerError};

use super::forward::Forward;
use super::gemm::{Op, Operands, Shape};
use super::ops::bias_activation::activation_code;
use super::ops::linear_small::IDENTITY;
use super::ops::{BiasActivationParams, LinearSmallParams};
use super::shape::bucket;

/// Every block of `linear_small` reads all of X from L2, so that more rows than this make it slower
/// than cuBLASLt, which reads X less often ...
const FEW_ROWS: usize = 16;
/// ... but up to this many where W is so small that a launch costs more than what it reads.
const FEW_ROWS_OF_SMALL_WEIGHT: usize = 32;
const SMALL_WEIGHT: usize = 4 << 20;

/// Whether `linear_small` is used for a product of these sizes.
fn is_small(dtype: Dtype, m: usize, k: usize, n: usize) -> bool {
    let whole_vectors = k.is_multiple_of(8) && n.is_multiple_of(8);
    let few_rows = m <= FEW_ROWS || m <= FEW_ROWS_OF_SMALL_WEIGHT && k * n <= SMALL_WEIGHT;
    dtype != Dtype::F32 && whole_vectors && few_rows
}

/// `x · weight`.
struct Product {
    x: u64,
    weight: Param,
    k: usize,
    n: usize,
}

impl Forward<'_> {
    /// The bias is left to the append.
    pub(super) fn project_qkv(&mut self, layer: usize) -> Result<(), RunnerError> {
        let network = &*self.network;
        let y = network.scratch.qkv;
        let product = Product {
            x: network.scratch.normed,
            weight: Param::QkvWeight(layer),
            k: network.spec.channels,
            n: network.spec.qkv_width(),
        };
        match self.small(&product) {
            Some(p) => self.multiply_small(LinearSmallParams { y, ..p }),
            None => self.multiply(&product, y),
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

    /// With the activation.
    pub(super) fn project_up(&mut self, layer: usize) -> Result<(), RunnerError> {
        let network = &*self.network;
        let (y, bias) = (
            network.scratch.hidden,
            network.weights[Param::MlpUpBias(layer)],
        );
        let activation = activation_code(network.spec.activation);
        let product = Product {
            x: network.scratch.normed,
            weight: Param::MlpUpWeight(layer),
            k: network.spec.channels,
            n: network.spec.mlp_width,
        };
        if let Some(p) = self.small(&product) {
            return self.multiply_small(LinearSmallParams {
                y,
                bias,
                activation,
                ..p
            });
        }
        self.multiply(&product, y)?;
        let p = BiasActivationParams {
            h: y,
            bias,
            tokens: self.shape.tokens as i32,
            features: product.n as i32,
            activation,
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
        let bias = self.network.weights[bias];
        if let Some(p) = self.small(product) {
            return self.multiply_small(LinearSmallParams {
                residual,
                bias,
                ..p
            });
        }
        self.pending_bias = Some(bias);
        self.multiply(product, update)
    }

    /// The arguments of `linear_small` without output, or `None` where cuBLASLt is better.
    fn small(&self, product: &Product) -> Option<LinearSmallParams> {
        let Product { x, weight, k, n } = *product;
        let m = self.shape.tokens;
        is_small(self.network.dtype, m, k, n).then(|| LinearSmallParams {
            x,
            w: self.network.weights[weight],
            bias: 0,
            y: 0,
            residual: 0,
            m: m as i32,
            n: n as i32,
            k: k as i32,
            activation: IDENTITY,
        })
    }

    fn multiply_small(&self, p: LinearSmallParams) -> Result<(), RunnerError> {
        let Self {
            network, device, ..
        } = self;
        network
            .kernels
            .linear_small(&device.stream, network.dtype, &p)
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
