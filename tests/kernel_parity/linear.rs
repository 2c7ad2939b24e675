//! linear_small against a product in f64.

use batchlab::model::Activation;
use batchlab::runner::Dtype;
use batchlab::runner::cpu::ops;
use batchlab::runner::cuda::ops as cuda;
use batchlab::runner::cuda::ops::bias_activation::activation_code;
use batchlab::runner::cuda::ops::linear_small::{IDENTITY, MAX_ROWS};
use rayon::prelude::*;

use crate::check::{Tolerance, assert_close};
use crate::device::{Buffer, Gpu, Inputs, gpu};

const HALVES: [Dtype; 2] = [Dtype::F16, Dtype::BF16];

/// (K, N): distilgpt2's, then sizes that end within a tile, a stage, or before every warp has work.
const SHAPES: [(usize, usize); 11] = [
    (768, 2304),
    (768, 768),
    (768, 3072),
    (3072, 768),
    (8, 8),
    (24, 40),
    (40, 72),
    (776, 1032),
    (2056, 136),
    (4104, 8),
    (96, 5000),
];

/// M: every compiled size, full and not.
const ROWS: [usize; 10] = [1, 2, 7, 8, 9, 16, 17, 32, 33, 64];

/// What follows the product.
#[derive(Debug, Clone, Copy)]
enum Then {
    Nothing,
    Bias,
    Activation(Activation),
    Residual,
}

const THENS: [Then; 6] = [
    Then::Nothing,
    Then::Bias,
    Then::Activation(Activation::GeluTanh),
    Then::Activation(Activation::GeluErf),
    Then::Activation(Activation::Relu),
    Then::Residual,
];

/// One weight on the device, and inputs of [`MAX_ROWS`] rows on the host.
struct Problem {
    dtype: Dtype,
    k: usize,
    n: usize,
    x: Vec<f32>,
    bias: Vec<f32>,
    residual: Vec<f32>,
    /// `x · w`
    product: Vec<f32>,
    device_w: Buffer,
    device_bias: Buffer,
}

impl Problem {
    fn new(gpu: &Gpu, inputs: &mut Inputs, dtype: Dtype, (k, n): (usize, usize)) -> Self {
        let x = inputs.normal(dtype, MAX_ROWS * k, 1.0);
        let mut w = inputs.normal(dtype, k * n, 1.0 / (k as f32).sqrt());
        let bias = inputs.normal(dtype, n, 1.0);
        let product = product(&x, &w, k, n);
        // What no one may read.
        w.extend([f32::NAN; 64]);
        let mut padded_bias = bias.clone();
        padded_bias.extend([f32::NAN; 64]);
        Self {
            dtype,
            k,
            n,
            residual: inputs.normal(Dtype::F32, MAX_ROWS * n, 3.0),
            device_w: gpu.floats(dtype, &w),
            device_bias: gpu.floats(dtype, &padded_bias),
            x,
            bias,
            product,
        }
    }

    /// The first `m` rows of `x`, with NaN after them, through the kernel; the rows after the last
    /// must be as they were.
    fn run(&self, gpu: &Gpu, x: &[f32], m: usize, then: Then) -> Vec<f32> {
        let Self { dtype, k, n, .. } = *self;
        let mut padded = x[..m * k].to_vec();
        padded.resize((m + 8) * k, f32::NAN);
        let x = gpu.floats(dtype, &padded);
        let y = match then {
            Then::Residual => {
                let mut residual = self.residual[..m * n].to_vec();
                residual.resize((m + 1) * n, f32::NAN);
                gpu.floats(Dtype::F32, &residual)
            }
            _ => gpu.poison(dtype, (m + 1) * n),
        };
        let mut params = cuda::LinearSmallParams {
            x: x.ptr(gpu),
            w: self.device_w.ptr(gpu),
            bias: self.device_bias.ptr(gpu),
            y: y.ptr(gpu),
            residual: 0,
            m: m as i32,
            n: n as i32,
            k: k as i32,
            activation: IDENTITY,
        };
        match then {
            Then::Nothing => params.bias = 0,
            Then::Bias => {}
            Then::Activation(activation) => params.activation = activation_code(activation),
            Then::Residual => (params.y, params.residual) = (0, params.y),
        }
        gpu.kernels
            .linear_small(&gpu.stream, dtype, &params)
            .unwrap();
        let mut out = gpu.read(&y);
        assert!(
            out[m * n..].iter().all(|v| v.is_nan()),
            "{dtype} {m}×{k}×{n} {then:?}: wrote past the end"
        );
        out.truncate(m * n);
        out
    }

