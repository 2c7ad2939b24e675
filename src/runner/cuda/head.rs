//! From the last tokens' norm to the vocabulary: the tokens of a greedy step in one kernel, or logits
//! for those that sample or penalise.

use super::device::Device;
use super::forward::{Forward, Network};
use super::gemm::{Op, Operands, Shape};
use super::ops::HeadParams;
use super::shape::{StepShape, bucket};
use super::weights::padded_vocab;
use crate::model::Param;
use crate::runner::RunnerError;

impl Network {
    /// Whether a step's tokens are chosen from logits in memory, which stay there after it.
    pub(super) fn leaves_logits(&self, shape: &StepShape) -> bool {
        shape.sampled || shape.penalised || !self.kernels.has_head(self.dtype)
    }

    /// The logits of the last tokens of `rows` rows, which were normalised last.
    pub(super) fn score_vocabulary(
        &mut self,
        device: &Device,
        rows: usize,
    ) -> Result<(), RunnerError> {
        if self.kernels.has_head(self.dtype) {
            let p = HeadParams {
                logits: self.scratch.logits,
                ..self.head_params(rows)
            };
            return self.kernels.head(&device.stream, self.dtype, &p);
        }
        let shape = Shape {
            m: bucket(rows),
            n: padded_vocab(&self.spec),
            k: self.spec.channels,
            op: Op::Head,
        };
        let operands = Operands {
            x: self.scratch.normed,
            w: self.weights[Param::head(&self.spec)],
            y: self.scratch.logits,
        };
        self.gemms.multiply(device, shape, operands)
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
