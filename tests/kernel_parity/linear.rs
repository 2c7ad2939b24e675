//! The kernels that multiply against a product in f64.

use batchlab::kv::KvLayout;
use batchlab::model::Activation;
use batchlab::runner::cpu::ops;
use batchlab::runner::cuda::kernels::Kernels;
use batchlab::runner::cuda::ops::bias_activation::activation_code;
use batchlab::runner::cuda::ops::linear_small::MAX_ROWS;
use batchlab::runner::cuda::ops::{LinearParams, LogitsParams};
use batchlab::runner::{Dtype, RunnerError};
use cudarc::driver::CudaStream;
use rayon::prelude::*;

use crate::check::{Tolerance, assert_close, assert_close_where_written};
use crate::device::{Buffer, DTYPES, Gpu, Inputs, gpu, quick};
use crate::elementwise::ROPE;
use crate::kv_places::KvPlaces;

const HALVES: [Dtype; 2] = [Dtype::F16, Dtype::BF16];

/// (K, N) of distilgpt2, two of SmolLM2 and one whose weight is large.
const MODEL_SHAPES: [(usize, usize); 7] = [
    (768, 2304),
    (768, 768),
    (768, 3072),
    (3072, 768),
    (576, 960),
    (1536, 576),
    (2048, 2312),
];
/// (K, N) that end within a tile or a stage, or before every warp or block has work; the first three
/// go round the ring of stages.
const EDGE_SHAPES: [(usize, usize); 7] = [
    (4104, 8),
    (776, 1032),
    (2056, 136),
    (8, 8),
    (24, 40),
    (40, 72),
    (96, 1000),
];

/// (K, N) whose tiles are enough for linear_portable's large ones at a thousand rows.
const WIDE_SHAPES: [(usize, usize); 2] = [(72, 2312), (104, 4104)];

/// A kernel that multiplies, and the types and row counts it is tried with.
struct Kernel {
    name: &'static str,
    launch: fn(&Kernels, &CudaStream, Dtype, &LinearParams) -> Result<(), RunnerError>,
    dtypes: &'static [Dtype],
    rows: &'static [usize],
}

/// Every compiled size, full and not.
const LINEAR_SMALL: Kernel = Kernel {
    name: "linear_small",
    launch: Kernels::linear_small,
    dtypes: &HALVES,
    rows: &[1, 2, 7, 8, 9, 16, 17, 31, MAX_ROWS],
};

/// Tiles of either height, full and not, whose blocks run at once or not.
const LINEAR_SLIM: Kernel = Kernel {
    name: "linear_slim",
    launch: Kernels::linear_slim,
    dtypes: &HALVES,
    rows: &[1, 15, 16, 17, 33, 64, 100, 130, 256, 300],
};

/// One and several rows of tiles, full and not.
const LINEAR_TILED: Kernel = Kernel {
    name: "linear_tiled",
    launch: Kernels::linear_tiled,
    dtypes: &HALVES,
    rows: &[1, 33, 64, 65, 100, 128, 129, 256, 300],
};

/// Every size of tile, one and several rows of them, full and not.
const LINEAR_WIDE: Kernel = Kernel {
    name: "linear_wide",
    launch: Kernels::linear_wide,
    dtypes: &HALVES,
    rows: &[1, 63, 64, 65, 128, 129, 256, 257, 512, 513, 700],
};

/// One and several rows of small tiles, full and not.
const LINEAR_PORTABLE: Kernel = Kernel {
    name: "linear_portable",
    launch: Kernels::linear_portable,
    dtypes: &DTYPES,
    rows: &[1, 32, 33, 64, 65, 128, 129, 300],
};

/// More than eight rows of large tiles, full and not.
const LINEAR_PORTABLE_LARGE: Kernel = Kernel {
    rows: &[1025, 1100, 1152],
    ..LINEAR_PORTABLE
};

/// The GPU, if it has the kernel.
fn gpu_with(kernel: &Kernel) -> Option<&'static Gpu> {
    let gpu = gpu()?;
    let needs_hopper =
        [LINEAR_SLIM.name, LINEAR_TILED.name, LINEAR_WIDE.name].contains(&kernel.name);
    if needs_hopper && !gpu.kernels.has_linear_tiled(Dtype::BF16) {
        println!("skipped: {} is for Hopper", kernel.name);
        return None;
    }
    Some(gpu)
}

