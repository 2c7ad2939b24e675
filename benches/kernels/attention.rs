//! Attention cases: queries of one length over a slab whose pages are scattered.

use anyhow::Result;
use batchlab::runner::cuda::ops::attention_decode::{self as decode, split};
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
    let split = split(
        rows,
        decode::Heads {
            query: heads.query_heads,
            kv: heads.kv_heads,
            dim: heads.head_dim,
        },
        kv_len,
        sms,
    );
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
            Ok(Box::new(move |d| {
                let p = AttentionDecodeParams {
                    out: a.out.ptr(),
                    q: a.q.ptr(),
                    kv: a.kv.ptr(),
                    page_table: a.page_table.ptr(),
                    kv_start: a.kv_start.ptr(),
                    kv_len: a.kv_len.ptr(),
                    rows: rows as i32,
                    splits: split.splits as i32,
                    chunk: split.chunk as i32,
                    query_heads: heads.query_heads as i32,
                    kv_heads: heads.kv_heads as i32,
                    head_dim: heads.head_dim as i32,
                    page_size: PAGE as i32,
                    page_stride: a.pages_per_row as i32,
                    scale: 1.0 / (heads.head_dim as f32).sqrt(),
                    warps: split.warps as i32,
                };
                Ok(d.kernels.attention_decode(&d.stream, DTYPE, &p)?)
            }))
        }),
    }
}

/// The prompts of a prefill: how many tokens each row has, and to how many they are padded on the left.
pub struct Prompts {
    pub name: &'static str,
    pub lens: Vec<usize>,
    pub padded_to: Option<usize>,
}

impl Prompts {
    pub fn equal(rows: usize, len: usize) -> Self {
        Self {
            name: "equal",
            lens: vec![len; rows],
            padded_to: None,
        }
    }

    /// 32 prompts of 64 to 1024 tokens.
    pub fn mixed() -> Self {
        Self {
            name: "mixed",
            lens: (0..32).map(|row| 64 + row * 389 % 961).collect(),
            padded_to: None,
        }
    }

    /// The same prompts in a batch that is not ragged.
    pub fn padded() -> Self {
        Self {
            name: "padded",
            padded_to: Some(1024),
            ..Self::mixed()
        }
    }
}

/// As the runner launches it.
pub fn attention_prefill(heads: Heads, prompts: Prompts) -> Case {
    let Prompts {
        name,
        lens,
        padded_to,
    } = prompts;
    let rows = lens.len();
    let query_lens: Vec<usize> = lens.iter().map(|&n| padded_to.unwrap_or(n)).collect();
    let longest = query_lens.iter().copied().max().unwrap_or(0);
    let tokens: usize = query_lens.iter().sum();
    let pairs: f64 = lens.iter().map(|&n| (n * n) as f64 / 2.0).sum();
    let size = match name {
        "equal" => format!("S={longest}"),
        _ => format!("{name} S<={longest}"),
    };
    Case {
        kernel: "attention_prefill",
        shape: format!("B={rows} {size} {}", heads.shape()),
        bytes: (tokens * (2 * heads.width() + heads.kv_width()) * BYTES) as f64,
        // Two products of 2·D operations for each visible pair of query and key.
        flop: Some(pairs * (4 * heads.width()) as f64),
        prepare: Box::new(move |d, _| {
            let a = Attention::new(d, heads, rows, (longest, longest))?;
            let ints = |of: &dyn Fn(usize) -> usize| -> Result<Buffer> {
                d.ints(&(0..rows).map(|b| of(b) as i32).collect::<Vec<_>>())
            };
            let starts: Vec<i32> = (0..=rows)
                .map(|b| query_lens[..b].iter().sum::<usize>() as i32)
                .collect();
            let query_start = d.ints(&starts)?;
            let kv_start = ints(&|b| query_lens[b] - lens[b])?;
            let kv_len = ints(&|b| query_lens[b])?;
            Ok(Box::new(move |d| {
                let p = AttentionPrefillParams {
                    out: a.out.ptr(),
                    q: a.q.ptr(),
                    kv: a.kv.ptr(),
                    page_table: a.page_table.ptr(),
                    query_start: query_start.ptr(),
                    kv_start: kv_start.ptr(),
                    kv_len: kv_len.ptr(),
                    rows: rows as i32,
                    max_query_len: longest as i32,
                    query_heads: heads.query_heads as i32,
                    kv_heads: heads.kv_heads as i32,
                    head_dim: heads.head_dim as i32,
                    page_size: PAGE as i32,
                    page_stride: a.pages_per_row as i32,
                    scale: 1.0 / (heads.head_dim as f32).sqrt(),
                    tokens: tokens as i32,
                    max_kv_len: longest as i32,
                };
                let (kernels, stream) = (&d.kernels, &d.stream);
                match kernels.prefers_attention_prefill_wgmma(DTYPE, &p) {
                    true => Ok(kernels.attention_prefill_wgmma(stream, DTYPE, &p)?),
                    false => Ok(kernels.attention_prefill(stream, DTYPE, &p)?),
                }
            }))
        }),
    }
}
