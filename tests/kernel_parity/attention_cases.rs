//! One attention call as data: its shape, its inputs, its reference and its run on the GPU.

use batchlab::kv::KvLayout;
use batchlab::runner::Dtype;
use batchlab::runner::cpu::ops::{self, AttentionRow};
use batchlab::runner::cuda::kernels::Kernels;
use batchlab::runner::cuda::ops as cuda;
use batchlab::runner::cuda::ops::attention_decode::{MOST_SPLITS, Split, TILE, WARPS};

use crate::device::{Gpu, Inputs};

/// The kernels of one contract.
#[derive(Debug, Clone, Copy)]
pub enum Prefill {
    Mma,
    Wgmma,
}

#[derive(Debug, Clone, Copy)]
pub struct Row {
    pub query_len: usize,
    pub kv_start: usize,
    pub kv_len: usize,
}

impl Row {
    /// A whole prompt.
    pub fn prompt(len: usize) -> Self {
        Self {
            query_len: len,
            kv_start: 0,
            kv_len: len,
        }
    }

    /// One new token after `kv_len - 1` others.
    pub fn decode(kv_len: usize) -> Self {
        Self {
            query_len: 1,
            kv_start: 0,
            kv_len,
        }
    }

    pub fn left_padded(self, kv_start: usize) -> Self {
        Self { kv_start, ..self }
    }
}

#[derive(Debug, Clone)]
pub struct Shape {
    pub dtype: Dtype,
    pub rows: Vec<Row>,
    pub query_heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub page_size: usize,
}

impl Shape {
    pub fn tokens(&self) -> usize {
        self.rows.iter().map(|r| r.query_len).sum()
    }

    /// Elements of one token's queries.
    pub fn width(&self) -> usize {
        self.query_heads * self.head_dim
    }

    /// Those that can run it here.
    pub fn prefills(&self, gpu: &Gpu) -> Vec<Prefill> {
        let mut kernels = vec![Prefill::Mma];
        if (gpu.kernels).has_attention_prefill_wgmma(self.dtype, self.head_dim) {
            kernels.push(Prefill::Wgmma);
        }
        kernels
    }

    fn layout(&self) -> KvLayout {
        KvLayout {
            layers: 1,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            page_size: self.page_size,
            bytes_per_element: 4,
        }
    }

    fn longest_kv(&self) -> usize {
        self.rows.iter().map(|r| r.kv_len).max().unwrap_or(0)
    }

    /// Elements of `out` before row `row`.
    pub fn offset(&self, row: usize) -> usize {
        self.rows[..row]
            .iter()
            .map(|r| r.query_len * self.width())
            .sum()
    }
}

/// A shape with inputs. The slab is NaN wherever no row has a visible key, left padding included.
#[derive(Clone)]
pub struct Case {
    pub shape: Shape,
    pub q: Vec<f32>,
    pub kv: Vec<f32>,
    /// `[B, page_stride]`; entries after a row's pages name a page of NaN.
    table: Vec<u32>,
    page_stride: usize,
    pub scale: f32,
}

impl Case {
    /// Normal queries of this deviation, normal K and V of deviation 1.
    pub fn random(inputs: &mut Inputs, shape: &Shape, query_deviation: f32) -> Self {
        let layout = shape.layout();
        let page_stride = layout.pages_for(shape.longest_kv()).max(1) + 1;
        let used: usize = shape.rows.iter().map(|r| layout.pages_for(r.kv_len)).sum();
        let pages = used + 3;
        let mut order: Vec<u32> = (0..pages as u32).collect();
        for i in (1..pages).rev() {
            order.swap(i, inputs.below(i + 1));
        }
        let unused = order[pages - 1];
        let mut next = order.into_iter();
        let mut table = vec![unused; shape.rows.len() * page_stride];
        for (row, entries) in shape.rows.iter().zip(table.chunks_exact_mut(page_stride)) {
            for (entry, page) in entries
                .iter_mut()
                .zip(next.by_ref().take(layout.pages_for(row.kv_len)))
            {
                *entry = page;
            }
        }
        let q = inputs.normal(shape.dtype, shape.tokens() * shape.width(), query_deviation);
        let mut case = Self {
            kv: vec![f32::NAN; pages * layout.page_elements()],
            shape: shape.clone(),
            q,
            table,
            page_stride,
            scale: 1.0 / (shape.head_dim as f32).sqrt(),
        };
        for row in 0..shape.rows.len() {
            case.refill(inputs, row);
        }
        case
    }

    /// New random queries, K and V for one row.
    pub fn refill(&mut self, inputs: &mut Inputs, row: usize) {
        let (dtype, d) = (self.shape.dtype, self.shape.head_dim);
        let range = self.shape.offset(row)..self.shape.offset(row + 1);
        let fresh = inputs.normal(dtype, range.len(), 1.0);
        self.q[range].copy_from_slice(&fresh);
        let Row {
            kv_start, kv_len, ..
        } = self.shape.rows[row];
        for value in [false, true] {
            for head in 0..self.shape.kv_heads {
                for j in kv_start..kv_len {
                    let at = self.kv_offset(row, value, head, j);
                    let fresh = inputs.normal(dtype, d, 1.0);
                    self.kv[at..at + d].copy_from_slice(&fresh);
                }
            }
        }
    }

    /// Where K or V of a row's position lies in the slab.
    pub fn kv_offset(&self, row: usize, value: bool, head: usize, j: usize) -> usize {
        let page = self.table[row * self.page_stride + j / self.shape.page_size];
        self.shape.layout().offset(page, value, head, j)
    }

