//! head: its logits against a product in f64, its tokens against the argmax of its logits.

use batchlab::runner::Dtype;
use batchlab::runner::cuda::ops as cuda;
use batchlab::sampling;
use rayon::prelude::*;

use crate::check::{Tolerance, assert_close_where_written};
use crate::device::{Buffer, Gpu, Inputs, gpu, quick};

const HALVES: [Dtype; 2] = [Dtype::F16, Dtype::BF16];

/// (V, padded V, K). More tiles than blocks, ends within a tile and within a step of K, and the
/// smallest.
const SHAPES: [(usize, usize, usize); 4] = [
    (20_011, 20_096, 72),
    (1003, 1024, 776),
    (33, 128, 8),
    (1, 128, 576),
];

/// Every compiled size, full and not, and several rows of tiles.
const ROWS: [usize; 12] = [1, 8, 9, 16, 30, 32, 64, 65, 128, 200, 256, 520];

/// Both factors, on the device.
struct Problem {
    dtype: Dtype,
    rows: usize,
    vocab: usize,
    stride: usize,
    channels: usize,
    x: Buffer,
    e: Buffer,
}

impl Problem {
    fn new(gpu: &Gpu, dtype: Dtype, x: &[f32], e: &[f32], [vocab, stride]: [usize; 2]) -> Self {
        let channels = e.len() / stride;
        let rows = x.len() / channels;
        // Rows of X that no one may read.
        let mut padded = x.to_vec();
        padded.resize((rows + 8) * channels, f32::NAN);
        Self {
            dtype,
            rows,
            vocab,
            stride,
            channels,
            x: gpu.floats(dtype, &padded),
            e: gpu.floats(dtype, e),
        }
    }

    fn params(&self, gpu: &Gpu) -> cuda::HeadParams {
        cuda::HeadParams {
            x: self.x.ptr(gpu),
            e: self.e.ptr(gpu),
            logits: 0,
            best: 0,
            out: 0,
            host_out: 0,
            rows: self.rows as i32,
            vocab: self.vocab as i32,
            channels: self.channels as i32,
            stride: self.stride as i32,
        }
    }

    /// `[rows + 1, stride]`, NaN where nothing was written.
    fn logits(&self, gpu: &Gpu) -> Vec<f32> {
        let logits = gpu.poison(Dtype::F32, (self.rows + 1) * self.stride);
        let params = cuda::HeadParams {
            logits: logits.ptr(gpu),
            ..self.params(gpu)
        };
        gpu.kernels.head(&gpu.stream, self.dtype, &params).unwrap();
        gpu.read(&logits)
    }

    /// The tokens of two launches, of which the second finds what the first left.
    fn tokens(&self, gpu: &Gpu) -> Vec<i32> {
        let best = gpu.longs(&vec![0; 1 + self.rows]);
        let run = || {
            let out = gpu.ints(&vec![-7; self.rows + 1]);
            let copy = gpu.ints(&vec![-7; self.rows + 1]);
            let copy_at = gpu.longs(&[copy.ptr(gpu)]);
            let params = cuda::HeadParams {
                best: best.ptr(gpu),
                out: out.ptr(gpu),
                host_out: copy_at.ptr(gpu),
                ..self.params(gpu)
            };
            gpu.kernels.head(&gpu.stream, self.dtype, &params).unwrap();
            let mut tokens = gpu.read_ints(&out);
            assert_eq!(gpu.read_ints(&copy), tokens);
            assert_eq!(tokens.pop(), Some(-7));
            tokens
        };
        let tokens = run();
        assert_eq!(run(), tokens, "two runs differ");
        tokens
    }

    fn argmax(&self, logits: &[f32]) -> Vec<i32> {
        let rows = logits.chunks_exact(self.stride).take(self.rows);
        rows.map(|row| sampling::argmax(&row[..self.vocab]) as i32)
            .collect()
    }

    fn name(&self) -> String {
        let Self {
            dtype,
            rows,
            vocab,
            channels,
            ..
        } = self;
        format!("{dtype} M {rows} V {vocab} K {channels}")
    }
}

/// The GPU, if it has the kernel.
fn hopper() -> Option<&'static Gpu> {
    let gpu = gpu()?;
    if !gpu.kernels.has_head(Dtype::BF16) {
        println!("skipped: head is for Hopper");
        return None;
    }
    Some(gpu)
}

/// Row counts of a test: all, or a few where time is short.
fn row_counts(inputs: &mut Inputs) -> Vec<usize> {
    let first = inputs.below(ROWS.len());
    let rows = ROWS.into_iter().cycle().skip(first);
    rows.take(if quick() { 2 } else { ROWS.len() }).collect()
}

#[test]
fn head() {
    let Some(gpu) = hopper() else { return };
    let mut inputs = Inputs::fresh();
    for dtype in HALVES {
        for (vocab, stride, k) in SHAPES {
            let mut e = inputs.normal(dtype, stride * k, 1.0 / (k as f32).sqrt());
            // What pads the vocabulary would win.
            e[vocab * k..].fill(64.0);
            for rows in row_counts(&mut inputs) {
                let x = inputs.normal(dtype, rows * k, 1.0);
                let problem = Problem::new(gpu, dtype, &x, &e, [vocab, stride]);
                let logits = problem.logits(gpu);
                let mut expected = vec![f32::NAN; (rows + 1) * stride];
                expected
                    .par_chunks_exact_mut(stride)
                    .zip(x.par_chunks_exact(k))
                    .for_each(|(row, x)| product(&mut row[..vocab], x, &e));
                let tolerance = Tolerance::rounding(Dtype::F32).at_least(1e-4);
                let what = problem.name();
                assert_close_where_written(&what, &logits, &expected, tolerance);
                assert_eq!(problem.tokens(gpu), problem.argmax(&logits), "{what}");
            }
        }
    }
}

/// `x · eᵀ` for one row, summed in f64.
fn product(row: &mut [f32], x: &[f32], e: &[f32]) {
    for (out, e) in row.iter_mut().zip(e.chunks_exact(x.len())) {
        let products = x.iter().zip(e).map(|(&x, &e)| f64::from(x) * f64::from(e));
        *out = products.sum::<f64>() as f32;
    }
}

/// The lowest of equal logits wins, NaN never does, and nothing but NaN or −∞ gives 0.
#[test]
fn head_where_logits_are_equal_or_nan() {
    let Some(gpu) = hopper() else { return };
    let mut inputs = Inputs::fresh();
    let (vocab, stride, k) = (20_011, 20_096, 72);
    for dtype in HALVES {
        let mut e = inputs.normal(dtype, 1000 * k, 1.0).repeat(21);
        e.truncate(stride * k);
        for word in (7..vocab).step_by(11) {
            e[word * k] = f32::NAN;
        }
        for rows in row_counts(&mut inputs) {
            let mut x = inputs.normal(dtype, rows * k, 1.0);
            let all_nan = inputs.below(rows);
            x[all_nan * k] = f32::NAN;
            let problem = Problem::new(gpu, dtype, &x, &e, [vocab, stride]);
            let tokens = problem.tokens(gpu);
            let logits = problem.logits(gpu);
            assert_eq!(tokens, problem.argmax(&logits), "{}", problem.name());
            assert_eq!(tokens[all_nan], 0);
        }
    }
}
