//! Norm, QKV, attention and its output product for few rows of a small model, in one kernel.

use cudarc::driver::CudaStream;

use super::sublayer::{self, Carver, MAX_SHARED_BYTES, RANKS, ROWS, THREADS};
use super::{StreamParams, blocks, mirrored};
use crate::runner::cuda::kernels::Kernels;
use crate::runner::cuda::launch::Launch;
use crate::runner::{Dtype, RunnerError};

/// Arguments of `attention_sublayer`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct AttentionSublayerParams {
    pub stream: StreamParams,
    /// `[C, (Hq + 2·Hkv)·D]`
    pub w_qkv: u64,
    /// `[(Hq + 2·Hkv)·D]`, or 0 for none.
    pub qkv_bias: u64,
    /// `[Hq·D, C]`
    pub w_out: u64,
    /// f32 `[Hkv, M, C]`, written: what each KV head's queries add to the stream.
    pub parts: u64,
    /// One layer's part of the slab, `[page][K|V][Hkv][P][D]`, written at position `kv_len − 1`.
    pub kv: u64,
    /// i32 `[M, page_stride]`
    pub page_table: u64,
    /// i32 `[M]`
    pub kv_start: u64,
    /// i32 `[M]`, this step's token included; 0 for a padding row.
    pub kv_len: u64,
    /// As in [`QkvTarget`](super::QkvTarget), or 0 for none.
    pub rotary: u64,
    /// Hq
    pub query_heads: i32,
    /// Hkv
    pub kv_heads: i32,
    /// D
    pub head_dim: i32,
    /// P
    pub page_size: i32,
    pub page_stride: i32,
    /// Of the scores: 1/√D.
    pub scale: f32,
    /// 1: the first sublayer of a step. The others may start only after it, on its stream: they read
    /// `page_table`, `kv_start`, `kv_len` and earlier positions of `kv` before the kernel before them ends.
    pub first: i32,
}

mirrored!(AttentionSublayerParams, 176, {
    stream: 0, w_qkv: 72, qkv_bias: 80, w_out: 88, parts: 96, kv: 104, page_table: 112,
    kv_start: 120, kv_len: 128, rotary: 136, query_heads: 144, kv_heads: 148, head_dim: 152,
    page_size: 156, page_stride: 160, scale: 164, first: 168,
});

/// What the kernel is compiled for.
#[derive(Debug, Clone, Copy)]
pub struct Variant {
    /// D
    pub head_dim: usize,
    /// How many blocks find room on an SM, as far as their registers go. Two where they must: with as
    /// many registers as it wants, a block of SmolLM2's is up to 5 % faster.
    pub blocks: usize,
}

const fn variant(head_dim: usize, blocks: usize) -> Variant {
    Variant { head_dim, blocks }
}

/// Those for two blocks first; a wider head would lack registers.
pub const VARIANTS: [Variant; 6] = [
    variant(32, 2),
    variant(64, 2),
    variant(32, 1),
    variant(64, 1),
    variant(80, 1),
    variant(128, 1),
];

/// Query heads of a KV head: one tile of the tensor core has as many.
const MAX_GROUP: usize = 8;

/// Shared memory of a block.
fn shared_bytes(channels: usize, heads: usize, head_dim: usize) -> usize {
    let (part, width) = (channels / RANKS, heads * head_dim);
    let columns = width + 2 * head_dim;
    let mut carver = Carver::default();
    carver.tile(part.next_multiple_of(16), columns);
    carver.tile(width, part.next_multiple_of(16));
    carver.tile(ROWS, part.next_multiple_of(32));
    carver.tile(ROWS, width.next_multiple_of(32));
    // The row's queries, key and value, and the bias.
    carver.take(columns, 2);
    carver.take(columns, 2);
    // The rotary position.
    carver.take(head_dim, 4);
    // The warps' softmax states.
    carver.take(THREADS as usize / 32 * heads * (head_dim + 2), 4);
    carver.exchange(columns, 5)
}

/// Shared memory of a block; `None` where there is no kernel.
fn known(channels: usize, query_heads: usize, kv_heads: usize, head_dim: usize) -> Option<usize> {
    let heads = query_heads.checked_div(kv_heads)?;
    let bytes = shared_bytes(channels, heads, head_dim);
    let is_known = sublayer::divides(channels)
        && VARIANTS.iter().any(|variant| variant.head_dim == head_dim)
        && query_heads.is_multiple_of(kv_heads)
        && (1..=MAX_GROUP).contains(&heads)
        && bytes <= MAX_SHARED_BYTES;
    is_known.then_some(bytes)
}

/// Whether there is a kernel for these sizes.
pub fn is_known(channels: usize, query_heads: usize, kv_heads: usize, head_dim: usize) -> bool {
    known(channels, query_heads, kv_heads, head_dim).is_some()
}

impl Kernels {
    /// # Errors
    /// In f32, before Hopper, for sizes that are not [known](is_known) or a page that is none, or
    /// when the driver refuses the launch.
    pub fn attention_sublayer(
        &self,
        stream: &CudaStream,
        dtype: Dtype,
        p: &AttentionSublayerParams,
    ) -> Result<(), RunnerError> {
        sublayer::check(&p.stream)?;
        Self::supports(p.head_dim as usize, p.page_size as usize)?;
        let sizes =
            [p.stream.channels, p.query_heads, p.kv_heads, p.head_dim].map(|size| size as usize);
        let [channels, query_heads, kv_heads, head_dim] = sizes;
        let groups = sublayer::row_groups(&p.stream);
        let is_crowded = 2 * RANKS * kv_heads * groups as usize > self.sms;
        let fits =
            |variant: &Variant| variant.head_dim == head_dim && (variant.blocks == 1 || is_crowded);
        let variant = VARIANTS.iter().position(fits);
        let function = self.attention_sublayer.get(dtype).zip(variant);
        let bytes = known(channels, query_heads, kv_heads, head_dim);
        let (Some((functions, variant)), Some(bytes)) = (function, bytes) else {
            return Err(RunnerError::Unavailable(format!(
                "the CUDA attention sublayer is for small models in f16 or bf16, not for {channels} channels and {query_heads}/{kv_heads} heads of {head_dim} in {dtype}"
            )));
        };
        Launch {
            function: functions[variant].on_hopper("attention_sublayer")?,
            grid: (RANKS as u32, blocks(p.kv_heads, 1), groups),
            threads: THREADS,
            shared_bytes: bytes as u32,
        }
        .behind_in_clusters(stream, p)
    }
}