    /// What the CPU says. Padding rows of a captured graph (`kv_len` 0) give zeros.
    pub fn reference(&self) -> Vec<f32> {
        let shape = &self.shape;
        let mut out = vec![0.0; self.q.len()];
        for (b, row) in shape.rows.iter().enumerate() {
            if row.kv_len < row.query_len {
                continue;
            }
            let range = shape.offset(b)..shape.offset(b + 1);
            let one = [AttentionRow {
                query_len: row.query_len,
                kv_start: row.kv_start,
                kv_len: row.kv_len,
                pages: &self.table[b * self.page_stride..][..self.page_stride],
            }];
            ops::attention(
                &mut out[range.clone()],
                &self.q[range],
                &self.kv,
                &one,
                shape.query_heads,
                &shape.layout(),
            );
        }
        out
    }

    /// A prefill kernel's output. Checks that it writes its tokens only and leaves the slab alone.
    pub fn prefill(&self, gpu: &Gpu, kernel: Prefill) -> Vec<f32> {
        let shape = &self.shape;
        let mut query_start = vec![0];
        for row in &shape.rows {
            query_start.push(query_start[query_start.len() - 1] + row.query_len as i32);
        }
        let query_start = gpu.ints(&query_start);
        self.launch(gpu, |device| {
            let params = cuda::AttentionPrefillParams {
                out: device.out,
                q: device.q,
                kv: device.kv,
                page_table: device.page_table,
                query_start: query_start.ptr(gpu),
                kv_start: device.kv_start,
                kv_len: device.kv_len,
                rows: shape.rows.len() as i32,
                max_query_len: shape.rows.iter().map(|r| r.query_len).max().unwrap_or(0) as i32,
                query_heads: shape.query_heads as i32,
                kv_heads: shape.kv_heads as i32,
                head_dim: shape.head_dim as i32,
                page_size: shape.page_size as i32,
                page_stride: self.page_stride as i32,
                scale: self.scale,
                tokens: shape.tokens() as i32,
                max_kv_len: shape.longest_kv() as i32,
            };
            let launch = match kernel {
                Prefill::Mma => Kernels::attention_prefill,
                Prefill::Wgmma => Kernels::attention_prefill_wgmma,
            };
            launch(&gpu.kernels, &gpu.stream, shape.dtype, &params).unwrap();
        })
    }

    /// The decode kernels' output for this split, with the same checks.
    pub fn decode(&self, gpu: &Gpu, split: Split) -> Vec<f32> {
        let shape = &self.shape;
        self.launch(gpu, |device| {
            let params = cuda::AttentionDecodeParams {
                out: device.out,
                q: device.q,
                kv: device.kv,
                page_table: device.page_table,
                kv_start: device.kv_start,
                kv_len: device.kv_len,
                rows: shape.rows.len() as i32,
                splits: split.splits as i32,
                chunk: split.chunk as i32,
                query_heads: shape.query_heads as i32,
                kv_heads: shape.kv_heads as i32,
                head_dim: shape.head_dim as i32,
                page_size: shape.page_size as i32,
                page_stride: self.page_stride as i32,
                scale: self.scale,
                warps: split.warps as i32,
            };
            gpu.kernels
                .attention_decode(&gpu.stream, shape.dtype, &params)
                .unwrap();
        })
    }

    /// Unsplit, in the smallest chunks, and in between, with few warps and with many.
    pub fn splits(&self) -> Vec<Split> {
        let longest = self.shape.longest_kv().max(1).next_multiple_of(TILE);
        let of = |parts: usize, warps| {
            let chunk = longest.div_ceil(parts).next_multiple_of(TILE);
            let splits = longest.div_ceil(chunk);
            Split {
                chunk,
                splits,
                warps,
            }
        };
        let [few, many] = WARPS;
        vec![
            of(1, few),
            of(1, many),
            of(3, few),
            of(MOST_SPLITS, few),
            of(MOST_SPLITS, many),
        ]
    }

    fn launch(&self, gpu: &Gpu, launch: impl Fn(&DevicePointers)) -> Vec<f32> {
        let shape = &self.shape;
        let per_row = |of: fn(&Row) -> usize| -> Vec<i32> {
            shape.rows.iter().map(|r| of(r) as i32).collect()
        };
        let guard = 3 * shape.width();
        let out = gpu.poison(shape.dtype, self.q.len() + guard);
        let (q, kv) = (
            gpu.floats(shape.dtype, &self.q),
            gpu.floats(shape.dtype, &self.kv),
        );
        let kv_start = gpu.ints(&per_row(|r| r.kv_start));
        let kv_len = gpu.ints(&per_row(|r| r.kv_len));
        let table: Vec<i32> = self.table.iter().map(|&p| p as i32).collect();
        let page_table = gpu.ints(&table);
        let before = gpu.read_bytes(&kv);
        launch(&DevicePointers {
            out: out.ptr(gpu),
            q: q.ptr(gpu),
            kv: kv.ptr(gpu),
            page_table: page_table.ptr(gpu),
            kv_start: kv_start.ptr(gpu),
            kv_len: kv_len.ptr(gpu),
        });
        let mut result = gpu.read(&out);
        assert!(
            result[self.q.len()..].iter().all(|v| v.is_nan()),
            "{shape:?}: wrote past the last token"
        );
        assert!(
            gpu.read_bytes(&kv) == before,
            "{shape:?}: changed the KV slab"
        );
        result.truncate(self.q.len());
        result
    }
}

struct DevicePointers {
    out: u64,
    q: u64,
    kv: u64,
    page_table: u64,
    kv_start: u64,
    kv_len: u64,
}
