//! embedding, residual_norm, bias_activation, kv_append and random_fill.

use batchlab::kv::KvLayout;
use batchlab::model::{Activation, NormKind, Rope, RopeScaling, seeded_unit};
use batchlab::runner::Dtype;
use batchlab::runner::cpu::ops;
use batchlab::runner::cuda::ops as cuda;
use batchlab::runner::cuda::ops::bias_activation::activation_code;

use crate::check::{Tolerance, assert_close, assert_close_where_written};
use crate::device::{DTYPES, Gpu, Inputs, gpu, rounded};
use crate::kv_places::KvPlaces;

#[test]
fn embedding() {
    let Some(gpu) = gpu() else { return };
    let mut inputs = Inputs::fresh();
    for dtype in DTYPES {
        for (tokens, channels, vocab, places) in [
            (1, 768, 500, 64),
            (13, 32, 3, 1),
            (300, 1600, 50, 1024),
            (7, 1032, 9, 5),
        ] {
            let wte = inputs.normal(dtype, vocab * channels, 1.0);
            let wpe = inputs.normal(dtype, places * channels, 0.1);
            let ids: Vec<u32> = (0..tokens).map(|_| inputs.below(vocab) as u32).collect();
            let positions: Vec<u32> = (0..tokens).map(|_| inputs.below(places) as u32).collect();
            // Every second model knows its positions otherwise.
            let learned = tokens % 2 == 1;
            let mut expected = vec![0.0; tokens * channels];
            let places = learned.then_some(&*wpe);
            ops::embedding(&mut expected, &ids, &positions, &wte, places, channels);

            let x = gpu.poison(Dtype::F32, (tokens + 1) * channels);
            let (ids, positions) = (gpu.ints(&signed(&ids)), gpu.ints(&signed(&positions)));
            let (wte, wpe) = (gpu.floats(dtype, &wte), gpu.floats(dtype, &wpe));
            let params = cuda::EmbeddingParams {
                x: x.ptr(gpu),
                token_ids: ids.ptr(gpu),
                positions: positions.ptr(gpu),
                wte: wte.ptr(gpu),
                wpe: if learned { wpe.ptr(gpu) } else { 0 },
                tokens: tokens as i32,
                channels: channels as i32,
            };
            gpu.kernels.embedding(&gpu.stream, dtype, &params).unwrap();
            let out = gpu.read(&x);
            // Both sides add two f32: equal to the bit.
            assert_eq!(
                out[..tokens * channels],
                expected,
                "{dtype:?} {channels} channels"
            );
            assert!(out[tokens * channels..].iter().all(|v| v.is_nan()));
        }
    }
}

pub const ROPE: Rope = Rope {
    theta: 10_000.0,
    scaling: RopeScaling::Default,
};

/// One call: what the optional arguments are, and the row's distance from zero.
struct NormCase {
    rows: usize,
    channels: usize,
    add: bool,
    slices: usize,
    bias: bool,
    gather: bool,
    shift: f32,
    kind: NormKind,
}

#[test]
fn residual_norm() {
    let Some(gpu) = gpu() else { return };
    let mut inputs = Inputs::fresh();
    for dtype in DTYPES {
        for (rows, channels) in [(1, 32), (5, 768), (64, 1600), (3, 8192), (2, 1032), (9, 40)] {
            for (add, slices, bias, gather, shift, kind) in [
                (true, 0, true, false, 0.0, NormKind::LayerNorm),
                (true, 0, false, false, 0.0, NormKind::LayerNorm),
                (false, 0, false, false, 100.0, NormKind::LayerNorm),
                (true, 0, true, true, 1.0, NormKind::LayerNorm),
                (false, 0, false, true, 0.0, NormKind::LayerNorm),
                (true, 0, false, false, 0.5, NormKind::RmsNorm),
                (false, 0, false, true, 100.0, NormKind::RmsNorm),
                (false, 3, true, true, 1.0, NormKind::LayerNorm),
                (false, 16, false, false, 0.0, NormKind::RmsNorm),
            ] {
                let case = NormCase {
                    rows,
                    channels,
                    add,
                    slices,
                    bias,
                    gather,
                    shift,
                    kind,
                };
                check_norm(gpu, &mut inputs, dtype, &case);
            }
        }
    }
}

