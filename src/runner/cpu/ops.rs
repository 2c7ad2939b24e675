//! The operations of a forward pass as plain loops in f32: the specification that every CUDA
//! kernel of the same name is tested against.

use rayon::prelude::*;

use crate::kv::KvLayout;
use crate::model::Activation;

/// `x[t] = wte[id_t] + wpe[pos_t]`. `x` is `[T, C]`, `wte` `[V, C]`, `wpe` `[S, C]` or none.
pub fn embedding(
    x: &mut [f32],
    token_ids: &[u32],
    positions: &[u32],
    wte: &[f32],
    wpe: Option<&[f32]>,
    channels: usize,
) {
    let rows = x.par_chunks_exact_mut(channels);
    rows.zip(token_ids)
        .zip(positions)
        .for_each(|((row, &id), &pos)| {
            row.copy_from_slice(&wte[id as usize * channels..][..channels]);
            if let Some(wpe) = wpe {
                add(row, &wpe[pos as usize * channels..][..channels]);
            }
        });
}

/// `x += y`.
fn add(x: &mut [f32], y: &[f32]) {
    for (out, v) in x.iter_mut().zip(y) {
        *out += v;
    }
}

/// `y += bias` for every row of `y`, `[T, N]`; nothing without a bias.
pub fn add_bias(y: &mut [f32], bias: Option<&[f32]>) {
    if let Some(bias) = bias {
        let rows = y.par_chunks_exact_mut(bias.len());
        rows.for_each(|row| add(row, bias));
    }
}

/// `x += update`, both `[T, C]`.
pub fn residual(x: &mut [f32], update: &[f32], channels: usize) {
    let rows = x.par_chunks_exact_mut(channels);
    rows.zip(update.par_chunks_exact(channels))
        .for_each(|(row, update)| add(row, update));
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

/// RMS norm over the last dimension (Zhang & Sennrich 2019): `out` and `x` are `[T, C]`.
pub fn rms_norm(out: &mut [f32], x: &[f32], weight: &[f32], eps: f32) {
    let channels = weight.len();
    let rows = out.par_chunks_exact_mut(channels);
    rows.zip(x.par_chunks_exact(channels)).for_each(|(out, x)| {
        let square = x.iter().map(|v| v * v).sum::<f32>() / channels as f32;
        let scale = 1.0 / (square + eps).sqrt();
        for ((out, v), w) in out.iter_mut().zip(x).zip(weight) {
            *out = v * scale * w;
        }
    });
}

/// `h = activation(h)` in place.
pub fn activation(h: &mut [f32], activation: Activation) {
    h.par_iter_mut().for_each(|v| *v = activation.apply(*v));
}

/// `y[j] = activation(h[2j]) · h[2j + 1]`; `h` is `[T, 2·F]` with gate and up side by side, `y`
/// `[T, F]`.
pub fn gated_activation(y: &mut [f32], h: &[f32], activation: Activation) {
    let (pairs, _) = h.as_chunks::<2>();
    y.par_iter_mut()
        .zip(pairs)
        .for_each(|(out, &[gate, up])| *out = activation.apply(gate) * up);
}

/// Where a token's K and V go.
#[derive(Debug, Clone, Copy)]
pub struct KvSlot<'a> {
    /// Page table of the token's row.
    pub pages: &'a [u32],
    /// KV index of the token in its row; `None` writes nothing.
    pub index: Option<usize>,
}

/// Turns the queries and keys of `qkv`, `[T, (Hq + 2·Hkv)·D]` with each rotary pair in neighbouring
/// columns, by their token's position. `table` is [`Rope::table`](crate::model::Rope::table).
pub fn rotate(
    qkv: &mut [f32],
    positions: &[u32],
    table: &[[f32; 2]],
    query_heads: usize,
    layout: &KvLayout,
) {
    let (d, turned) = (layout.head_dim, query_heads + layout.kv_heads);
    let width = (turned + layout.kv_heads) * d;
    let rows = qkv.par_chunks_exact_mut(width);
    rows.zip(positions).for_each(|(row, &position)| {
        let angles = &table[position as usize * (d / 2)..][..d / 2];
        for head in row[..turned * d].chunks_exact_mut(d) {
            let (pairs, _) = head.as_chunks_mut::<2>();
            for (pair, [cos, sin]) in pairs.iter_mut().zip(angles) {
                let [a, b] = *pair;
                *pair = [a * cos - b * sin, b * cos + a * sin];
            }
        }
    });
}

