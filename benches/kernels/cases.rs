//! What is measured: each kernel at the shapes of distilgpt2, of a 32-head model and of prompts.

use std::cell::OnceCell;
use std::rc::Rc;

use anyhow::{Context, Result};
use batchlab::runner::cuda::kernels::Kernels;
use batchlab::runner::cuda::ops::{
    ArgmaxParams, BiasActivationParams, EmbeddingParams, HeadParams, KvAppendParams, LinearParams,
    LogitsParams, QkvTarget, RandomFillParams, ResidualNormParams, SampleParams,
};
use batchlab::runner::{Dtype, RunnerError};
use cudarc::driver::CudaStream;

use crate::attention::{Heads, Prompts, attention_decode, attention_prefill, scattered};
use crate::device::{Buffer, Device};

/// One launch over buffers that it owns.
pub type Launch = Box<dyn Fn(&Device) -> Result<()>>;
/// Makes the buffers of one set, by its number.
pub type Prepare = Box<dyn Fn(&Device, usize) -> Result<Launch>>;

pub struct Case {
    pub kernel: &'static str,
    pub shape: String,
    /// Bytes that one launch must move.
    pub bytes: f64,
    /// Floating-point operations, where they are the limit.
    pub flop: Option<f64>,
    pub prepare: Prepare,
}

pub const DTYPE: Dtype = Dtype::BF16;
pub const BYTES: usize = 2;
pub const PAGE: usize = 64;

pub fn all(sms: usize) -> Vec<Case> {
    let mut cases = Vec::new();
    for tokens in [1, 64, 4096] {
        cases.push(embedding(tokens, 768));
    }
    for (tokens, channels) in [
        (1, 768),
        (64, 768),
        (4096, 768),
        (1, 4096),
        (64, 4096),
        (4096, 4096),
    ] {
        cases.push(residual_norm(tokens, channels));
    }
    for tokens in [1, 64, 4096] {
        cases.push(bias_activation(tokens, 3072));
    }
    // distilgpt2's four products, SmolLM2's, and those of a 7B model.
    for (k, n) in [
        (768, 2304),
        (768, 768),
        (768, 3072),
        (3072, 768),
        (576, 960),
        (576, 576),
        (576, 3072),
        (1536, 576),
        (4096, 12_288),
        (4096, 4096),
        (4096, 22_016),
        (11_008, 4096),
    ] {
        for rows in [1, 8, 16, 32] {
            cases.push(linear("linear_small", Kernels::linear_small, rows, k, n));
        }
        for rows in [32, 64, 128, 256] {
            // K beyond this has no cut.
            if k <= 6144 {
                cases.push(linear("linear_slim", Kernels::linear_slim, rows, k, n));
            }
        }
        for rows in [32, 64, 128, 256, 512] {
            cases.push(linear("linear_tiled", Kernels::linear_tiled, rows, k, n));
        }
        for rows in [32, 64, 128, 256, 512, 4096] {
            cases.push(linear("linear_wide", Kernels::linear_wide, rows, k, n));
        }
        for rows in [64, 512, 4096] {
            let multiply = Kernels::linear_portable;
            cases.push(linear("linear_portable", multiply, rows, k, n));
        }
    }
    for (k, n) in [(768, 50_304), (576, 49_152), (4096, 32_000)] {
        for rows in [1, 64, 256] {
            cases.push(head_portable(rows, k, n));
        }
    }
    // distilgpt2's vocabulary, SmolLM2's and that of a 7B model.
    for (channels, vocab) in [(768, VOCAB), (576, 49_152), (4096, 32_000)] {
        for rows in [1, 8, 16, 32, 64, 128, 256] {
            cases.push(head(rows, channels, vocab));
        }
    }
    for tokens in [1, 64, 4096] {
        cases.push(kv_append(tokens, 12, 64));
    }
    for (query_heads, kv_heads, head_dim) in [(12, 12, 64), (9, 3, 64), (32, 32, 128), (32, 8, 128)]
    {
        for kv_len in [64, 128, 512, 2048, 8192] {
            for rows in [1, 8, 64, 256] {
                // More than 8 GiB of K and V find no place twice.
                if rows * kv_len * kv_heads * head_dim > 1 << 31 {
                    continue;
                }
                cases.push(attention_decode(
                    Heads {
                        query_heads,
                        kv_heads,
                        head_dim,
                    },
                    rows,
                    kv_len,
                    sms,
                ));
            }
        }
    }
    for (rows, heads, len, head_dim) in [
        (8, 12, 128, 64),
        (8, 12, 512, 64),
        (32, 12, 1024, 64),
        (1, 32, 8192, 64),
        (8, 32, 512, 128),
        (4, 32, 2048, 128),
        (1, 32, 8192, 128),
        (1, 32, 16384, 128),
    ] {
        let heads = Heads {
            query_heads: heads,
            kv_heads: heads,
            head_dim,
        };
        cases.push(attention_prefill(heads, Prompts::equal(rows, len)));
    }
    for (heads, head_dim) in [(12, 64), (32, 128)] {
        for prompts in [Prompts::mixed(), Prompts::padded()] {
            let heads = Heads {
                query_heads: heads,
                kv_heads: heads,
                head_dim,
            };
            cases.push(attention_prefill(heads, prompts));
        }
    }
    for rows in [1, 8, 64, 256] {
        cases.push(argmax(rows));
    }
    for (top_k, top_p) in [(0, 1.0), (50, 1.0), (0, 0.95)] {
        for rows in [1, 64] {
            cases.push(sample(rows, top_k, top_p));
        }
    }
    cases.push(random_fill(100_000_000));
    cases
}

