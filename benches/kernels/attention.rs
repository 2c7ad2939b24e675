//! Attention cases: queries of one length over a slab whose pages are scattered.

use anyhow::Result;
use batchlab::runner::Dtype;
use batchlab::runner::cuda::ops::attention_decode::split;
use batchlab::runner::cuda::ops::{AttentionDecodeParams, AttentionPrefillParams};

use crate::cases::{BYTES, Case, DTYPE, PAGE};
use crate::device::{Buffer, Device};

#[derive(Clone, Copy)]
pub struct Heads {
    pub query_heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
}

impl Heads {
    fn shape(self) -> String {
        format!("{},{},{}", self.query_heads, self.kv_heads, self.head_dim)
    }

    /// Elements of the queries of one token.
    fn width(self) -> usize {
        self.query_heads * self.head_dim
    }

    /// Elements of K and V of one token.
    fn kv_width(self) -> usize {
        2 * self.kv_heads * self.head_dim
    }
}

/// What both attention kernels read: queries, a slab with scattered pages, and the rows.
struct Attention {
    out: Buffer,
    q: Buffer,
    kv: Buffer,
    page_table: Buffer,
    kv_start: Buffer,
    kv_len: Buffer,
    pages_per_row: usize,
}

impl Attention {
    fn new(
        d: &Device,
        heads: Heads,
        rows: usize,
        (query_len, kv_len): (usize, usize),
    ) -> Result<Self> {
        let pages_per_row = kv_len.div_ceil(PAGE);
        let pages = rows * pages_per_row;
        Ok(Self {
            out: d.random(DTYPE, rows * query_len * heads.width(), 1.0)?,
            q: d.random(DTYPE, rows * query_len * heads.width(), 1.0)?,
            kv: d.random(DTYPE, pages * PAGE * heads.kv_width(), 1.0)?,
            page_table: d.ints(&scattered(pages))?,
            kv_start: d.ints(&vec![0; rows])?,
            kv_len: d.ints(&vec![kv_len as i32; rows])?,
            pages_per_row,
        })
    }
}

/// The numbers `0..count` in an order without neighbours.
pub fn scattered(count: usize) -> Vec<i32> {
    let gcd = |mut a: usize, mut b: usize| {
        while b != 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    let step = (count * 5 / 8..)
        .find(|&step| gcd(step, count) == 1)
        .unwrap_or(1);
    (0..count).map(|i| (i * step % count) as i32).collect()
}

pub fn attention_decode(heads: Heads, rows: usize, kv_len: usize, sms: usize) -> Case {
    let split = split(rows, heads.kv_heads, kv_len, sms);
    Case {
        kernel: "attention_decode",
        shape: format!(
            "B={rows} S={kv_len} {} splits={}",
            heads.shape(),
            split.splits
        ),
        bytes: (rows * (kv_len * heads.kv_width() + 2 * heads.width()) * BYTES) as f64,
        flop: None,
        prepare: Box::new(move |d, _| {
            let a = Attention::new(d, heads, rows, (1, kv_len))?;
            let partials = split.splits * rows * heads.query_heads;
            let partial_out = d.random(Dtype::F32, partials * heads.head_dim, 1.0)?;
            let partial_lse = d.random(Dtype::F32, partials, 1.0)?;
            Ok(Box::new(move |d| {
                let p = AttentionDecodeParams {
                    out: a.out.ptr(),
                    q: a.q.ptr(),
                    kv: a.kv.ptr(),
                    page_table: a.page_table.ptr(),
                    kv_start: a.kv_start.ptr(),
                    kv_len: a.kv_len.ptr(),
                    partial_out: partial_out.ptr(),
                    partial_lse: partial_lse.ptr(),
                    rows: rows as i32,
                    splits: split.splits as i32,
                    chunk: split.chunk as i32,
                    query_heads: heads.query_heads as i32,
                    kv_heads: heads.kv_heads as i32,
                    head_dim: heads.head_dim as i32,
                    page_size: PAGE as i32,
                    page_stride: a.pages_per_row as i32,
                    scale: 1.0 / (heads.head_dim as f32).sqrt(),
                };
                Ok(d.kernels.attention_decode(&d.stream, DTYPE, &p)?)
            }))
        }),
    }
}

pub fn attention_prefill(heads: Heads, rows: usize, len: usize) -> Case {
    let cells = (rows * heads.query_heads * len * len) as f64;
    Case {
        kernel: "attention_prefill",
        shape: format!("B={rows} S={len} {}", heads.shape()),
        bytes: (rows * len * (2 * heads.width() + heads.kv_width()) * BYTES) as f64,
        // Two products of 2·D operations a cell; causal, so half of the cells.
        flop: Some(cells * 4.0 * heads.head_dim as f64 / 2.0),
        prepare: Box::new(move |d, _| {
            let a = Attention::new(d, heads, rows, (len, len))?;
            let starts: Vec<i32> = (0..=rows).map(|b| (b * len) as i32).collect();
            let query_start = d.ints(&starts)?;
            Ok(Box::new(move |d| {
                let p = AttentionPrefillParams {
                    out: a.out.ptr(),
                    q: a.q.ptr(),
                    kv: a.kv.ptr(),
                    page_table: a.page_table.ptr(),
                    query_start: query_start.ptr(),
                    kv_start: a.kv_start.ptr(),
                    kv_len: a.kv_len.ptr(),
                    rows: rows as i32,
                    max_query_len: len as i32,
                    query_heads: heads.query_heads as i32,
                    kv_heads: heads.kv_heads as i32,
                    head_dim: heads.head_dim as i32,
                    page_size: PAGE as i32,
                    page_stride: a.pages_per_row as i32,
                    scale: 1.0 / (heads.head_dim as f32).sqrt(),
                };
                Ok(d.kernels.attention_prefill(&d.stream, DTYPE, &p)?)
            }))
        }),
    }
}