fn check_norm(gpu: &Gpu, inputs: &mut Inputs, dtype: Dtype, case: &NormCase) {
    let NormCase { rows, channels, .. } = *case;
    // With a gather, x has more rows than come out.
    let tokens = if case.gather { 2 * rows + 1 } else { rows };
    let x: Vec<f32> = inputs
        .normal(Dtype::F32, tokens * channels, 1.0)
        .iter()
        .map(|v| v + case.shift)
        .collect();
    let add = inputs.normal(dtype, tokens * channels, 1.0);
    let bias = inputs.normal(dtype, channels, 1.0);
    let weight = inputs.normal(dtype, channels, 1.0);
    let beta = inputs.normal(dtype, channels, 1.0);
    let parts = inputs.normal(Dtype::F32, case.slices.max(1) * tokens * channels, 0.5);
    let index: Vec<u32> = (0..rows)
        .map(|r| if case.gather { inputs.below(tokens) } else { r } as u32)
        .collect();

    let mut summed = x.clone();
    for part in parts.chunks_exact(tokens * channels).take(case.slices) {
        ops::residual(&mut summed, part, channels);
    }
    if case.add {
        ops::residual(&mut summed, &add, channels);
    }
    if case.add || case.slices > 0 {
        let bias = if case.bias {
            bias.clone()
        } else {
            vec![0.0; channels]
        };
        ops::add_bias(&mut summed, Some(&bias));
    }
    let gathered: Vec<f32> = index
        .iter()
        .flat_map(|&r| &summed[r as usize * channels..][..channels])
        .copied()
        .collect();
    let mut expected = vec![0.0; rows * channels];
    match case.kind {
        NormKind::LayerNorm => ops::layer_norm(&mut expected, &gathered, &weight, &beta, 1e-5),
        NormKind::RmsNorm => ops::rms_norm(&mut expected, &gathered, &weight, 1e-5),
    }

    let device_x = gpu.floats(Dtype::F32, &x);
    let device_parts = gpu.floats(Dtype::F32, &parts);
    let out = gpu.poison(dtype, (rows + 1) * channels);
    let [add, bias, weight, beta] = [&add, &bias, &weight, &beta].map(|v| gpu.floats(dtype, v));
    let index = gpu.ints(&signed(&index));
    let given = |given: bool, ptr: u64| if given { ptr } else { 0 };
    let params = cuda::ResidualNormParams {
        x: device_x.ptr(gpu),
        add: given(case.add, add.ptr(gpu)),
        parts: device_parts.ptr(gpu),
        bias: given(case.bias, bias.ptr(gpu)),
        weight: weight.ptr(gpu),
        beta: given(case.kind == NormKind::LayerNorm, beta.ptr(gpu)),
        out: out.ptr(gpu),
        row_index: given(case.gather, index.ptr(gpu)),
        rows: rows as i32,
        channels: channels as i32,
        eps: 1e-5,
        slices: case.slices as i32,
        slice_rows: tokens as i32,
        rms: i32::from(case.kind == NormKind::RmsNorm),
        holds_next: i32::from(case.gather),
    };
    gpu.kernels
        .residual_norm(&gpu.stream, dtype, &params)
        .unwrap();

    let what = format!(
        "{dtype:?} {:?} rows {rows} channels {channels} add {} slices {} gather {}",
        case.kind, case.add, case.slices, case.gather
    );
    let result = gpu.read(&out);
    // A row 100 from zero loses two digits of its deviations when x is rounded to f32.
    let tolerance = Tolerance::rounding(dtype).at_least(2e-5 * (1.0 + case.shift));
    assert_close(&what, &result[..rows * channels], &expected, tolerance);
    assert!(
        result[rows * channels..].iter().all(|v| v.is_nan()),
        "{what}: wrote past the end"
    );
    let stream = gpu.read(&device_x);
    // Gathered rows are not written back.
    let expected = if case.gather { &x } else { &summed };
    assert_close(
        &what,
        &stream,
        expected,
        // Parts are added in another order.
        Tolerance {
            atol: 1e-6 * (1 + case.slices) as f32,
            rtol: 1e-6,
        },
    );
}

