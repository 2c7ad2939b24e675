//! One step of a model, from token ids to logits: its spec says which operations there are.

use super::matmul::PackedMatrix;
use super::memory::Demand;
use super::ops::{self, AttentionRow, KvSlot};
use super::weights::{Linear, Norm, PositionTable, Weights};
use crate::kv::KvLayout;
use crate::model::ModelSpec;
use crate::plan::{RowPlan, StepPlan};
use crate::runner::{Limits, RunnerError};

/// The buffers of a step, for the largest step that the limits allow.
pub struct Scratch {
    /// `[T, C]` the residual stream.
    x: Box<[f32]>,
    /// `[T, C]`
    normed: Box<[f32]>,
    /// `[T, (Hq + 2·Hkv)·D]`
    qkv: Box<[f32]>,
    /// `[T, Hq·D]`
    q: Box<[f32]>,
    /// `[T, Hq·D]`
    attended: Box<[f32]>,
    /// `[T, F]`, or `[T, 2·F]` with the gate.
    up: Box<[f32]>,
    /// `[T, F]`; empty without the gate.
    gated: Box<[f32]>,
    /// `[T, C]` what a block adds to the residual stream.
    add: Box<[f32]>,
    /// `[B, C]` every row's last token.
    last: Box<[f32]>,
    /// `[B, V]`
    pub logits: Box<[f32]>,
    /// Of [`PackedMatrix::matmul`].
    blocks: Box<[f32]>,
}

impl Scratch {
    /// Elements of the per-token buffers, the per-row buffers and the matmul scratch.
    fn sizes(spec: &ModelSpec, limits: &Limits) -> (u64, u64, u64) {
        let width = spec.qkv_width().max(spec.mlp_up_width()).max(spec.channels);
        let blocks = |rows: usize, outputs| {
            (rows as u64).saturating_mul(PackedMatrix::scratch_len(1, outputs) as u64)
        };
        let per_token = 3 * spec.channels
            + spec.qkv_width()
            + 2 * spec.heads * spec.head_dim
            + spec.mlp_up_width()
            + gated_width(spec);
        (
            (limits.max_tokens as u64).saturating_mul(per_token as u64),
            (limits.max_rows as u64).saturating_mul((spec.channels + spec.vocab) as u64),
            blocks(limits.max_tokens, width).max(blocks(limits.max_rows, spec.vocab)),
        )
    }

    pub fn bytes(spec: &ModelSpec, limits: &Limits) -> u64 {
        let (tokens, rows, blocks) = Self::sizes(spec, limits);
        tokens
            .saturating_add(rows)
            .saturating_add(blocks)
            .saturating_mul(4)
    }

    /// Bytes that the buffers take.
    pub fn held_bytes(&self) -> u64 {
        let buffers = [
            &self.x,
            &self.normed,
            &self.qkv,
            &self.q,
            &self.attended,
            &self.up,
            &self.gated,
            &self.add,
            &self.last,
            &self.logits,
            &self.blocks,
        ];
        buffers.map(|b| size_of_val(&**b) as u64).iter().sum()
    }

    pub fn new(spec: &ModelSpec, limits: &Limits, demand: &Demand) -> Result<Self, RunnerError> {
        let zeros = |rows: usize, width: usize| demand.zeros(rows as u64 * width as u64);
        let (t, c, q) = (limits.max_tokens, spec.channels, spec.heads * spec.head_dim);
        Ok(Self {
            x: zeros(t, c)?,
            normed: zeros(t, c)?,
            qkv: zeros(t, spec.qkv_width())?,
            q: zeros(t, q)?,
            attended: zeros(t, q)?,
            up: zeros(t, spec.mlp_up_width())?,
            gated: zeros(t, gated_width(spec))?,
            add: zeros(t, c)?,
            last: zeros(limits.max_rows, c)?,
            logits: zeros(limits.max_rows, spec.vocab)?,
            blocks: demand.zeros(Self::sizes(spec, limits).2)?,
        })
    }
}

