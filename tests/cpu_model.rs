//! Whole models on the CPU runner, against logits that Hugging Face transformers computed in
//! float64 (tests/fixtures, made by scripts/make_fixtures.py), and against itself.

use std::path::Path;

use batchlab::model::Model;
use batchlab::plan::{RowPlan, StepPlan};
use batchlab::runner::cpu::CpuRunner;
use batchlab::runner::{KvBudget, Limits, Runner, RunnerError, RunnerOptions};
use batchlab::sampling::{Sampling, argmax};

const LIMITS: Limits = Limits {
    max_rows: 8,
    max_tokens: 256,
    max_kv_len: 64,
};

fn options(page_size: usize) -> RunnerOptions {
    RunnerOptions {
        dtype: None,
        page_size,
        kv: KvBudget::Utilization(0.9),
        limits: LIMITS,
    }
}

/// A sequence in the slab.
struct Sequence {
    pages: Vec<u32>,
    kv_start: usize,
    kv_len: usize,
}

/// Sequences whose pages lie scattered over the slab, in no order.
fn sequences(runner: &dyn Runner, pads: &[usize]) -> Vec<Sequence> {
    let total = runner.kv_pages() as u32;
    let mut pages = (0..total).map(|i| (i * 7 + 3) % total);
    assert_ne!(total % 7, 0, "every page must come once");
    let per_row = runner.kv_layout().pages_for(LIMITS.max_kv_len);
    pads.iter()
        .map(|&kv_start| Sequence {
            pages: pages.by_ref().take(per_row).collect(),
            kv_start,
            kv_len: 0,
        })
        .collect()
}

/// Appends `fresh[b]` to sequence b. Gives the next tokens and the `[B][V]` logits.
fn step(
    runner: &mut dyn Runner,
    sequences: &mut [Sequence],
    fresh: &[Vec<u32>],
) -> (Vec<u32>, Vec<Vec<f32>>) {
    let mut plan = StepPlan {
        token_ids: fresh.concat(),
        ..StepPlan::default()
    };
    for (sequence, fresh) in sequences.iter_mut().zip(fresh) {
        let new = sequence.kv_len..sequence.kv_len + fresh.len();
        let position = |i: usize| i.saturating_sub(sequence.kv_start) as u32;
        plan.positions.extend(new.clone().map(position));
        sequence.kv_len = new.end;
        plan.rows.push(RowPlan {
            query_len: fresh.len(),
            kv_start: sequence.kv_start,
            kv_len: new.end,
            pages: sequence.pages.clone(),
            sampling: Sampling::GREEDY,
            sample_index: 0,
        });
    }
    let tokens = runner.execute(&plan).unwrap().tokens;
    let logits = runner.logits().unwrap();
    let vocab = logits.len() / tokens.len();
    (tokens, logits.chunks(vocab).map(<[f32]>::to_vec).collect())
}

/// What one row gave, step by step.
#[derive(Debug, Clone, PartialEq, Default)]
struct Generated {
    tokens: Vec<u32>,
    logits: Vec<Vec<f32>>,
}

#[derive(Clone, Copy)]
enum Padding {
    Ragged,
    Left,
}

/// Greedy tokens and logits of prompts that run as one batch; a prompt is split over steps of at
/// most `chunk` tokens a row.
fn generate(
    runner: &mut dyn Runner,
    prompts: &[Vec<u32>],
    padding: Padding,
    chunk: usize,
    new_tokens: usize,
) -> Vec<Generated> {
    let longest = prompts.iter().map(Vec::len).max().unwrap();
    let pads: Vec<usize> = prompts
        .iter()
        .map(|p| match padding {
            Padding::Ragged => 0,
            Padding::Left => longest - p.len(),
        })
        .collect();
    let mut rows = sequences(runner, &pads);
    let padded: Vec<Vec<u32>> = prompts
        .iter()
        .zip(&pads)
        .map(|(p, &pad)| [vec![0; pad], p.clone()].concat())
        .collect();
    // Every row has tokens in every chunk: the last tokens of the prompts come in the last one.
    let chunks = longest
        .div_ceil(chunk)
        .min(padded.iter().map(Vec::len).min().unwrap());
    let mut last = (Vec::new(), Vec::new());
    for i in 0..chunks {
        let piece = |p: &Vec<u32>| p[i * p.len() / chunks..(i + 1) * p.len() / chunks].to_vec();
        let fresh: Vec<_> = padded.iter().map(piece).collect();
        last = step(runner, &mut rows, &fresh);
    }
    let mut generated = vec![Generated::default(); prompts.len()];
    for index in 0..new_tokens {
        for ((out, &token), logits) in generated.iter_mut().zip(&last.0).zip(&last.1) {
            assert_eq!(token, argmax(logits));
            out.tokens.push(token);
            out.logits.push(logits.clone());
        }
        if index + 1 < new_tokens {
            let fresh: Vec<_> = last.0.iter().map(|&t| vec![t]).collect();
            last = step(runner, &mut rows, &fresh);
        }
    }
    generated
}