fn embedding(tokens: usize, channels: usize) -> Case {
    let (vocab, places) = (50_257, 1024);
    // One pair of tables; every set looks other tokens up.
    let tables: OnceCell<Rc<[Buffer; 2]>> = OnceCell::new();
    Case {
        kernel: "embedding",
        shape: format!("T={tokens} C={channels}"),
        bytes: (tokens * channels * (2 * BYTES + 4)) as f64,
        flop: None,
        prepare: Box::new(move |d, set| {
            let x = d.random(Dtype::F32, tokens * channels, 1.0)?;
            if tables.get().is_none() {
                let wte = d.random(DTYPE, vocab * channels, 1.0)?;
                let wpe = d.random(DTYPE, places * channels, 1.0)?;
                let _ = tables.set(Rc::new([wte, wpe]));
            }
            let tables = Rc::clone(tables.get().context("just set")?);
            let id = |t: usize| ((set * tokens + t) * 7919 % vocab) as i32;
            let ids: Vec<i32> = (0..tokens).map(id).collect();
            let positions: Vec<i32> = (0..tokens).map(|t| (t % places) as i32).collect();
            let (ids, positions) = (d.ints(&ids)?, d.ints(&positions)?);
            Ok(Box::new(move |d| {
                let p = EmbeddingParams {
                    x: x.ptr(),
                    token_ids: ids.ptr(),
                    positions: positions.ptr(),
                    wte: tables[0].ptr(),
                    wpe: tables[1].ptr(),
                    tokens: tokens as i32,
                    channels: channels as i32,
                };
                Ok(d.kernels.embedding(&d.stream, DTYPE, &p)?)
            }))
        }),
    }
}

fn residual_norm(tokens: usize, channels: usize) -> Case {
    Case {
        kernel: "residual_norm",
        shape: format!("T={tokens} C={channels}"),
        // x read and written in f32, add read, out written, and three vectors of parameters.
        bytes: (tokens * channels * (8 + 2 * BYTES) + 3 * channels * BYTES) as f64,
        flop: None,
        prepare: Box::new(move |d, _| {
            let x = d.random(Dtype::F32, tokens * channels, 1.0)?;
            let [add, out] = [
                d.random(DTYPE, tokens * channels, 0.1)?,
                d.random(DTYPE, tokens * channels, 1.0)?,
            ];
            let parameters = d.random(DTYPE, 3 * channels, 1.0)?;
            Ok(Box::new(move |d| {
                let parameter = |i: usize| parameters.ptr() + (i * channels * BYTES) as u64;
                let p = ResidualNormParams {
                    x: x.ptr(),
                    add: add.ptr(),
                    parts: 0,
                    bias: parameter(0),
                    weight: parameter(1),
                    beta: parameter(2),
                    out: out.ptr(),
                    row_index: 0,
                    rows: tokens as i32,
                    channels: channels as i32,
                    eps: 1e-5,
                    slices: 0,
                    slice_rows: 0,
                    rms: 0,
                    holds_next: 0,
                };
                Ok(d.kernels.residual_norm(&d.stream, DTYPE, &p)?)
            }))
        }),
    }
}

fn bias_activation(tokens: usize, features: usize) -> Case {
    Case {
        kernel: "bias_activation",
        shape: format!("T={tokens} F={features} gelu_tanh"),
        bytes: ((2 * tokens + 1) * features * BYTES) as f64,
        flop: None,
        prepare: Box::new(move |d, _| {
            let (h, bias) = (
                d.random(DTYPE, tokens * features, 2.0)?,
                d.random(DTYPE, features, 1.0)?,
            );
            Ok(Box::new(move |d| {
                let p = BiasActivationParams {
                    y: h.ptr(),
                    h: h.ptr(),
                    gated: 0,
                    bias: bias.ptr(),
                    tokens: tokens as i32,
                    features: features as i32,
                    activation: 0,
                };
                Ok(d.kernels.bias_activation(&d.stream, DTYPE, &p)?)
            }))
        }),
    }
}

