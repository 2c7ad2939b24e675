//! One forward pass, as a list of launches. It reads nothing but device memory and waits for
//! nothing, so that the same code runs plainly and under graph capture.

use crate::kv::KvLayout;
use crate::model::{ModelSpec, NormKind, Param};
use crate::runner::{Dtype, RunnerError};

use super::device::Device;
use super::gemm::Gemms;
use super::inputs::InputArrays;
use super::kernels::Kernels;
use super::ops::attention_decode::{Heads, split};
use super::ops::{
    AdvanceRowsParams, ArgmaxParams, AttentionDecodeParams, AttentionPrefillParams,
    EmbeddingParams, PenaliseParams, ResidualNormParams, SampleParams,
};
use super::scratch::Scratch;
use super::shape::{StepShape, bucket};
use super::weights::{Weights, padded_vocab};

/// What stays the same from step to step.
pub struct Network {
    pub spec: ModelSpec,
    pub dtype: Dtype,
    pub kernels: Kernels,
    pub gemms: Gemms,
    pub weights: Weights,
    pub scratch: Scratch,
    pub layout: KvLayout,
    pub kv_slab: u64,
    pub kv_pages: usize,
    /// The address of the table of rotary positions, or 0.
    pub rotary: u64,
}

/// One step through the network.
pub struct Forward<'a> {
    pub device: &'a Device,
    pub network: &'a mut Network,
    pub inputs: InputArrays,
    /// How the rows get to this step.
    pub advance: AdvanceRowsParams,
    /// The repetition penalties of a step that has some.
    pub penalties: PenaliseParams,
    /// The address of the address where the host finds the tokens.
    pub host_tokens: u64,
    pub shape: StepShape,
    pub pending: Pending,
}

/// What the last operation has left for the next that reads the residual stream to add: addresses, or
/// 0 for nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Pending {
    /// `[T, C]`
    pub add: u64,
    /// f32 `[slices, T, C]`
    pub parts: u64,
    pub slices: usize,
    /// `[C]`
    pub bias: u64,
}

