//! The operations of a forward pass as plain loops in f32: the specification that every CUDA
//! kernel of the same name is tested against.

use rayon::prelude::*;

use crate::kv::KvLayout;
use crate::model::Activation;

/// `x[t] = wte[id_t] + wpe[pos_t]`. `x` is `[T, C]`, `wte` `[V, C]`, `wpe` `[S, C]`.
pub fn embedding(
    x: &mut [f32],
    token_ids: &[u32],
    positions: &[u32],
    wte: &[f32],
    wpe: &[f32],
    channels: usize,
) {
    let rows = x.par_chunks_exact_mut(channels);
    rows.zip(token_ids)
        .zip(positions)
        .for_each(|((row, &id), &pos)| {
            let token = &wte[id as usize * channels..][..channels];
            let position = &wpe[pos as usize * channels..][..channels];
            for ((out, a), b) in row.iter_mut().zip(token).zip(position) {
                *out = a + b;
            }
        });
}

/// `x += add + bias`; `x` and `add` are `[T, C]`, `bias` `[C]`.
pub fn bias_residual(x: &mut [f32], add: &[f32], bias: &[f32]) {
    let rows = x.par_chunks_exact_mut(bias.len());
    rows.zip(add.par_chunks_exact(bias.len()))
        .for_each(|(row, add)| {
            for ((out, a), b) in row.iter_mut().zip(add).zip(bias) {
                *out += a + b;
            }
        });
}

/// Layer norm over the last dimension (Ba et al. 2016): `out` and `x` are `[T, C]`.
pub fn layer_norm(out: &mut [f32], x: &[f32], weight: &[f32], beta: &[f32], eps: f32) {
    let channels = weight.len();
    let rows = out.par_chunks_exact_mut(channels);
    rows.zip(x.par_chunks_exact(channels)).for_each(|(out, x)| {
        let mean = x.iter().sum::<f32>() / channels as f32;
        let var = x.iter().map(|v| (v - mean) * (v - mean)).sum::<f32>() / channels as f32;
        let scale = 1.0 / (var + eps).sqrt();
        for (((out, v), w), b) in out.iter_mut().zip(x).zip(weight).zip(beta) {
            *out = (v - mean) * scale * w + b;
        }
    });
}

/// `h = activation(h + bias)`; `h` is `[T, F]`, `bias` `[F]`.
pub fn bias_activation(h: &mut [f32], bias: &[f32], activation: Activation) {
    h.par_chunks_exact_mut(bias.len()).for_each(|row| {
        for (v, b) in row.iter_mut().zip(bias) {
            *v = activation.apply(*v + b);
        }
    });
}

/// Where a token's K and V go.
#[derive(Debug, Clone, Copy)]
pub struct KvSlot<'a> {
    /// Page table of the token's row.
    pub pages: &'a [u32],
    /// KV index of the token in its row; `None` writes nothing.
    pub index: Option<usize>,
}

/// Adds the bias, splits `qkv` `[T, (Hq + 2·Hkv)·D]` into `q` `[T, Hq, D]` and K, V, and writes
/// the latter into one layer's part of the slab. `slots` is `[T]`.
pub fn kv_append(
    q: &mut [f32],
    kv: &mut [f32],
    qkv: &[f32],
    bias: &[f32],
    slots: &[KvSlot<'_>],
    layout: &KvLayout,
) {
    let d = layout.head_dim;
    let kv_width = layout.kv_heads * d;
    let q_width = bias.len() - 2 * kv_width;
    for ((q, qkv), slot) in q
        .chunks_exact_mut(q_width)
        .zip(qkv.chunks_exact(bias.len()))
        .zip(slots)
    {
        for ((out, a), b) in q.iter_mut().zip(qkv).zip(bias) {
            *out = a + b;
        }
        let Some(index) = slot.index else { continue };
        let page = slot.pages[index / layout.page_size];
        for value in [false, true] {
            for head in 0..layout.kv_heads {
                let from = q_width + usize::from(value) * kv_width + head * d;
                let to = layout.offset(page, value, head, index);
                for i in 0..d {
                    kv[to + i] = qkv[from + i] + bias[from + i];
                }
            }
        }
    }
}

/// One row of an attention call.
#[derive(Debug, Clone, Copy)]
pub struct AttentionRow<'a> {
    pub query_len: usize,
    pub kv_start: usize,
    pub kv_len: usize,
    pub pages: &'a [u32],
}

/// Causal attention of every row's queries over its KV pages, prefill and decode alike.
///
/// `out` and `q` are `[T, Hq, D]`, rows packed. Query `i` of a row stands at KV index
/// `kv_len - query_len + i` and sees the keys `kv_start ..= that index`; with none to see its
/// output is zero. Query head `h` reads KV head `h · Hkv / Hq`. Scores are scaled by 1/√D.
pub fn attention(
    out: &mut [f32],
    q: &[f32],
    kv: &[f32],
    rows: &[AttentionRow<'_>],
    query_heads: usize,
    layout: &KvLayout,
) {
    let d = layout.head_dim;
    let scale = 1.0 / (d as f32).sqrt();
    let queries: Vec<(&AttentionRow<'_>, usize)> = rows
        .iter()
        .flat_map(|row| (row.kv_len - row.query_len..row.kv_len).map(move |index| (row, index)))
        .collect();
    let heads = out.par_chunks_exact_mut(d).zip(q.par_chunks_exact(d));
    heads.enumerate().for_each(|(i, (out, q))| {
        let (row, last) = queries[i / query_heads];
        let kv_head = i % query_heads * layout.kv_heads / query_heads;
        let lane = |value, j: usize| {
            let page = row.pages[j / layout.page_size];
            &kv[layout.offset(page, value, kv_head, j)..][..d]
        };
        out.fill(0.0);
        let scores: Vec<f32> = (row.kv_start..=last)
            .map(|j| dot(q, lane(false, j)) * scale)
            .collect();
        let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        if max == f32::NEG_INFINITY {
            return;
        }
        let mut sum = 0.0;
        for (j, score) in (row.kv_start..).zip(&scores) {
            let p = (score - max).exp();
            sum += p;
            for (o, v) in out.iter_mut().zip(lane(true, j)) {
                *o += p * v;
            }
        }
        out.iter_mut().for_each(|o| *o /= sum);
    });
}

/// Eight partial sums, which the compiler keeps in vector registers.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (a, a_rest) = a.as_chunks::<8>();
    let (b, b_rest) = b.as_chunks::<8>();
    let mut sums = [0.0; 8];
    for (a, b) in a.iter().zip(b) {
        for ((sum, x), y) in sums.iter_mut().zip(a).zip(b) {
            *sum += x * y;
        }
    }
    let rest = a_rest.iter().zip(b_rest).map(|(x, y)| x * y).sum::<f32>();
    sums.iter().sum::<f32>() + rest
}