/// Runs `plan` (valid for this model, slab and scratch), appends its keys and values to `kv`, and
/// leaves `[B, V]` logits of every row's last token in `scratch.logits`.
pub fn forward(
    spec: &ModelSpec,
    weights: &Weights,
    layout: &KvLayout,
    kv: &mut [f32],
    scratch: &mut Scratch,
    plan: &StepPlan,
) {
    let (t, b, c) = (plan.tokens(), plan.rows.len(), spec.channels);
    let slots = kv_slots(plan);
    let rows = attention_rows(plan);
    let positions: Vec<u32> = plan.rows.iter().flat_map(RowPlan::positions).collect();
    let layer_elements = kv.len() / spec.layers;

    let x = &mut scratch.x[..t * c];
    let normed = &mut scratch.normed[..t * c];
    let qkv = &mut scratch.qkv[..t * spec.qkv_width()];
    let q = &mut scratch.q[..t * spec.heads * spec.head_dim];
    let attended = &mut scratch.attended[..t * spec.heads * spec.head_dim];
    let up = &mut scratch.up[..t * spec.mlp_up_width()];
    let gated = &mut scratch.gated[..t * gated_width(spec)];
    let add = &mut scratch.add[..t * c];
    let last = &mut scratch.last[..b * c];
    let logits = &mut scratch.logits[..b * spec.vocab];
    let blocks = &mut scratch.blocks[..];

    let norm = |out: &mut [f32], x: &[f32], n: &Norm| match &n.bias {
        Some(bias) => ops::layer_norm(out, x, &n.weight, bias, spec.norm_eps),
        None => ops::rms_norm(out, x, &n.weight, spec.norm_eps),
    };
    let mut project = |y: &mut [f32], x: &[f32], l: &Linear| {
        l.matrix.matmul(y, x, blocks);
        ops::add_bias(y, l.bias.as_deref());
    };
    let (learned, rotary) = match &weights.positions {
        PositionTable::Learned(embedding) => (Some(&**embedding), None),
        PositionTable::Rotary(table) => (None, Some(&**table)),
    };

    let embedding = &weights.token_embedding;
    ops::embedding(x, &plan.token_ids, &positions, embedding, learned, c);
    for (layer, kv) in weights
        .layers
        .iter()
        .zip(kv.chunks_exact_mut(layer_elements))
    {
        norm(normed, x, &layer.attn_norm);
        project(qkv, normed, &layer.qkv);
        if let Some(table) = rotary {
            ops::rotate(qkv, &positions, table, spec.heads, layout);
        }
        ops::kv_append(q, kv, qkv, &slots, layout);
        ops::attention(attended, q, kv, &rows, spec.heads, layout);
        project(add, attended, &layer.attn_out);
        ops::residual(x, add, c);

        norm(normed, x, &layer.mlp_norm);
        project(up, normed, &layer.mlp_up);
        let hidden = if spec.gated_mlp {
            ops::gated_activation(gated, up, spec.activation);
            &*gated
        } else {
            ops::activation(up, spec.activation);
            &*up
        };
        project(add, hidden, &layer.mlp_down);
        ops::residual(x, add, c);
    }
    norm(normed, x, &weights.final_norm);
    last_tokens(last, normed, plan, c);
    weights.head.matmul(logits, last, blocks);
}

/// F where the gate's product needs a buffer of its own.
fn gated_width(spec: &ModelSpec) -> usize {
    match spec.gated_mlp {
        true => spec.mlp_width,
        false => 0,
    }
}

/// Where every token's key and value go: a row's tokens take its last `query_len` indices.
fn kv_slots(plan: &StepPlan) -> Vec<KvSlot<'_>> {
    plan.rows
        .iter()
        .flat_map(|row| {
            (row.kv_len - row.query_len..row.kv_len).map(|index| KvSlot {
                pages: &row.pages,
                index: Some(index),
            })
        })
        .collect()
}

fn attention_rows(plan: &StepPlan) -> Vec<AttentionRow<'_>> {
    plan.rows
        .iter()
        .map(|row| AttentionRow {
            query_len: row.query_len,
            kv_start: row.kv_start,
            kv_len: row.kv_len,
            pages: &row.pages,
        })
        .collect()
}

/// `out[b] = x[last token of row b]`; `out` is `[B, C]`, `x` `[T, C]`.
fn last_tokens(out: &mut [f32], x: &[f32], plan: &StepPlan, channels: usize) {
    let mut end = 0;
    for (out, row) in out.chunks_exact_mut(channels).zip(&plan.rows) {
        end += row.query_len;
        out.copy_from_slice(&x[(end - 1) * channels..][..channels]);
    }
}