impl Forward<'_> {
    /// Token ids in, the next token of every row out, all in device memory.
    pub fn run(mut self) -> Result<(), RunnerError> {
        let layers = self.network.spec.layers;
        self.advance_rows()?;
        self.embed()?;
        let in_sublayers = self.runs_in_sublayers();
        for layer in 0..layers {
            match in_sublayers {
                true => self.run_sublayers(layer)?,
                false => self.run_operations(layer)?,
            }
        }
        self.normalise_last_tokens()?;
        if !self.network.leaves_logits(&self.shape) {
            return self.choose_in_head();
        }
        self.network
            .score_vocabulary(self.device, self.shape.rows)?;
        self.choose_tokens()
    }

    /// A layer, an operation after the other.
    fn run_operations(&mut self, layer: usize) -> Result<(), RunnerError> {
        self.normalise_for_attention(layer)?;
        self.project_qkv(layer)?;
        self.attend(layer)?;
        self.project_attention(layer)?;
        self.normalise_for_mlp(layer)?;
        self.project_up(layer)?;
        self.project_down(layer)
    }

    fn advance_rows(&self) -> Result<(), RunnerError> {
        let kernels = &self.network.kernels;
        kernels.advance_rows(&self.device.stream, &self.advance)
    }

    fn embed(&self) -> Result<(), RunnerError> {
        let n = &*self.network;
        let p = EmbeddingParams {
            x: n.scratch.residual,
            token_ids: self.inputs.token_ids,
            positions: self.inputs.positions,
            wte: n.weights[Param::TokenEmbedding],
            wpe: n.weights.optional(Param::PositionEmbedding),
            tokens: self.shape.tokens as i32,
            channels: n.spec.channels as i32,
        };
        n.kernels.embedding(&self.device.stream, n.dtype, &p)
    }

    fn normalise_for_attention(&mut self, layer: usize) -> Result<(), RunnerError> {
        let norm = [Param::AttnNormWeight(layer), Param::AttnNormBias(layer)];
        let columns = self.network.spec.qkv_width();
        self.normalise(norm, Before::Product { columns })
    }

    fn normalise_for_mlp(&mut self, layer: usize) -> Result<(), RunnerError> {
        let norm = [Param::MlpNormWeight(layer), Param::MlpNormBias(layer)];
        let columns = self.network.spec.mlp_up_width();
        self.normalise(norm, Before::Product { columns })
    }

    fn normalise_last_tokens(&mut self) -> Result<(), RunnerError> {
        let norm = [Param::FinalNormWeight, Param::FinalNormBias];
        self.normalise(norm, Before::Head)
    }

    /// Adds a pending update and its bias to the residual stream, then normalises it.
    fn normalise(&mut self, [weight, beta]: [Param; 2], before: Before) -> Result<(), RunnerError> {
        let pending = std::mem::take(&mut self.pending);
        let n = &*self.network;
        let (rows, row_index, holds_next) = match before {
            Before::Product { columns } => {
                let tokens = self.shape.tokens;
                (tokens, 0, n.starts_better_late(tokens, columns))
            }
            Before::Head => (self.shape.rows, self.inputs.last_token, false),
        };
        let p = ResidualNormParams {
            x: n.scratch.residual,
            add: pending.add,
            parts: pending.parts,
            bias: pending.bias,
            weight: n.weights[weight],
            beta: n.weights.optional(beta),
            out: n.scratch.normed,
            row_index,
            rows: rows as i32,
            channels: n.spec.channels as i32,
            eps: n.spec.norm_eps,
            slices: pending.slices as i32,
            slice_rows: self.shape.tokens as i32,
            rms: i32::from(n.spec.norm == NormKind::RmsNorm),
            holds_next: i32::from(holds_next),
        };
        n.kernels.residual_norm(&self.device.stream, n.dtype, &p)
    }

    /// The rows with one token, then the others.
    fn attend(&self, layer: usize) -> Result<(), RunnerError> {
        self.attend_decode(layer)?;
        self.attend_prefill(layer)
    }

    fn attend_prefill(&self, layer: usize) -> Result<(), RunnerError> {
        let n = &*self.network;
        // A row's tokens are found by `query_start`, so that arrays of tokens stay where they are.
        let first = self.shape.decoding;
        let from = |rows: u64, stride: usize| rows + (4 * first * stride) as u64;
        let p = AttentionPrefillParams {
            out: n.scratch.attended,
            q: n.scratch.query,
            kv: n.layer_kv(layer),
            page_table: from(self.inputs.page_table, self.inputs.page_stride),
            query_start: from(self.inputs.query_start, 1),
            kv_start: from(self.inputs.kv_start, 1),
            kv_len: from(self.inputs.kv_len, 1),
            rows: (self.shape.rows - first) as i32,
            max_query_len: self.shape.max_query_len as i32,
            query_heads: n.spec.heads as i32,
            kv_heads: n.spec.kv_heads as i32,
            head_dim: n.spec.head_dim as i32,
            page_size: n.layout.page_size as i32,
            page_stride: self.inputs.page_stride as i32,
            scale: n.attention_scale(),
            tokens: self.shape.tokens as i32,
            max_kv_len: self.shape.max_prompt_kv_len as i32,
        };
        let (kernels, stream) = (&n.kernels, &self.device.stream);
        match kernels.prefers_attention_prefill_wgmma(n.dtype, &p) {
            true => kernels.attention_prefill_wgmma(stream, n.dtype, &p),
            false => kernels.attention_prefill(stream, n.dtype, &p),
        }
    }

    fn attend_decode(&self, layer: usize) -> Result<(), RunnerError> {
        let n = &*self.network;
        let StepShape {
            decoding,
            max_kv_len,
            ..
        } = self.shape;
        let heads = Heads {
            query: n.spec.heads,
            kv: n.spec.kv_heads,
            dim: n.spec.head_dim,
        };
        let split = split(bucket(decoding), heads, max_kv_len, self.device.sms);
        let p = AttentionDecodeParams {
            out: n.scratch.attended,
            q: n.scratch.query,
            kv: n.layer_kv(layer),
            page_table: self.inputs.page_table,
            kv_start: self.inputs.kv_start,
            kv_len: self.inputs.kv_len,
            rows: decoding as i32,
            splits: split.splits as i32,
            chunk: split.chunk as i32,
            query_heads: n.spec.heads as i32,
            kv_heads: n.spec.kv_heads as i32,
            head_dim: n.spec.head_dim as i32,
            page_size: n.layout.page_size as i32,
            page_stride: self.inputs.page_stride as i32,
            scale: n.attention_scale(),
            warps: split.warps as i32,
        };
        n.kernels.attention_decode(&self.device.stream, n.dtype, &p)
    }

    fn choose_tokens(&self) -> Result<(), RunnerError> {
        let n = &*self.network;
        let stream = &self.device.stream;
        let (logits, out, host_out) = (n.scratch.logits, n.scratch.tokens, self.host_tokens);
        if self.shape.penalised {
            n.kernels.penalise(stream, &self.penalties)?;
        }
        let rows = self.shape.rows as i32;
        let (vocab, stride) = (n.spec.vocab as i32, padded_vocab(&n.spec) as i32);
        if !self.shape.sampled {
            let p = ArgmaxParams {
                logits,
                out,
                host_out,
                rows,
                vocab,
                stride,
            };
            return n.kernels.argmax(stream, &p);
        }
        let p = SampleParams {
            logits,
            temperature: self.inputs.temperature,
            top_k: self.inputs.top_k,
            top_p: self.inputs.top_p,
            seed: self.inputs.seed,
            sample_index: self.inputs.sample_index,
            out,
            host_out,
            rows,
            vocab,
            stride,
        };
        n.kernels.sample(stream, &p)
    }
}

/// Who reads what a norm leaves.
#[derive(Clone, Copy)]
enum Before {
    /// A product of all tokens with a weight of so many columns.
    Product { columns: usize },
    /// The head, of each row's last token.
    Head,
}

impl Network {
    /// One layer's part of the slab.
    pub(super) fn layer_kv(&self, layer: usize) -> u64 {
        let elements = self.kv_pages * self.layout.page_elements() * layer;
        self.kv_slab + (elements * self.layout.bytes_per_element) as u64
    }

    pub(super) fn attention_scale(&self) -> f32 {
        1.0 / (self.spec.head_dim as f32).sqrt()
    }
}
