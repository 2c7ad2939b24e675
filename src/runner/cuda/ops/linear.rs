//! Arguments of the kernels that multiply and do what follows the product.

use super::{QkvTarget, mirrored, whole_vectors};
use crate::runner::RunnerError;
use crate::runner::cuda::tensor_map::{BoxedMatrix, TensorMap};

/// `y = activation(x·w + bias)`, or with the gate `activation(even columns)·odd columns`; or
/// `residual += x·w + bias`; or `x·w + bias` to `qkv`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct LinearParams {
    /// `[M, K]`
    pub x: u64,
    /// `[K, N]`, never written by a step: it is read before the previous kernel has ended.
    pub w: u64,
    /// `[N]`, or 0 for none.
    pub bias: u64,
    /// `[M, N]`, with the gate `[M, N/2]`, written; unused when `residual` or `qkv` is given.
    pub y: u64,
    /// f32 `[M, N]`, read and written; or 0.
    pub residual: u64,
    /// Where N = (Hq + 2·Hkv)·D columns go; or [`QkvTarget::NONE`].
    pub qkv: QkvTarget,
    /// M
    pub m: i32,
    /// N, a multiple of 8.
    pub n: i32,
    /// K, a multiple of 8.
    pub k: i32,
    /// An [`activation_code`](super::bias_activation::activation_code) or [`IDENTITY`]; unused when
    /// `residual` is given.
    pub activation: i32,
    /// 1: `y[m, j] = activation(column 2j)·column 2j + 1`.
    pub gated: i32,
}

mirrored!(LinearParams, 144, {
    x: 0, w: 8, bias: 16, y: 24, residual: 32, qkv: 40, m: 120, n: 124, k: 128, activation: 132,
    gated: 136,
});

impl LinearParams {
    /// `x·w` of `[M, K]` and `[K, N]`, with nothing after it and no output yet.
    pub fn plain(x: u64, w: u64, [m, n, k]: [usize; 3]) -> Self {
        Self {
            x,
            w,
            bias: 0,
            y: 0,
            residual: 0,
            qkv: QkvTarget::NONE,
            m: m as i32,
            n: n as i32,
            k: k as i32,
            activation: IDENTITY,
            gated: 0,
        }
    }

    /// X in boxes of so many rows, W in boxes of so many rows of K.
    ///
    /// Errors: the driver refuses the sizes.
    pub(super) fn boxed(
        &self,
        x_rows: usize,
        w_rows: usize,
    ) -> Result<BoxedLinearParams, RunnerError> {
        let [m, n, k] = [self.m, self.n, self.k].map(|size| usize::try_from(size).unwrap_or(0));
        let boxed = |address, rows, columns, box_rows| {
            TensorMap::new(&BoxedMatrix {
                address,
                rows,
                columns,
                box_rows,
            })
        };
        Ok(BoxedLinearParams {
            x: boxed(self.x, m, k, x_rows)?,
            w: boxed(self.w, k, n, w_rows)?,
            linear: *self,
        })
    }

    /// Errors: N or K is no multiple of 8.
    pub(super) fn check_vectors(&self) -> Result<(), RunnerError> {
        whole_vectors("the columns of a weight", self.n)?;
        whole_vectors("the rows of a weight", self.k)
    }
}

/// For the kernels to which the copy engine brings X and W.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct BoxedLinearParams {
    x: TensorMap,
    w: TensorMap,
    linear: LinearParams,
}

mirrored!(BoxedLinearParams, 512, { x: 0, w: 128, linear: 256 });

/// The kernels' number for no activation.
pub const IDENTITY: i32 = 4;
