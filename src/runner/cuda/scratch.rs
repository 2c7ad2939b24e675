//! The activations of a step: one allocation, made for the largest step and used by every other.

use cudarc::driver::sys::CUdeviceptr;

use super::gemm::WORKSPACE_BYTES;
use super::memory::Placement;
use super::shape::StepShape;
use super::sublayers;
use super::weights::padded_vocab;
use crate::model::ModelSpec;
use crate::runner::{Dtype, Limits};

/// What the sizes of the scratch depend on.
#[derive(Debug, Clone, Copy)]
pub struct ScratchSizes<'a> {
    pub spec: &'a ModelSpec,
    pub dtype: Dtype,
    pub limits: Limits,
}

/// Addresses of the activations; T and B are those of the largest step.
#[derive(Debug, Clone, Copy)]
pub struct Scratch {
    /// f32 `[T, C]`, the residual stream.
    pub residual: CUdeviceptr,
    /// `[T, C]`
    pub normed: CUdeviceptr,
    /// `[T, (Hq + 2·Hkv)·D]`
    pub qkv: CUdeviceptr,
    /// `[T, Hq, D]`
    pub query: CUdeviceptr,
    /// `[T, Hq, D]`
    pub attended: CUdeviceptr,
    /// `[T, F]`
    pub hidden: CUdeviceptr,
    /// `[T, 2·F]`, gate and up before the gate opens; empty without one.
    pub gated: CUdeviceptr,
    /// `[T, C]` what a block adds to the residual stream, before its bias, unless it adds it itself.
    pub update: CUdeviceptr,
    /// f32 `[B, padded V]`
    pub logits: CUdeviceptr,
    /// u64 `[1 + B]`, in which the blocks of `head` meet; zero between launches.
    pub best: CUdeviceptr,
    /// i32 `[B]`
    pub tokens: CUdeviceptr,
    /// f32 `[rows, C]`, the residual stream between the two sublayers of a layer, and f32 `[Hkv, rows,
    /// C]` and `[slices, rows, C]`, what each adds to it; empty where a model's layers are no sublayers.
    pub between: CUdeviceptr,
    pub attention_parts: CUdeviceptr,
    pub mlp_parts: CUdeviceptr,
    /// cuBLASLt's, where it is found.
    pub workspace: CUdeviceptr,
}

impl Scratch {
    /// Places everything from `base` on; also gives the address after the last part.
    pub fn place(base: CUdeviceptr, sizes: &ScratchSizes<'_>) -> (Self, u64) {
        let ScratchSizes {
            spec,
            dtype,
            limits,
        } = *sizes;
        let largest = StepShape::largest(&limits);
        let (tokens, rows, element) = (largest.tokens, largest.rows, dtype.bytes());
        let (channels, query_width) = (spec.channels, spec.heads * spec.head_dim);
        let slices = sublayers::slices(spec, dtype);
        let few = match slices {
            Some(_) => channels * rows.min(sublayers::MOST_ROWS),
            None => 0,
        };
        let mut p = Placement::from(base);
        let scratch = Self {
            residual: p.place(tokens * channels, 4),
            normed: p.place(tokens * channels, element),
            qkv: p.place(tokens * spec.qkv_width(), element),
            query: p.place(tokens * query_width, element),
            attended: p.place(tokens * query_width, element),
            hidden: p.place(tokens * spec.mlp_width, element),
            gated: p.place(
                if spec.gated_mlp {
                    tokens * spec.mlp_up_width()
                } else {
                    0
                },
                element,
            ),
            update: p.place(tokens * channels, element),
            logits: p.place(rows * padded_vocab(spec), 4),
            best: p.place(1 + rows, 8),
            tokens: p.place(rows, 4),
            between: p.place(few, 4),
            attention_parts: p.place(few * spec.kv_heads, 4),
            mlp_parts: p.place(few * slices.unwrap_or(0), 4),
            workspace: p.place(WORKSPACE_BYTES, 1),
        };
        (scratch, p.end())
    }
}