/// What follows the product.
#[derive(Debug, Clone, Copy)]
enum Then {
    Nothing,
    Bias,
    Activation(Activation),
    Gate(Activation),
    Residual,
}

const THENS: [Then; 8] = [
    Then::Nothing,
    Then::Bias,
    Then::Activation(Activation::GeluTanh),
    Then::Activation(Activation::GeluErf),
    Then::Activation(Activation::Relu),
    Then::Gate(Activation::Silu),
    Then::Residual,
    Then::Gate(Activation::GeluTanh),
];

/// One weight on the device, and inputs of `rows` rows on the host.
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
    fn new(
        gpu: &Gpu,
        inputs: &mut Inputs,
        dtype: Dtype,
        (k, n): (usize, usize),
        rows: usize,
    ) -> Self {
        let x = inputs.normal(dtype, rows * k, 1.0);
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
            residual: inputs.normal(Dtype::F32, rows * n, 3.0),
            device_w: gpu.floats(dtype, &w),
            device_bias: gpu.floats(dtype, &padded_bias),
            x,
            bias,
            product,
        }
    }

    /// The first `m` rows of `x`, with NaN after them.
    fn device_x(&self, gpu: &Gpu, x: &[f32], m: usize) -> Buffer {
        let mut padded = x[..m * self.k].to_vec();
        padded.resize((m + 8) * self.k, f32::NAN);
        gpu.floats(self.dtype, &padded)
    }

    /// No output yet.
    fn params(&self, gpu: &Gpu, x: &Buffer, m: usize) -> LinearParams {
        let product = [m, self.n, self.k];
        LinearParams {
            bias: self.device_bias.ptr(gpu),
            ..LinearParams::plain(x.ptr(gpu), self.device_w.ptr(gpu), product)
        }
    }

    /// The first `m` rows of `x` through the kernel; what lies after the last must be as it was.
    fn run(&self, gpu: &Gpu, kernel: &Kernel, x: &[f32], m: usize, then: Then) -> Vec<f32> {
        let Self { dtype, k, .. } = *self;
        let n = self.width(then);
        let x = self.device_x(gpu, x, m);
        let y = match then {
            Then::Residual => {
                let mut residual = self.residual[..m * n].to_vec();
                residual.resize((m + 1) * n, f32::NAN);
                gpu.floats(Dtype::F32, &residual)
            }
            _ => gpu.poison(dtype, (m + 1) * n),
        };
        let mut params = self.params(gpu, &x, m);
        match then {
            Then::Residual => params.residual = y.ptr(gpu),
            _ => params.y = y.ptr(gpu),
        }
        match then {
            Then::Nothing => params.bias = 0,
            Then::Activation(activation) => params.activation = activation_code(activation),
            Then::Gate(activation) => {
                params.activation = activation_code(activation);
                params.gated = 1;
            }
            Then::Bias | Then::Residual => {}
        }
        (kernel.launch)(&gpu.kernels, &gpu.stream, dtype, &params).unwrap();
        let mut out = gpu.read(&y);
        assert!(
            out[m * n..].iter().all(|v| v.is_nan()),
            "{} {dtype} {m}×{k}×{n} {then:?}: wrote past the end",
            kernel.name
        );
        out.truncate(m * n);
        out
    }

    /// Columns of the result.
    fn width(&self, then: Then) -> usize {
        match then {
            Then::Gate(_) => self.n / 2,
            _ => self.n,
        }
    }

    fn expected(&self, m: usize, then: Then) -> Vec<f32> {
        let product = &self.product[..m * self.n];
        let mut out = product.to_vec();
        match then {
            Then::Nothing => {}
            Then::Bias => ops::add_bias(&mut out, Some(&self.bias)),
            Then::Activation(activation) => {
                ops::add_bias(&mut out, Some(&self.bias));
                ops::activation(&mut out, activation);
            }
            Then::Gate(activation) => {
                ops::add_bias(&mut out, Some(&self.bias));
                let mut y = vec![0.0; out.len() / 2];
                ops::gated_activation(&mut y, &out, activation);
                return y;
            }
            Then::Residual => {
                out.copy_from_slice(&self.residual[..m * self.n]);
                ops::residual(&mut out, product, self.n);
                ops::add_bias(&mut out, Some(&self.bias));
            }
        }
        out
    }
}