#[test]
fn bias_activation() {
    let Some(gpu) = gpu() else { return };
    let mut inputs = Inputs::fresh();
    for dtype in DTYPES {
        for activation in [
            Activation::GeluTanh,
            Activation::GeluErf,
            Activation::Relu,
            Activation::Silu,
        ] {
            for (tokens, features, gated, biased) in [
                (1, 3072, false, true),
                (9, 128, true, false),
                (64, 1032, false, true),
                (5, 6400, true, true),
                (3, 1032, true, false),
                (7, 40, false, false),
            ] {
                let width = if gated { 2 * features } else { features };
                let bias = inputs.normal(dtype, width, 0.5);
                let mut h = inputs.normal(dtype, tokens * width, 2.0);
                // Far out, where a careless formula overflows.
                for (v, far) in h.iter_mut().zip([-200.0, 200.0, 200.0, -200.0, 0.0]) {
                    *v = far;
                }
                let h = rounded(dtype, &h);
                let mut summed = h.clone();
                ops::add_bias(&mut summed, biased.then_some(&*bias));
                let expected = if gated {
                    let mut y = vec![0.0; tokens * features];
                    ops::gated_activation(&mut y, &summed, activation);
                    y
                } else {
                    ops::activation(&mut summed, activation);
                    summed
                };

                let mut padded = h.clone();
                padded.extend(vec![f32::NAN; width]);
                let device_h = gpu.floats(dtype, &padded);
                let device_bias = gpu.floats(dtype, &bias);
                let apart = gpu.poison(dtype, (tokens + 1) * features);
                // Without the gate it is in place.
                let y = if gated { &apart } else { &device_h };
                let params = cuda::BiasActivationParams {
                    y: y.ptr(gpu),
                    h: device_h.ptr(gpu),
                    bias: if biased { device_bias.ptr(gpu) } else { 0 },
                    tokens: tokens as i32,
                    features: features as i32,
                    activation: activation_code(activation),
                    gated: i32::from(gated),
                };
                gpu.kernels
                    .bias_activation(&gpu.stream, dtype, &params)
                    .unwrap();
                let out = gpu.read(y);
                let what = format!("{dtype:?} {activation:?} {tokens}×{features} gated {gated}");
                let expected = rounded(dtype, &expected);
                assert_close(
                    &what,
                    &out[..tokens * features],
                    &expected,
                    Tolerance::rounding(dtype),
                );
                assert!(
                    out[tokens * features..].iter().all(|v| v.is_nan()),
                    "{what}: wrote past the end"
                );
            }
        }
    }
}