    fn expected(&self, m: usize, then: Then) -> Vec<f32> {
        let product = &self.product[..m * self.n];
        let mut out = product.to_vec();
        match then {
            Then::Nothing => {}
            Then::Bias => ops::bias_residual(&mut out, &vec![0.0; m * self.n], &self.bias),
            Then::Activation(activation) => ops::bias_activation(&mut out, &self.bias, activation),
            Then::Residual => {
                out.copy_from_slice(&self.residual[..m * self.n]);
                ops::bias_residual(&mut out, product, &self.bias);
            }
        }
        out
    }
}

/// `x · w`, `[M, N]`, summed in f64.
fn product(x: &[f32], w: &[f32], k: usize, n: usize) -> Vec<f32> {
    let row = |x: &[f32]| {
        let mut sums = vec![0f64; n];
        for (&x, w) in x.iter().zip(w.chunks_exact(n)) {
            for (sum, &w) in sums.iter_mut().zip(w) {
                *sum += f64::from(x) * f64::from(w);
            }
        }
        sums.into_iter().map(|sum| sum as f32).collect::<Vec<_>>()
    };
    x.par_chunks_exact(k).flat_map_iter(row).collect()
}

#[test]
fn linear_small() {
    let Some(gpu) = gpu() else { return };
    let mut inputs = Inputs::fresh();
    // Every shape and every row count meets every epilogue within a few runs; all at once would
    // take minutes under compute-sanitizer.
    let mut thens = THENS.into_iter().cycle().skip(inputs.below(THENS.len()));
    for dtype in HALVES {
        for (k, n) in SHAPES {
            let problem = Problem::new(gpu, &mut inputs, dtype, (k, n));
            for (m, then) in ROWS.into_iter().zip(&mut thens) {
                let out = problem.run(gpu, &problem.x, m, then);
                // The sums are of values around 1, in f32 and in another order.
                let tolerance = match then {
                    Then::Residual => Tolerance::rounding(Dtype::F32).at_least(1e-4),
                    _ => Tolerance::rounding(dtype).at_least(1e-4),
                };
                let what = format!("{dtype} {m}×{k}×{n} {then:?}");
                assert_close(&what, &out, &problem.expected(m, then), tolerance);
            }
        }
    }
}

#[test]
fn linear_small_gives_a_row_the_same_bits_alone_in_any_company_and_again() {
    let Some(gpu) = gpu() else { return };
    let mut inputs = Inputs::fresh();
    for dtype in HALVES {
        for (k, n) in [(768, 768), (3072, 768), (768, 2304), (776, 1032)] {
            let problem = Problem::new(gpu, &mut inputs, dtype, (k, n));
            for then in [Then::Activation(Activation::GeluTanh), Then::Residual] {
                let what = format!("{dtype} {k}×{n} {then:?}");
                let all = problem.run(gpu, &problem.x, MAX_ROWS, then);
                assert_eq!(all, problem.run(gpu, &problem.x, MAX_ROWS, then), "{what}");
                for m in ROWS {
                    assert_eq!(
                        problem.run(gpu, &problem.x, m, then),
                        all[..m * n],
                        "{what}: the first {m} rows"
                    );
                }
                let kept = inputs.below(MAX_ROWS);
                let mut strangers = vec![f32::NAN; MAX_ROWS * k];
                let row = kept * k..(kept + 1) * k;
                strangers[row.clone()].copy_from_slice(&problem.x[row]);
                let out = problem.run(gpu, &strangers, MAX_ROWS, then);
                let row = kept * n..(kept + 1) * n;
                assert_eq!(out[row.clone()], all[row], "{what}: row {kept} among NaN");
            }
        }
    }
}

#[test]
fn linear_small_refuses_what_it_has_no_code_for() {
    let Some(gpu) = gpu() else { return };
    let refused = |dtype: Dtype, m: i32, n: i32, k: i32| {
        let params = cuda::LinearSmallParams {
            x: 0,
            w: 0,
            bias: 0,
            y: 0,
            residual: 0,
            m,
            n,
            k,
            activation: IDENTITY,
        };
        gpu.kernels
            .linear_small(&gpu.stream, dtype, &params)
            .is_err()
    };
    assert!(refused(Dtype::F32, 1, 64, 64));
    assert!(refused(Dtype::BF16, MAX_ROWS as i32 + 1, 64, 64));
    assert!(refused(Dtype::BF16, 1, 60, 64));
    assert!(refused(Dtype::BF16, 1, 64, 4));
    // Nothing to do is no error.
    assert!(!refused(Dtype::BF16, 0, 64, 64));
}