/// `x · w`, `[M, N]`, summed in f64.
pub fn product(x: &[f32], w: &[f32], k: usize, n: usize) -> Vec<f32> {
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

/// Every shape and every row count meets every epilogue within a few runs.
fn equals_the_reference(kernel: &Kernel, shapes: &[(usize, usize)], rows_each: usize) {
    let Some(gpu) = gpu_with(kernel) else { return };
    let mut inputs = Inputs::fresh();
    let mut thens = THENS.into_iter().cycle().skip(inputs.below(THENS.len()));
    let skipped = inputs.below(kernel.rows.len());
    let mut rows = kernel.rows.iter().cycle().skip(skipped);
    let most = *kernel.rows.iter().max().unwrap();
    let rows_each = rows_each.min(if quick() { 2 } else { usize::MAX });
    for &dtype in kernel.dtypes {
        for &(k, n) in shapes {
            let problem = Problem::new(gpu, &mut inputs, dtype, (k, n), most);
            for (&m, then) in rows.by_ref().take(rows_each).zip(&mut thens) {
                let out = problem.run(gpu, kernel, &problem.x, m, then);
                // The sums are of values around 1, in f32 and in another order.
                let tolerance = match then {
                    Then::Residual => Tolerance::rounding(Dtype::F32).at_least(1e-4),
                    _ => Tolerance::rounding(dtype).at_least(1e-4),
                };
                let what = format!("{} {dtype} {m}×{k}×{n} {then:?}", kernel.name);
                assert_close(&what, &out, &problem.expected(m, then), tolerance);
            }
        }
    }
}

#[test]
fn linear_small() {
    equals_the_reference(&LINEAR_SMALL, &EDGE_SHAPES, LINEAR_SMALL.rows.len());
}

#[test]
fn linear_small_at_the_sizes_of_a_model() {
    equals_the_reference(&LINEAR_SMALL, &MODEL_SHAPES, 4);
}

#[test]
fn linear_slim() {
    equals_the_reference(&LINEAR_SLIM, &EDGE_SHAPES, LINEAR_SLIM.rows.len());
}

#[test]
fn linear_slim_at_the_sizes_of_a_model() {
    equals_the_reference(&LINEAR_SLIM, &MODEL_SHAPES, 4);
}

#[test]
fn linear_tiled() {
    equals_the_reference(&LINEAR_TILED, &EDGE_SHAPES, LINEAR_TILED.rows.len());
}

#[test]
fn linear_tiled_at_the_sizes_of_a_model() {
    equals_the_reference(&LINEAR_TILED, &MODEL_SHAPES, 4);
}

#[test]
fn linear_wide() {
    equals_the_reference(&LINEAR_WIDE, &EDGE_SHAPES, LINEAR_WIDE.rows.len());
}

#[test]
fn linear_wide_at_the_sizes_of_a_model() {
    equals_the_reference(&LINEAR_WIDE, &MODEL_SHAPES, 4);
}

#[test]
fn linear_portable() {
    equals_the_reference(&LINEAR_PORTABLE, &EDGE_SHAPES, LINEAR_PORTABLE.rows.len());
}

#[test]
fn linear_portable_at_the_sizes_of_a_model() {
    equals_the_reference(&LINEAR_PORTABLE, &MODEL_SHAPES, 2);
}

#[test]
fn linear_portable_of_large_tiles() {
    equals_the_reference(&LINEAR_PORTABLE_LARGE, &WIDE_SHAPES, 3);
}

/// Queries, keys and values to their places, each with its bias, and nothing anywhere else.
fn fills_queries_and_pages(kernel: &Kernel) {
    let Some(gpu) = gpu_with(kernel) else { return };
    let mut inputs = Inputs::fresh();
    for (&dtype, (k, query_heads, kv_heads, head_dim, page_size)) in
        kernel.dtypes.iter().cycle().zip([
            (768, 12, 12, 64, 64),
            (40, 4, 2, 80, 16),
            (136, 8, 1, 128, 8),
            (64, 1, 1, 32, 16),
            (72, 3, 3, 32, 128),
            (576, 9, 3, 64, 32),
            (256, 8, 2, 128, 64),
        ])
    {
        let m = kernel.rows[inputs.below(kernel.rows.len())];
        let n = (query_heads + 2 * kv_heads) * head_dim;
        let problem = Problem::new(gpu, &mut inputs, dtype, (k, n), m);
        let layout = KvLayout {
            layers: 1,
            kv_heads,
            head_dim,
            page_size,
            bytes_per_element: dtype.bytes(),
        };
        let places = KvPlaces::new(gpu, &mut inputs, layout, m);
        let q_width = query_heads * head_dim;
        let mut q = vec![f32::NAN; (m + 1) * q_width];
        let mut kv = vec![f32::NAN; places.elements()];
        let mut qkv = problem.product.clone();
        ops::add_bias(&mut qkv, Some(&problem.bias));
        let table = ROPE.table(head_dim, places.positions());
        let rotary = inputs.below(2) == 1;
        if rotary {
            let positions = places.token_positions();
            ops::rotate(&mut qkv, positions, &table, query_heads, &layout);
        }
        let device_table = gpu.floats(Dtype::F32, table.as_flattened());
        let slots = places.slots();
        ops::kv_append(&mut q[..m * q_width], &mut kv, &qkv, &slots, &layout);

        let (device_q, device_kv) = (gpu.poison(dtype, q.len()), gpu.poison(dtype, kv.len()));
        let x = problem.device_x(gpu, &problem.x, m);
        let mut params = problem.params(gpu, &x, m);
        params.qkv = places.target(gpu, query_heads, &device_q, &device_kv);
        if rotary {
            params.qkv.rotary = device_table.ptr(gpu);
        }
        (kernel.launch)(&gpu.kernels, &gpu.stream, dtype, &params).unwrap();
        let what = format!(
            "{} {dtype} {m}×{k}, heads {query_heads}/{kv_heads}, rotary {rotary}",
            kernel.name
        );
        for (part, out, expected) in [
            ("queries", gpu.read(&device_q), q),
            ("pages", gpu.read(&device_kv), kv),
        ] {
            // A turn adds two roundings of values around 1.
            let tolerance = Tolerance::rounding(dtype).at_least(2e-4);
            assert_close_where_written(&format!("{what}: {part}"), &out, &expected, tolerance);
        }
    }
}

#[test]
fn linear_small_fills_queries_and_pages() {
    fills_queries_and_pages(&LINEAR_SMALL);
}

#[test]
fn linear_slim_fills_queries_and_pages() {
    fills_queries_and_pages(&LINEAR_SLIM);
}

#[test]
fn linear_tiled_fills_queries_and_pages() {
    fills_queries_and_pages(&LINEAR_TILED);
}

#[test]
fn linear_wide_fills_queries_and_pages() {
    fills_queries_and_pages(&LINEAR_WIDE);
}

#[test]
fn linear_portable_fills_queries_and_pages() {
    fills_queries_and_pages(&LINEAR_PORTABLE);
}

/// A row's bits are the same in every run, among any other rows, and in batches of `rows`, up to
/// `most`.
fn keeps_a_rows_bits(kernel: &Kernel, most: usize, rows: &[usize]) {
    let Some(gpu) = gpu_with(kernel) else { return };
    let mut inputs = Inputs::fresh();
    for (dtype, (k, n), then) in [
        (Dtype::BF16, (768, 768), Then::Residual),
        (
            Dtype::F16,
            (776, 1032),
            Then::Activation(Activation::GeluTanh),
        ),
    ] {
        let problem = Problem::new(gpu, &mut inputs, dtype, (k, n), most);
        let what = format!("{} {dtype} {k}×{n} {then:?}", kernel.name);
        let run = |x: &[f32], m| problem.run(gpu, kernel, x, m, then);
        let all = run(&problem.x, most);
        assert_eq!(all, run(&problem.x, most), "{what}");
        for &m in rows {
            assert_eq!(
                run(&problem.x, m),
                all[..m * n],
                "{what}: the first {m} rows"
            );
        }
        let kept = inputs.below(most);
        let mut strangers = vec![f32::NAN; most * k];
        let row = kept * k..(kept + 1) * k;
        strangers[row.clone()].copy_from_slice(&problem.x[row]);
        let row = kept * n..(kept + 1) * n;
        assert_eq!(
            run(&strangers, most)[row.clone()],
            all[row],
            "{what}: row {kept} among NaN"
        );
    }
}

#[test]
fn linear_small_gives_a_row_the_same_bits_alone_in_any_company_and_again() {
    keeps_a_rows_bits(&LINEAR_SMALL, MAX_ROWS, &[1, 7, 8, 9, 17]);
}

#[test]
fn linear_slim_gives_a_row_the_same_bits_alone_in_any_company_and_again() {
    keeps_a_rows_bits(&LINEAR_SLIM, 300, &[1, 16, 33, 64, 129]);
}

/// In batches of equally many tiles of 64 rows.
#[test]
fn linear_tiled_gives_a_row_the_same_bits_in_any_company_and_again() {
    keeps_a_rows_bits(&LINEAR_TILED, 64, &[1, 33]);
    keeps_a_rows_bits(&LINEAR_TILED, 192, &[129]);
}

/// In batches that are cut alike.
#[test]
fn linear_wide_gives_a_row_the_same_bits_in_any_company_and_again() {
    keeps_a_rows_bits(&LINEAR_WIDE, 64, &[1, 33]);
    keeps_a_rows_bits(&LINEAR_WIDE, 700, &[650]);
}

#[test]
fn linear_portable_gives_a_row_the_same_bits_alone_in_any_company_and_again() {
    keeps_a_rows_bits(&LINEAR_PORTABLE, 300, &[1, 33, 64, 65, 129]);
}

#[test]
fn head_portable() {
    let Some(gpu) = gpu() else { return };
    let mut inputs = Inputs::fresh();
    for dtype in DTYPES {
        // The last two have enough tiles for large ones.
        for (m, k, n) in [
            (1, 8, 8),
            (3, 40, 72),
            (33, 4104, 136),
            (65, 776, 1032),
            (130, 768, 128),
            (1100, 72, 2312),
            (70, 136, 17_408),
        ] {
            let x = inputs.normal(dtype, m * k, 1.0);
            let w = inputs.normal(dtype, k * n, 1.0 / (k as f32).sqrt());
            let expected = product(&x, &w, k, n);
            let column = |j| w[j..].iter().step_by(n);
            // NaN is what no one may read.
            let padded = |values: Vec<f32>| [values, vec![f32::NAN; 8 * k]].concat();
            let device_x = gpu.floats(dtype, &padded(x));
            let device_w = gpu.floats(dtype, &padded((0..n).flat_map(column).copied().collect()));
            let run = |m: usize| {
                let logits = gpu.poison(Dtype::F32, (m + 1) * n);
                let params = LogitsParams {
                    x: device_x.ptr(gpu),
                    w: device_w.ptr(gpu),
                    logits: logits.ptr(gpu),
                    m: m as i32,
                    n: n as i32,
                    k: k as i32,
                };
                let launched = gpu.kernels.head_portable(&gpu.stream, dtype, &params);
                launched.unwrap();
                let mut out = gpu.read(&logits);
                let after = out.split_off(m * n);
                assert!(after.iter().all(|v| v.is_nan()), "wrote past the end");
                out
            };
            let (what, out) = (format!("head_portable {dtype} {m}×{k}×{n}"), run(m));
            let tolerance = Tolerance::rounding(Dtype::F32).at_least(1e-4);
            assert_close(&what, &out, &expected, tolerance);
            assert!(run(1) == out[..n], "{what}: the first row alone");
        }
    }
}

#[test]
fn linear_kernels_refuse_what_they_have_no_code_for() {
    let refused = |kernel: &Kernel, dtype: Dtype, m, n, k| {
        let params = LinearParams::plain(0, 0, [m, n, k]);
        gpu_with(kernel)
            .is_none_or(|gpu| (kernel.launch)(&gpu.kernels, &gpu.stream, dtype, &params).is_err())
    };
    for kernel in [LINEAR_SMALL, LINEAR_TILED, LINEAR_WIDE, LINEAR_PORTABLE] {
        if gpu_with(&kernel).is_none() {
            continue;
        }
        if !kernel.dtypes.contains(&Dtype::F32) {
            assert!(refused(&kernel, Dtype::F32, 1, 64, 64));
        }
        assert!(refused(&kernel, Dtype::BF16, 1, 60, 64));
        assert!(refused(&kernel, Dtype::BF16, 1, 64, 4));
        // Nothing to do is no error.
        assert!(!refused(&kernel, Dtype::BF16, 0, 64, 64));
    }
    assert!(refused(&LINEAR_SMALL, Dtype::BF16, MAX_ROWS + 1, 64, 64));
}