#[test]
fn kv_append() {
    let Some(gpu) = gpu() else { return };
    let mut inputs = Inputs::fresh();
    for dtype in DTYPES {
        for (query_heads, kv_heads, head_dim, page_size, rotary, biased) in [
            (12, 12, 64, 64, false, true),
            (25, 25, 64, 16, false, true),
            (8, 1, 128, 8, true, false),
            (4, 2, 80, 128, true, true),
            (1, 1, 32, 16, false, false),
            (9, 3, 64, 32, true, false),
        ] {
            let layout = KvLayout {
                layers: 1,
                kv_heads,
                head_dim,
                page_size,
                bytes_per_element: 4,
            };
            let tokens = 1 + inputs.below(4 * page_size);
            let places = KvPlaces::new(gpu, &mut inputs, layout, tokens);
            let width = (query_heads + 2 * kv_heads) * head_dim;
            let qkv = inputs.normal(dtype, tokens * width, 1.0);
            let bias = inputs.normal(dtype, width, 1.0);
            let table = ROPE.table(head_dim, places.positions());
            let mut q = vec![0.0; tokens * query_heads * head_dim];
            let mut kv = vec![f32::NAN; places.elements()];
            let mut summed = qkv.clone();
            ops::add_bias(&mut summed, biased.then_some(&*bias));
            if rotary {
                let positions = places.token_positions();
                ops::rotate(&mut summed, positions, &table, query_heads, &layout);
            }
            ops::kv_append(&mut q, &mut kv, &summed, &places.slots(), &layout);

            let device_q = gpu.poison(dtype, q.len() + head_dim);
            let device_kv = gpu.poison(dtype, kv.len());
            let (device_qkv, device_bias) = (gpu.floats(dtype, &qkv), gpu.floats(dtype, &bias));
            let device_table = gpu.floats(Dtype::F32, table.as_flattened());
            let mut to = places.target(gpu, query_heads, &device_q, &device_kv);
            if rotary {
                to.rotary = device_table.ptr(gpu);
            }
            let params = cuda::KvAppendParams {
                qkv: device_qkv.ptr(gpu),
                bias: if biased { device_bias.ptr(gpu) } else { 0 },
                to,
                tokens: tokens as i32,
            };
            gpu.kernels.kv_append(&gpu.stream, dtype, &params).unwrap();
            let what =
                format!("{dtype:?} heads {query_heads}/{kv_heads} D {head_dim} P {page_size}");
            let mut expected_q = rounded(dtype, &q);
            expected_q.extend(vec![f32::NAN; head_dim]);
            let (out_q, out_kv) = (gpu.read(&device_q), gpu.read(&device_kv));
            if rotary {
                // A turn is two products and a sum, which may be fused.
                let tolerance = Tolerance::rounding(dtype);
                assert_close_where_written(&what, &out_q, &expected_q, tolerance);
                assert_close_where_written(&what, &out_kv, &rounded(dtype, &kv), tolerance);
            } else {
                // One addition and one rounding on both sides: equal to the bit, and NaN where nothing is written.
                assert_same(&what, &out_q, &expected_q);
                assert_same(&what, &out_kv, &rounded(dtype, &kv));
            }
        }
    }
}

#[test]
fn random_fill() {
    let Some(gpu) = gpu() else { return };
    let mut inputs = Inputs::fresh();
    for dtype in DTYPES {
        for count in [1usize, 7, 8, 1000, 300_001] {
            let seed = u64::from_le_bytes(std::array::from_fn(|_| inputs.below(256) as u8));
            let (mean, spread) = (0.25, 0.035);
            let values: Vec<f32> = (0..count as u64)
                .map(|i| mean + spread * seeded_unit(seed, i))
                .collect();
            let mut expected = rounded(dtype, &values);
            expected.extend([f32::NAN; 8]);
            let out = gpu.poison(dtype, count + 8);
            let params = cuda::RandomFillParams {
                out: out.ptr(gpu),
                seed,
                count: count as u64,
                mean,
                spread,
            };
            gpu.kernels
                .random_fill(&gpu.stream, dtype, &params)
                .unwrap();
            assert_same(&format!("{dtype:?} {count}"), &gpu.read(&out), &expected);
        }
    }
}

/// Equal values, NaN in the same places.
#[track_caller]
fn assert_same(what: &str, out: &[f32], expected: &[f32]) {
    assert_eq!(out.len(), expected.len());
    for (i, (o, e)) in out.iter().zip(expected).enumerate() {
        assert!(
            o == e || (o.is_nan() && e.is_nan()),
            "{what}: [{i}] {o:e}, expected {e:e}"
        );
    }
}

fn signed(values: &[u32]) -> Vec<i32> {
    values.iter().map(|&v| v as i32).collect()
}