fn bundled() -> Model {
    Model::open(None).unwrap()
}

/// Four prompts of different lengths, one of a single token.
fn prompts() -> Vec<Vec<u32>> {
    [13, 1, 8, 5]
        .iter()
        .enumerate()
        .map(|(row, &len)| {
            (0..len)
                .map(|i| (row * 1009 + i * 2741 + 17) as u32 % 50_257)
                .collect()
        })
        .collect()
}

fn close(a: &Generated, b: &Generated) {
    assert_eq!(a.tokens, b.tokens);
    for (a, b) in a.logits.iter().flatten().zip(b.logits.iter().flatten()) {
        assert!((a - b).abs() <= 1e-4, "{a} {b}");
    }
}

#[test]
fn batching_padding_chunks_and_pages_change_nothing() {
    let model = bundled();
    let mut alone = CpuRunner::new(&model, &options(16)).unwrap();
    let wanted: Vec<Generated> = prompts()
        .iter()
        .map(|p| generate(&mut alone, &[p.clone()], Padding::Ragged, 64, 8).remove(0))
        .collect();
    for page_size in [1, 8, 16, 64] {
        let mut runner = CpuRunner::new(&model, &options(page_size)).unwrap();
        for (padding, chunk) in [
            (Padding::Ragged, 64),
            (Padding::Left, 64),
            (Padding::Left, 4),
            (Padding::Left, 1),
        ] {
            let got = generate(&mut runner, &prompts(), padding, chunk, 8);
            got.iter().zip(&wanted).for_each(|(g, w)| close(g, w));
        }
        let long = &prompts()[..1];
        for chunk in [1, 2, 5] {
            close(
                &generate(&mut runner, long, Padding::Ragged, chunk, 8)[0],
                &wanted[0],
            );
        }
    }
}

#[test]
fn a_row_never_depends_on_the_others_contents() {
    let mut runner = CpuRunner::new(&bundled(), &options(8)).unwrap();
    for padding in [Padding::Ragged, Padding::Left] {
        let before = generate(&mut runner, &prompts(), padding, 64, 6);
        for changed in 0..prompts().len() {
            let mut other = prompts();
            other[changed].iter_mut().for_each(|t| *t = 50_256 - *t);
            let after = generate(&mut runner, &other, padding, 64, 6);
            for row in 0..before.len() {
                // Bit for bit, not within a tolerance.
                assert_eq!(before[row] == after[row], row != changed, "row {row}");
            }
        }
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let model = bundled();
    let on = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
        pool.build().unwrap().install(|| {
            let mut runner = CpuRunner::new(&model, &options(16)).unwrap();
            assert!(runner.describe().contains(&threads.to_string()));
            generate(&mut runner, &prompts(), Padding::Ragged, 64, 6)
        })
    };
    let one = on(1);
    assert_eq!(one, on(2));
    assert_eq!(one, on(5));
}

#[test]
fn what_does_not_fit_is_refused_with_the_numbers() {
    let model = bundled();
    let error = |change: fn(&mut RunnerOptions)| {
        let mut options = options(16);
        change(&mut options);
        match CpuRunner::new(&model, &options) {
            Ok(_) => panic!("opened"),
            Err(error) => error,
        }
    };
    for absurd in [
        error(|o| o.kv = KvBudget::Bytes(1 << 50)),
        error(|o| o.kv = KvBudget::Bytes(u64::MAX)),
        error(|o| o.limits.max_rows = usize::MAX),
        error(|o| o.limits.max_tokens = usize::MAX),
        error(|o| o.limits.max_kv_len = usize::MAX),
        error(|o| o.kv = KvBudget::Bytes(100)),
    ] {
        match absurd {
            RunnerError::OutOfMemory {
                needed, available, ..
            } => assert!(needed > available),
            other => panic!("{other}"),
        }
    }
    let pages = error(|o| o.page_size = 12).to_string();
    assert!(pages.contains("12") && pages.contains("power of two"));
    assert!(
        error(|o| o.dtype = Some(batchlab::runner::Dtype::BF16))
            .to_string()
            .contains("f32")
    );
}

#[test]
fn a_plan_out_of_bounds_is_an_error() {
    let mut runner = CpuRunner::new(&bundled(), &options(16)).unwrap();
    let mut plan = StepPlan {
        token_ids: vec![50_257],
        positions: vec![0],
        rows: vec![RowPlan {
            query_len: 1,
            kv_start: 0,
            kv_len: 1,
            pages: vec![0],
            sampling: Sampling::GREEDY,
            sample_index: 0,
        }],
    };
    assert!(matches!(runner.execute(&plan), Err(RunnerError::Plan(_))));
    plan.token_ids[0] = 50_256;
    assert_eq!(runner.execute(&plan).unwrap().tokens.len(), 1);
    plan.rows[0].pages[0] = runner.kv_pages() as u32;
    assert!(matches!(runner.execute(&plan), Err(RunnerError::Plan(_))));
}