/// The launch wrapper of a kernel that multiplies.
type Multiply =
    fn(&Kernels, &CudaStream, Dtype, &LinearParams) -> std::result::Result<(), RunnerError>;

fn linear(kernel: &'static str, multiply: Multiply, rows: usize, k: usize, n: usize) -> Case {
    Case {
        kernel,
        shape: format!("M={rows} K={k} N={n} residual"),
        // The weight and its bias, x, and the f32 stream read and written.
        bytes: ((k * n + n + rows * k) * BYTES + rows * n * 8) as f64,
        flop: Some(2.0 * (rows * k * n) as f64),
        prepare: Box::new(move |d, _| {
            let (x, w) = (
                d.random(DTYPE, rows * k, 1.0)?,
                d.random(DTYPE, k * n, 0.02)?,
            );
            let bias = d.random(DTYPE, n, 1.0)?;
            let residual = d.random(Dtype::F32, rows * n, 1.0)?;
            Ok(Box::new(move |d| {
                let p = LinearParams {
                    bias: bias.ptr(),
                    residual: residual.ptr(),
                    ..LinearParams::plain(x.ptr(), w.ptr(), [rows, n, k])
                };
                Ok(multiply(&d.kernels, &d.stream, DTYPE, &p)?)
            }))
        }),
    }
}

fn head_portable(rows: usize, k: usize, n: usize) -> Case {
    Case {
        kernel: "head_portable",
        shape: format!("M={rows} K={k} N={n}"),
        bytes: ((k * n + rows * k) * BYTES + rows * n * 4) as f64,
        flop: Some(2.0 * (rows * k * n) as f64),
        prepare: Box::new(move |d, _| {
            let x = d.random(DTYPE, rows * k, 1.0)?;
            let w = d.random(DTYPE, k * n, 0.02)?;
            let logits = d.random(Dtype::F32, rows * n, 1.0)?;
            Ok(Box::new(move |d| {
                let p = LogitsParams {
                    x: x.ptr(),
                    w: w.ptr(),
                    logits: logits.ptr(),
                    m: rows as i32,
                    n: n as i32,
                    k: k as i32,
                };
                Ok(d.kernels.head_portable(&d.stream, DTYPE, &p)?)
            }))
        }),
    }
}

/// Rows of 64 tokens at most, one after the other in fresh pages.
fn kv_append(tokens: usize, heads: usize, head_dim: usize) -> Case {
    let width = 3 * heads * head_dim;
    Case {
        kernel: "kv_append",
        shape: format!("T={tokens} {heads},{heads},{head_dim}"),
        bytes: ((2 * tokens + 1) * width * BYTES) as f64,
        flop: None,
        prepare: Box::new(move |d, _| {
            let rows = tokens.div_ceil(PAGE);
            let (qkv, bias) = (
                d.random(DTYPE, tokens * width, 1.0)?,
                d.random(DTYPE, width, 1.0)?,
            );
            let q = d.random(DTYPE, tokens * heads * head_dim, 1.0)?;
            let kv = d.random(DTYPE, rows * PAGE * 2 * heads * head_dim, 1.0)?;
            let token_row: Vec<i32> = (0..tokens).map(|t| (t / PAGE) as i32).collect();
            let kv_index: Vec<i32> = (0..tokens).map(|t| (t % PAGE) as i32).collect();
            let (token_row, kv_index) = (d.ints(&token_row)?, d.ints(&kv_index)?);
            let table = d.ints(&scattered(rows))?;
            Ok(Box::new(move |d| {
                let p = KvAppendParams {
                    qkv: qkv.ptr(),
                    bias: bias.ptr(),
                    to: QkvTarget {
                        q: q.ptr(),
                        kv: kv.ptr(),
                        token_row: token_row.ptr(),
                        kv_index: kv_index.ptr(),
                        page_table: table.ptr(),
                        positions: 0,
                        rotary: 0,
                        query_heads: heads as i32,
                        kv_heads: heads as i32,
                        head_dim: head_dim as i32,
                        page_size: PAGE as i32,
                        page_stride: 1,
                    },
                    tokens: tokens as i32,
                };
                Ok(d.kernels.kv_append(&d.stream, DTYPE, &p)?)
            }))
        }),
    }
}

