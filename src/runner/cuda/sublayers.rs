//! The layers of a decode step with few rows of a small model: a kernel for each of a layer's two
//! sublayers, in place of the seven that `forward.rs` launches otherwise.

use crate::model::{ModelSpec, NormKind, Param};
use crate::runner::{Dtype, RunnerError};

use super::forward::{Forward, Pending};
use super::ops::bias_activation::activation_code;
use super::ops::sublayer::{RANKS, ROWS};
use super::ops::{AttentionSublayerParams, MlpSublayerParams, StreamParams};
use super::ops::{attention_sublayer, mlp_sublayer};

/// More rows would leave no SM free: each group of eight has its own clusters, which read the weights
/// again.
pub const MOST_ROWS: usize = 16;
/// One block attends for a row and a KV head: with longer contexts several share the work.
const MOST_KV: usize = 512;

/// Whether all blocks of a layer run at once, two on an SM. One group of rows need not.
fn fit_at_once(rows: usize, clusters: usize, sms: usize) -> bool {
    let groups = rows.div_ceil(ROWS);
    groups == 1 || groups * clusters * RANKS <= 2 * sms
}

/// Into how many slices the MLP of this model is divided; `None` where its layers are no sublayers.
pub fn slices(spec: &ModelSpec, dtype: Dtype) -> Option<usize> {
    let has_kernels = dtype != Dtype::F32
        && attention_sublayer::is_known(spec.channels, spec.heads, spec.kv_heads, spec.head_dim);
    match has_kernels {
        true => mlp_sublayer::slices(spec.channels, spec.mlp_width, spec.gated_mlp),
        false => None,
    }
}

impl Forward<'_> {
    /// Whether this step's layers are launched as sublayers.
    pub(super) fn runs_in_sublayers(&self) -> bool {
        let (n, shape) = (&*self.network, &self.shape);
        let clusters = slices(&n.spec, n.dtype).map(|slices| slices + n.spec.kv_heads);
        n.kernels.has_sublayers(n.dtype)
            && clusters.is_some_and(|clusters| fit_at_once(shape.tokens, clusters, self.device.sms))
            && shape.is_decode()
            && shape.tokens <= MOST_ROWS
            && shape.max_kv_len <= MOST_KV
    }

    /// A layer in two kernels.
    pub(super) fn run_sublayers(&mut self, layer: usize) -> Result<(), RunnerError> {
        self.attention_sublayer(layer)?;
        self.mlp_sublayer(layer)
    }

    fn attention_sublayer(&mut self, layer: usize) -> Result<(), RunnerError> {
        let scratch = self.network.scratch;
        let norm = [Param::AttnNormWeight(layer), Param::AttnNormBias(layer)];
        let stream = self.stream(norm, scratch.residual, scratch.between);
        let n = &*self.network;
        let p = AttentionSublayerParams {
            stream,
            w_qkv: n.weights[Param::QkvWeight(layer)],
            qkv_bias: n.weights.optional(Param::QkvBias(layer)),
            w_out: n.weights[Param::AttnOutWeight(layer)],
            parts: scratch.attention_parts,
            kv: n.layer_kv(layer),
            page_table: self.inputs.page_table,
            kv_start: self.inputs.kv_start,
            kv_len: self.inputs.kv_len,
            rotary: n.rotary,
            query_heads: n.spec.heads as i32,
            kv_heads: n.spec.kv_heads as i32,
            head_dim: n.spec.head_dim as i32,
            page_size: n.layout.page_size as i32,
            page_stride: self.inputs.page_stride as i32,
            scale: n.attention_scale(),
            first: i32::from(layer == 0),
        };
        self.pending = Pending {
            parts: p.parts,
            slices: n.spec.kv_heads,
            bias: n.weights.optional(Param::AttnOutBias(layer)),
            ..Pending::default()
        };
        n.kernels
            .attention_sublayer(&self.device.stream, n.dtype, &p)
    }

    fn mlp_sublayer(&mut self, layer: usize) -> Result<(), RunnerError> {
        let scratch = self.network.scratch;
        let norm = [Param::MlpNormWeight(layer), Param::MlpNormBias(layer)];
        let stream = self.stream(norm, scratch.between, scratch.residual);
        let n = &*self.network;
        let p = MlpSublayerParams {
            stream,
            w_up: n.weights[Param::MlpUpWeight(layer)],
            up_bias: n.weights.optional(Param::MlpUpBias(layer)),
            w_down: n.weights[Param::MlpDownWeight(layer)],
            parts: scratch.mlp_parts,
            features: n.spec.mlp_width as i32,
            activation: activation_code(n.spec.activation),
            gated: i32::from(n.spec.gated_mlp),
        };
        self.pending = Pending {
            parts: p.parts,
            slices: slices(&n.spec, n.dtype).unwrap_or(0),
            bias: n.weights.optional(Param::MlpDownBias(layer)),
            ..Pending::default()
        };
        n.kernels.mlp_sublayer(&self.device.stream, n.dtype, &p)
    }

    /// The stream at `x` with what is pending, to `x_out`, and its norm.
    fn stream(&mut self, [weight, beta]: [Param; 2], x: u64, x_out: u64) -> StreamParams {
        let pending = std::mem::take(&mut self.pending);
        let n = &*self.network;
        StreamParams {
            x,
            parts: pending.parts,
            bias: pending.bias,
            x_out,
            weight: n.weights[weight],
            beta: n.weights.optional(beta),
            slices: pending.slices as i32,
            m: self.shape.tokens as i32,
            channels: n.spec.channels as i32,
            eps: n.spec.norm_eps,
            rms: i32::from(n.spec.norm == NormKind::RmsNorm),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_models_alone_have_sublayers() {
        for (channels, query_heads, kv_heads, head_dim, known) in [
            (768, 12, 12, 64, true),
            (1024, 16, 16, 64, true),
            (576, 9, 3, 64, true),
            // Too wide a stream, weights too large for a block, and channels that eight blocks cannot share.
            (4096, 32, 32, 128, false),
            (896, 14, 2, 64, false),
            (72, 2, 2, 64, false),
        ] {
            let is_known = attention_sublayer::is_known(channels, query_heads, kv_heads, head_dim);
            assert_eq!(is_known, known, "{channels} channels");
        }
    }

    #[test]
    fn a_second_group_of_rows_needs_room() {
        let (distilgpt2, smollm2) = (12 + 8, 3 + 8);
        assert!(fit_at_once(8, distilgpt2, 132) && fit_at_once(16, smollm2, 132));
        assert!(!fit_at_once(16, distilgpt2, 132));
    }
}
