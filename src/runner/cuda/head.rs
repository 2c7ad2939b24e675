//! From the last tokens' norm to the vocabulary: a greedy step's tokens in one kernel where there is
//! one, or the logits.

use super::device::Device;
use super::forward::{Forward, Network};
use super::gemm::{Gemms, Op, Operands, Shape};
use super::kernels::Kernels;
use super::ops::{HeadParams, LogitsParams};
use super::shape::{StepShape, bucket};
use super::weights::padded_vocab;
use crate::model::Param;
use crate::runner::{Dtype, RunnerError};

/// Who multiplies with the vocabulary where logits are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HeadBy {
    Head,
    HeadPortable,
    CublasLt,
}

/// Logits of more rows than a tile of `head` holds are faster by cuBLASLt, whose tiles are larger both
/// ways; tokens are not, since logits need not travel for them.
const ONE_TILE_OF_ROWS: usize = 256;

impl HeadBy {
    /// The fastest there is for the logits of `rows` rows.
    pub fn choose(dtype: Dtype, kernels: &Kernels, gemms: &Gemms, rows: usize) -> Self {
        let has_cublaslt = gemms.has_cublaslt();
        if kernels.has_head(dtype) && (rows <= ONE_TILE_OF_ROWS || !has_cublaslt) {
            Self::Head
        } else if has_cublaslt {
            Self::CublasLt
        } else {
            Self::HeadPortable
        }
    }

    /// For people: the kernel and what it multiplies with.
    pub fn name(self, dtype: Dtype) -> &'static str {
        match self {
            Self::Head => "head (wgmma)",
            Self::HeadPortable if dtype == Dtype::F32 => "head_portable (CUDA cores)",
            Self::HeadPortable => "head_portable (mma.sync)",
            Self::CublasLt => "cuBLASLt",
        }
    }
}

impl Network {
    /// Whether a step's tokens are chosen from logits in memory, which stay there after it.
    pub(super) fn leaves_logits(&self, shape: &StepShape) -> bool {
        shape.sampled || shape.penalised || !self.kernels.has_head(self.dtype)
    }

    /// The vocabulary's logits of every row that was normalised last.
    pub(super) fn score_vocabulary(
        &mut self,
        device: &Device,
        rows: usize,
    ) -> Result<(), RunnerError> {
        let (n, k) = (padded_vocab(&self.spec), self.spec.channels);
        let (x, logits) = (self.scratch.normed, self.scratch.logits);
        let w = self.weights[Param::head(&self.spec)];
        match HeadBy::choose(self.dtype, &self.kernels, &self.gemms, rows) {
            HeadBy::Head => {
                let p = HeadParams {
                    logits,
                    ..self.head_params(rows)
                };
                self.kernels.head(&device.stream, self.dtype, &p)
            }
            HeadBy::HeadPortable => {
                let p = LogitsParams {
                    x,
                    w,
                    logits,
                    m: rows as i32,
                    n: n as i32,
                    k: k as i32,
                };
                self.kernels.head_portable(&device.stream, self.dtype, &p)
            }
            HeadBy::CublasLt => {
                let shape = Shape {
                    m: bucket(rows),
                    n,
                    k,
                    op: Op::Head,
                };
                let operands = Operands { x, w, y: logits };
                self.gemms.multiply(device, shape, operands)
            }
        }
    }

    /// No output yet.
    fn head_params(&self, rows: usize) -> HeadParams {
        HeadParams {
            x: self.scratch.normed,
            e: self.weights[Param::head(&self.spec)],
            logits: 0,
            best: self.scratch.best,
            out: 0,
            host_out: 0,
            rows: rows as i32,
            vocab: self.spec.vocab as i32,
            channels: self.spec.channels as i32,
            stride: padded_vocab(&self.spec) as i32,
        }
    }
}

impl Forward<'_> {
    /// Each row's token with the largest logit; no logits.
    pub(super) fn choose_in_head(&self) -> Result<(), RunnerError> {
        let n = &*self.network;
        let p = HeadParams {
            out: n.scratch.tokens,
            host_out: self.host_tokens,
            ..n.head_params(self.shape.rows)
        };
        n.kernels.head(&self.device.stream, n.dtype, &p)
    }
}