/// GPT-2's vocabulary, each row padded to a multiple of 64.
const VOCAB: usize = 50_257;
const LOGITS_STRIDE: usize = 50_304;

/// Tokens and no logits.
fn head(rows: usize, channels: usize, vocab: usize) -> Case {
    let stride = vocab.next_multiple_of(128);
    Case {
        kernel: "head",
        shape: format!("B={rows} {channels}×{vocab}"),
        bytes: ((vocab + rows) * channels * BYTES) as f64,
        flop: Some((2 * rows * channels * vocab) as f64),
        prepare: Box::new(move |d, _| {
            let x = d.random(DTYPE, rows * channels, 1.0)?;
            let e = d.random(DTYPE, stride * channels, 1.0)?;
            let best = d.raw(&vec![0; 8 * (1 + rows)])?;
            let out = d.ints(&vec![0; rows])?;
            let out_at = d.raw(bytemuck::bytes_of(&out.ptr()))?;
            Ok(Box::new(move |d| {
                let p = HeadParams {
                    x: x.ptr(),
                    e: e.ptr(),
                    logits: 0,
                    best: best.ptr(),
                    out: out.ptr(),
                    host_out: out_at.ptr(),
                    rows: rows as i32,
                    vocab: vocab as i32,
                    channels: channels as i32,
                    stride: stride as i32,
                };
                Ok(d.kernels.head(&d.stream, DTYPE, &p)?)
            }))
        }),
    }
}

fn argmax(rows: usize) -> Case {
    Case {
        kernel: "argmax",
        shape: format!("B={rows} V={VOCAB}"),
        bytes: (rows * (VOCAB + 1) * 4) as f64,
        flop: None,
        prepare: Box::new(move |d, _| {
            let logits = d.random(Dtype::F32, rows * LOGITS_STRIDE, 10.0)?;
            let out = d.ints(&vec![0; rows])?;
            let out_at = d.raw(bytemuck::bytes_of(&out.ptr()))?;
            Ok(Box::new(move |d| {
                let p = ArgmaxParams {
                    logits: logits.ptr(),
                    out: out.ptr(),
                    host_out: out_at.ptr(),
                    rows: rows as i32,
                    vocab: VOCAB as i32,
                    stride: LOGITS_STRIDE as i32,
                };
                Ok(d.kernels.argmax(&d.stream, &p)?)
            }))
        }),
    }
}

fn sample(rows: usize, top_k: i32, top_p: f32) -> Case {
    Case {
        kernel: "sample",
        shape: format!("B={rows} V={VOCAB} k={top_k} p={top_p}"),
        bytes: (rows * (VOCAB + 1) * 4) as f64,
        flop: None,
        prepare: Box::new(move |d, _| {
            let logits = d.random(Dtype::F32, rows * LOGITS_STRIDE, 10.0)?;
            let temperature = d.floats(&vec![0.8; rows])?;
            let (top_k, top_p) = (d.ints(&vec![top_k; rows])?, d.floats(&vec![top_p; rows])?);
            let seeds: Vec<u64> = (0..rows as u64).collect();
            let seed = d.raw(bytemuck::cast_slice(&seeds))?;
            let sample_index = d.ints(&vec![1; rows])?;
            let out = d.ints(&vec![0; rows])?;
            let out_at = d.raw(bytemuck::bytes_of(&out.ptr()))?;
            Ok(Box::new(move |d| {
                let p = SampleParams {
                    logits: logits.ptr(),
                    temperature: temperature.ptr(),
                    top_k: top_k.ptr(),
                    top_p: top_p.ptr(),
                    seed: seed.ptr(),
                    sample_index: sample_index.ptr(),
                    out: out.ptr(),
                    host_out: out_at.ptr(),
                    rows: rows as i32,
                    vocab: VOCAB as i32,
                    stride: LOGITS_STRIDE as i32,
                };
                Ok(d.kernels.sample(&d.stream, &p)?)
            }))
        }),
    }
}

fn random_fill(count: usize) -> Case {
    Case {
        kernel: "random_fill",
        shape: format!("N={count}"),
        bytes: (count * BYTES) as f64,
        flop: None,
        prepare: Box::new(move |d, _| {
            let out = d.random(DTYPE, count, 1.0)?;
            Ok(Box::new(move |d| {
                let p = RandomFillParams {
                    out: out.ptr(),
                    seed: 7,
                    count: count as u64,
                    mean: 0.0,
                    spread: 0.02,
                };
                Ok(d.kernels.random_fill(&d.stream, DTYPE, &p)?)
            }))
        }),
    }
}
