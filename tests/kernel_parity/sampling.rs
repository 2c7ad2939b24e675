//! argmax, sample and penalise.

use batchlab::runner::Dtype;
use batchlab::runner::cuda::ops as cuda;
use batchlab::sampling::{self, Sampling};

use crate::check::{Tolerance, assert_close_where_written};
use crate::device::{Gpu, Inputs, gpu, quick};

/// (V, stride): whole vectors, odd rows, fewer logits than threads.
const SHAPES: [(usize, usize); 5] = [
    (50_257, 50_304),
    (50_257, 50_257),
    (1, 1),
    (33, 40),
    (5000, 5003),
];

#[test]
fn argmax() {
    let Some(gpu) = gpu() else { return };
    let mut inputs = Inputs::fresh();
    for (vocab, stride) in SHAPES {
        for rows in [1, 7, 64] {
            let mut logits = logits(&mut inputs, rows, vocab, stride);
            for (r, row) in logits.chunks_exact_mut(stride).enumerate() {
                let row = &mut row[..vocab];
                let top = row.iter().copied().fold(f32::MIN, f32::max);
                let at = [inputs.below(vocab), inputs.below(vocab)];
                match r % 7 {
                    // Ties: the lowest index wins.
                    1 => at.iter().for_each(|&i| row[i] = top + 1.0),
                    2 => row.fill(-1e30),
                    3 => row.fill(f32::NEG_INFINITY),
                    4 => row[at[0]] = f32::NAN,
                    5 => row[vocab - 1] = f32::INFINITY,
                    6 => row.fill(f32::NAN),
                    _ => {}
                }
            }
            let expected: Vec<i32> = logits
                .chunks_exact(stride)
                .map(|row| sampling::argmax(&row[..vocab]) as i32)
                .collect();
            let device_logits = gpu.floats(Dtype::F32, &logits);
            let out = gpu.ints(&vec![-7; rows + 1]);
            let copy = gpu.ints(&vec![-7; rows + 1]);
            let copy_at = gpu.longs(&[copy.ptr(gpu)]);
            let params = cuda::ArgmaxParams {
                logits: device_logits.ptr(gpu),
                out: out.ptr(gpu),
                host_out: copy_at.ptr(gpu),
                rows: rows as i32,
                vocab: vocab as i32,
                stride: stride as i32,
            };
            gpu.kernels.argmax(&gpu.stream, &params).unwrap();
            let tokens = gpu.read_ints(&out);
            assert_eq!(tokens[..rows], expected, "V {vocab} stride {stride}");
            assert_eq!(tokens[rows], -7);
            assert_eq!(gpu.read_ints(&copy), tokens);
        }
    }
}

#[test]
fn penalise() {
    let Some(gpu) = gpu() else { return };
    let mut inputs = Inputs::fresh();
    for (vocab, stride) in SHAPES {
        let rows = 5;
        let before = logits(&mut inputs, rows, vocab, stride);
        // None, one, and up to a thousand tokens, each once.
        let seen: Vec<Vec<u32>> = [0, 1, 9, 300, 1000]
            .map(|wanted| {
                let first = inputs.below(vocab);
                let count = wanted.min(vocab);
                (0..count).map(|i| ((first + i) % vocab) as u32).collect()
            })
            .to_vec();
        let penalties = [1.3, 2.0, 0.5, 1.0, 1.1f32];
        let mut expected = before.clone();
        for ((row, ids), penalty) in expected.chunks_exact_mut(stride).zip(&seen).zip(penalties) {
            sampling::penalise(&mut row[..vocab], ids, penalty);
        }
        let mut starts = vec![0];
        for ids in &seen {
            starts.push(starts[starts.len() - 1] + ids.len() as i32);
        }
        let ids: Vec<i32> = seen
            .concat()
            .iter()
            .map(|&id| id as i32)
            .chain([-1])
            .collect();
        let device_logits = gpu.floats(Dtype::F32, &before);
        let (starts, ids) = (gpu.ints(&starts), gpu.ints(&ids));
        let penalties = gpu.floats(Dtype::F32, &penalties);
        let params = cuda::PenaliseParams {
            logits: device_logits.ptr(gpu),
            starts: starts.ptr(gpu),
            ids: ids.ptr(gpu),
            penalties: penalties.ptr(gpu),
            rows: rows as i32,
            stride: stride as i32,
        };
        gpu.kernels.penalise(&gpu.stream, &params).unwrap();
        let what = format!("V {vocab} stride {stride}");
        // Division on a GPU rounds as on a CPU.
        let tolerance = Tolerance {
            atol: 0.0,
            rtol: 1e-6,
        };
        assert_close_where_written(&what, &gpu.read(&device_logits), &expected, tolerance);
    }
}

#[test]
fn sample() {
    let Some(gpu) = gpu() else { return };
    let mut inputs = Inputs::fresh();
    for (vocab, stride) in SHAPES {
        let mut rows: Vec<Sampling> = parameters(&mut inputs, vocab);
        if quick() && vocab > 10_000 {
            rows.retain(|s| s.is_greedy() || inputs.below(8) == 0);
        }
        let indices: Vec<u32> = (0..rows.len()).map(|_| inputs.below(2000) as u32).collect();
        let logits = logits(&mut inputs, rows.len(), vocab, stride);
        let tokens = run(gpu, &logits, &rows, &indices, (vocab, stride));
        for (((row, s), &index), &token) in logits
            .chunks_exact(stride)
            .zip(&rows)
            .zip(&indices)
            .zip(&tokens)
        {
            assert_allowed(&row[..vocab], s, index, token);
        }
        assert_eq!(
            tokens,
            run(gpu, &logits, &rows, &indices, (vocab, stride)),
            "two runs differ"
        );
    }
}