/// Splits `qkv` `[T, (Hq + 2·Hkv)·D]` into `q` `[T, Hq, D]` and K, V, and writes the latter into one
/// layer's part of the slab. `slots` is `[T]`.
pub fn kv_append(
    q: &mut [f32],
    kv: &mut [f32],
    qkv: &[f32],
    slots: &[KvSlot<'_>],
    layout: &KvLayout,
) {
    let d = layout.head_dim;
    let (q_width, kv_width) = (q.len() / slots.len(), layout.kv_heads * d);
    for ((q, qkv), slot) in q
        .chunks_exact_mut(q_width)
        .zip(qkv.chunks_exact(q_width + 2 * kv_width))
        .zip(slots)
    {
        q.copy_from_slice(&qkv[..q_width]);
        let Some(index) = slot.index else { continue };
        let page = slot.pages[index / layout.page_size];
        for value in [false, true] {
            for head in 0..layout.kv_heads {
                let from = q_width + usize::from(value) * kv_width + head * d;
                let to = layout.offset(page, value, head, index);
                kv[to..][..d].copy_from_slice(&qkv[from..][..d]);
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

#[cfg(test)]
mod tests {
    use super::*;

    const LAYOUT: KvLayout = KvLayout {
        layers: 1,
        kv_heads: 1,
        head_dim: 2,
        page_size: 2,
        bytes_per_element: 4,
    };

    /// A slab of four pages that holds `(key, value)` of the given KV indices in pages 3 and 1.
    fn slab(entries: &[([f32; 2], [f32; 2])]) -> Vec<f32> {
        // What no one may see would show.
        let mut kv = vec![f32::NAN; 4 * LAYOUT.page_elements()];
        for (index, (key, value)) in entries.iter().enumerate() {
            let page = PAGES[index / 2];
            kv[LAYOUT.offset(page, false, 0, index)..][..2].copy_from_slice(key);
            kv[LAYOUT.offset(page, true, 0, index)..][..2].copy_from_slice(value);
        }
        kv
    }

    const PAGES: [u32; 2] = [3, 1];

    fn attend(q: &[f32], entries: &[([f32; 2], [f32; 2])], kv_start: usize) -> Vec<f32> {
        let row = AttentionRow {
            query_len: q.len() / 2,
            kv_start,
            kv_len: entries.len(),
            pages: &PAGES,
        };
        let mut out = vec![f32::NAN; q.len()];
        attention(&mut out, q, &slab(entries), &[row], 1, &LAYOUT);
        out
    }

    fn assert_close(got: &[f32], wanted: &[f32]) {
        for (g, w) in got.iter().zip(wanted) {
            assert!((g - w).abs() < 1e-6, "{got:?} {wanted:?}");
        }
    }

    #[test]
    fn attention_by_hand() {
        // Scores ln 3 and 0 (times √2 against the scale): weights 3/4 and 1/4.
        let ln3 = 3f32.ln() * 2f32.sqrt();
        let entries = [
            ([1.0, 0.0], [4.0, 0.0]),
            ([0.0, 1.0], [0.0, 8.0]),
            ([0.0, 0.0], [1.0, 1.0]),
        ];
        assert_close(&attend(&[ln3, 0.0], &entries[..2], 0), &[3.0, 2.0]);
        // The third key scores 0: weights 3/5, 1/5, 1/5.
        assert_close(&attend(&[ln3, 0.0], &entries, 0), &[2.6, 1.8]);
        // Two queries: the first does not see the last key.
        let both = attend(&[ln3, 0.0, ln3, 0.0], &entries, 0);
        assert_close(&both, &[3.0, 2.0, 2.6, 1.8]);
    }

    #[test]
    fn attention_of_one_key_is_its_value() {
        assert_eq!(
            attend(&[9.0, -9.0], &[([1.0, 2.0], [5.0, 6.0])], 0),
            [5.0, 6.0]
        );
    }

    #[test]
    fn attention_gives_zeros_where_nothing_is_to_see() {
        let entries = [([1.0, 1.0], [4.0, 4.0]); 3];
        // The first two queries are padding, the third sees itself alone.
        let out = attend(&[1.0; 6], &entries, 2);
        assert_eq!(out, [0.0, 0.0, 0.0, 0.0, 4.0, 4.0]);
        assert_eq!(attend(&[1.0; 2], &entries, 3), [0.0, 0.0]);
    }

    #[test]
    fn attention_survives_huge_scores() {
        let entries = [([-1e30, 0.0], [1.0, 2.0]), ([-1e30, 0.0], [3.0, 4.0])];
        assert_close(&attend(&[1e6, 0.0], &entries, 0), &[2.0, 3.0]);
        // Beyond f32: no key has a weight.
        assert_eq!(attend(&[1e30, 0.0], &entries, 0), [0.0, 0.0]);
    }

    #[test]
    fn query_heads_share_kv_heads() {
        let layout = KvLayout {
            kv_heads: 2,
            ..LAYOUT
        };
        let mut kv = vec![0.0; layout.page_elements()];
        for head in 0..2 {
            kv[layout.offset(0, true, head, 0)..][..2].fill(head as f32 + 1.0);
        }
        let row = AttentionRow {
            query_len: 1,
            kv_start: 0,
            kv_len: 1,
            pages: &[0],
        };
        let mut out = [0.0; 8];
        attention(&mut out, &[1.0; 8], &kv, &[row], 4, &layout);
        assert_eq!(out, [1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 2.0]);
    }

    #[test]
    fn kv_append_fills_the_slot_and_nothing_else() {
        let (mut q, mut kv) = ([0.0; 4], vec![0.0; 4 * LAYOUT.page_elements()]);
        let qkv: Vec<f32> = (1..=12).map(|v| v as f32).collect();
        let slots = [Some(2), None].map(|index| KvSlot {
            pages: &PAGES,
            index,
        });
        kv_append(&mut q, &mut kv, &qkv, &slots, &LAYOUT);
        assert_eq!(q, [1.0, 2.0, 7.0, 8.0]);
        assert_eq!(kv[LAYOUT.offset(1, false, 0, 2)..][..2], [3.0, 4.0]);
        assert_eq!(kv[LAYOUT.offset(1, true, 0, 2)..][..2], [5.0, 6.0]);
        assert_eq!(kv.iter().filter(|&&v| v != 0.0).count(), 4);
    }

    #[test]
    fn layer_norm_by_hand() {
        let mut out = [0.0; 4];
        layer_norm(
            &mut out,
            &[1.0, 3.0, -5.0, -5.0],
            &[2.0, 2.0],
            &[0.0, 1.0],
            0.0,
        );
        assert_eq!(out[..2], [-2.0, 3.0]);
        // A constant row has no deviation to divide by.
        layer_norm(
            &mut out,
            &[1.0, 3.0, -5.0, -5.0],
            &[2.0, 2.0],
            &[0.0, 1.0],
            1e-5,
        );
        assert_eq!(out[2..], [0.0, 1.0]);
    }

    #[test]
    fn residual_bias_and_embedding_by_hand() {
        let mut x = [1.0, 2.0, 3.0, 4.0];
        residual(&mut x, &[10.0, 20.0, 30.0, 40.0], 2);
        add_bias(&mut x, Some(&[0.5, 0.25]));
        assert_eq!(x, [11.5, 22.25, 33.5, 44.25]);
        add_bias(&mut x, Some(&[-20.0, -30.0]));
        add_bias(&mut x, None);
        activation(&mut x, Activation::Relu);
        assert_eq!(x, [0.0, 0.0, 13.5, 14.25]);
        embedding(
            &mut x,
            &[1, 0],
            &[0, 1],
            &[1.0, 2.0, 3.0, 4.0],
            Some(&[0.5, 0.5, 10.0, 20.0]),
            2,
        );
        assert_eq!(x, [3.5, 4.5, 11.0, 22.0]);
        embedding(&mut x, &[1, 0], &[0, 1], &[1.0, 2.0, 3.0, 4.0], None, 2);
        assert_eq!(x, [3.0, 4.0, 1.0, 2.0]);
    }

    #[test]
    fn rms_norm_and_gated_activation_by_hand() {
        let mut out = [0.0; 2];
        rms_norm(&mut out, &[3.0, 4.0], &[2.0, 1.0], 0.0);
        assert_close(&out, &[6.0 / 12.5f32.sqrt(), 4.0 / 12.5f32.sqrt()]);
        gated_activation(&mut out, &[2.0, 5.0, -1.0, 7.0], Activation::Relu);
        assert_eq!(out, [10.0, 0.0]);
        gated_activation(&mut out, &[0.0, 5.0, 1.0, 2.0], Activation::Silu);
        assert_close(&out, &[0.0, 2.0 / (1.0 + (-1f32).exp())]);
    }

    #[test]
    fn queries_and_keys_are_turned_and_values_are_not() {
        // Two positions: no turn, and a quarter turn.
        let table = [[1.0, 0.0], [0.0, 1.0]];
        let mut qkv = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0].repeat(2);
        rotate(&mut qkv, &[0, 1], &table, 1, &LAYOUT);
        assert_eq!(qkv[..6], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        assert_eq!(qkv[6..], [-2.0, 1.0, -4.0, 3.0, 5.0, 6.0]);
    }
}