/// The token is the reference's, or its score is within rounding of the reference's best, or it
/// differs because the sum at the edge of top-p rounds the other way.
fn assert_allowed(logits: &[f32], s: &Sampling, index: u32, token: i32) {
    let wanted = sampling::sample(logits, s, index);
    let near = |top_p: f32| sampling::sample(logits, &Sampling { top_p, ..*s }, index);
    if token == wanted as i32 {
        return;
    }
    assert!(!s.is_greedy(), "greedy gave {token}, not {wanted}");
    let score = |t: u32| logits[t as usize] / s.temperature + sampling::gumbel(s.seed, index, t);
    let kept = logits[token as usize] >= sampling::keep_threshold(logits, s);
    let tie =
        kept && (score(token as u32) - score(wanted)).abs() <= 1e-5 * (1.0 + score(wanted).abs());
    let edge = s.top_p < 1.0
        && [0.9999, 1.0001]
            .iter()
            .any(|f| near((s.top_p * f).min(1.0)) == token as u32);
    assert!(
        tie || edge,
        "{s:?} index {index}: token {token}, reference {wanted}"
    );
}

/// Draws from the device follow the kept softmax: the same check as the reference's own.
#[test]
fn samples_follow_the_kept_distribution() {
    let Some(gpu) = gpu() else { return };
    let logits = [1.0, 3.0, 2.0, -5.0, 2.5];
    let s = Sampling {
        temperature: 0.7,
        top_k: 3,
        top_p: 1.0,
        repetition_penalty: 1.0,
        seed: 7,
    };
    let draws = if quick() { 500 } else { 20_000 };
    let many: Vec<f32> = logits.repeat(draws);
    let indices: Vec<u32> = (0..draws as u32).collect();
    let tokens = run(gpu, &many, &vec![s; draws], &indices, (5, 5));
    let weights = logits.map(|v: f32| {
        if v >= 2.0 {
            (v / s.temperature).exp()
        } else {
            0.0
        }
    });
    let total: f32 = weights.iter().sum();
    for (t, weight) in weights.iter().enumerate() {
        let seen = tokens.iter().filter(|&&token| token == t as i32).count() as f32 / draws as f32;
        let wanted = weight / total;
        // Five standard deviations of a binomial share.
        assert!(
            (seen - wanted).abs() <= 5.0 * (wanted * (1.0 - wanted) / draws as f32).sqrt(),
            "token {t}: {seen}, expected {wanted}"
        );
    }
}

/// Every kind of setting, and one row for each.
fn parameters(inputs: &mut Inputs, vocab: usize) -> Vec<Sampling> {
    let mut all = vec![Sampling::GREEDY];
    for temperature in [0.1, 0.7, 1.0, 5.0] {
        for top_k in [0, 1, 5, 50, vocab as u32, vocab as u32 + 9] {
            for top_p in [1.0, 0.95, 0.5, 0.01] {
                let seed = inputs.below(usize::MAX) as u64;
                all.push(Sampling {
                    temperature,
                    top_k,
                    top_p,
                    repetition_penalty: 1.0,
                    seed,
                });
            }
        }
    }
    all
}

/// Normal logits with a few far-out ones; NaN in the padding between rows.
fn logits(inputs: &mut Inputs, rows: usize, vocab: usize, stride: usize) -> Vec<f32> {
    let mut logits = inputs.normal(Dtype::F32, rows * stride, 4.0);
    for row in logits.chunks_exact_mut(stride) {
        row[vocab..].fill(f32::NAN);
        let at = [inputs.below(vocab), inputs.below(vocab)];
        row[at[0]] = -1e30;
        row[at[1]] = f32::NEG_INFINITY;
        // A tie, so that thresholds have something to keep twice.
        let (from, to) = (inputs.below(vocab), inputs.below(vocab));
        row[to] = row[from];
        // Never a row with nothing to choose.
        row[inputs.below(vocab)] = 3.0;
    }
    logits
}

fn run(
    gpu: &Gpu,
    logits: &[f32],
    rows: &[Sampling],
    indices: &[u32],
    (vocab, stride): (usize, usize),
) -> Vec<i32> {
    let floats =
        |of: fn(&Sampling) -> f32| gpu.floats(Dtype::F32, &rows.iter().map(of).collect::<Vec<_>>());
    let (temperature, top_p) = (floats(|s| s.temperature), floats(|s| s.top_p));
    let top_k = gpu.ints(&rows.iter().map(|s| s.top_k as i32).collect::<Vec<_>>());
    let seed = gpu.longs(&rows.iter().map(|s| s.seed).collect::<Vec<_>>());
    let sample_index = gpu.ints(&indices.iter().map(|&i| i as i32).collect::<Vec<_>>());
    let logits = gpu.floats(Dtype::F32, logits);
    let out = gpu.ints(&vec![-7; rows.len() + 1]);
    let copy = gpu.ints(&vec![-7; rows.len() + 1]);
    let copy_at = gpu.longs(&[copy.ptr(gpu)]);
    let params = cuda::SampleParams {
        logits: logits.ptr(gpu),
        temperature: temperature.ptr(gpu),
        top_k: top_k.ptr(gpu),
        top_p: top_p.ptr(gpu),
        seed: seed.ptr(gpu),
        sample_index: sample_index.ptr(gpu),
        out: out.ptr(gpu),
        host_out: copy_at.ptr(gpu),
        rows: rows.len() as i32,
        vocab: vocab as i32,
        stride: stride as i32,
    };
    gpu.kernels.sample(&gpu.stream, &params).unwrap();
    let mut tokens = gpu.read_ints(&out);
    assert_eq!(gpu.read_ints(&copy), tokens);
    assert_eq!(tokens.pop(), Some(-7));
    tokens
}
