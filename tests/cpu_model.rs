//! Whole models on the CPU runner, against logits that Hugging Face transformers computed in
//! float64 (tests/fixtures, made by scripts/make_fixtures.py), and against itself.

use std::path::Path;

use batchlab::model::Model;
use batchlab::plan::{RowPlan, StepPlan};
use batchlab::runner::cpu::CpuRunner;
use batchlab::runner::{
    CublasLt, Dtype, KvBudget, Limits, Runner, RunnerError, RunnerOptions, Target,
};
use batchlab::sampling::{Sampling, argmax};
use safetensors::SafeTensors;

const LIMITS: Limits = Limits {
    max_rows: 8,
    max_tokens: 512,
    max_kv_len: 96,
};

fn options(page_size: usize) -> RunnerOptions {
    RunnerOptions {
        dtype: None,
        page_size,
        kv: KvBudget::Utilization(0.9),
        limits: LIMITS,
        cublaslt: CublasLt::Auto,
    }
}

/// With weights in bf16.
fn bf16_options(page_size: usize) -> RunnerOptions {
    RunnerOptions {
        dtype: Some(Dtype::BF16),
        ..options(page_size)
    }
}

/// What one row gave: greedy tokens, and the logits that each was taken from.
#[derive(Debug, Clone, PartialEq, Default)]
struct Generated {
    tokens: Vec<u32>,
    logits: Vec<Vec<f32>>,
}

#[derive(Debug, Clone, Copy)]
enum Padding {
    Ragged,
    Left,
}

/// A sequence in the slab.
struct Row {
    pages: Vec<u32>,
    kv_start: usize,
    kv_len: usize,
    /// Tokens that are not in the slab yet.
    pending: Vec<u32>,
    generated: Generated,
}

/// Rows whose pages lie scattered over the slab, in no order.
fn rows(runner: &dyn Runner, prompts: &[Vec<u32>], padding: Padding) -> Vec<Row> {
    let total = runner.kv_pages() as u32;
    assert_ne!(total % 7, 0, "every page must come once");
    let mut pages = (0..total).map(|i| (i * 7 + 3) % total);
    let per_row = runner.kv_layout().pages_for(LIMITS.max_kv_len);
    let longest = prompts.iter().map(Vec::len).max().unwrap();
    prompts
        .iter()
        .map(|prompt| {
            let kv_start = match padding {
                Padding::Ragged => 0,
                Padding::Left => longest - prompt.len(),
            };
            Row {
                pages: pages.by_ref().take(per_row).collect(),
                kv_start,
                kv_len: 0,
                pending: [vec![0; kv_start], prompt.clone()].concat(),
                generated: Generated::default(),
            }
        })
        .collect()
}

/// One step of every row that is not finished, each adding at most `chunk` of its pending tokens:
/// rows with a short prompt decode beside rows that are still in theirs.
fn step(runner: &mut dyn Runner, rows: &mut [&mut Row], chunk: usize) {
    let mut plan = StepPlan::default();
    for row in rows.iter_mut() {
        let fresh = row.pending.drain(..chunk.min(row.pending.len()));
        let first = row.kv_len;
        row.kv_len = first + fresh.len();
        plan.token_ids.extend(fresh);
        plan.rows.push(RowPlan {
            query_len: row.kv_len - first,
            // A chunk may lie in the padding as a whole, and sees nothing.
            kv_start: row.kv_start.min(row.kv_len),
            kv_len: row.kv_len,
            pages: row.pages.clone(),
            sampling: Sampling::GREEDY,
            penalised: Vec::new(),
            sample_index: 0,
            follows: None,
        });
    }
    let tokens = runner.execute(&plan).unwrap().tokens;
    let logits = runner.logits().unwrap();
    let vocab = logits.len() / tokens.len();
    for ((row, token), logits) in rows.iter_mut().zip(tokens).zip(logits.chunks(vocab)) {
        assert_eq!(token, argmax(logits));
        if row.pending.is_empty() {
            row.pending.push(token);
            row.generated.tokens.push(token);
            row.generated.logits.push(logits.to_vec());
        }
    }
}

/// Runs the prompts as one batch.
fn generate(
    runner: &mut dyn Runner,
    prompts: &[Vec<u32>],
    padding: Padding,
    chunk: usize,
    new_tokens: usize,
) -> Vec<Generated> {
    let mut rows = rows(runner, prompts, padding);
    loop {
        let mut active: Vec<&mut Row> = rows
            .iter_mut()
            .filter(|row| row.generated.tokens.len() < new_tokens)
            .collect();
        if active.is_empty() {
            return rows.into_iter().map(|row| row.generated).collect();
        }
        step(runner, &mut active, chunk);
    }
}

/// A fixture's prompts, and what HF made of each.
struct Fixture {
    model: Model,
    prompts: Vec<Vec<u32>>,
    wanted: Vec<Generated>,
}

impl Fixture {
    fn open(name: &str) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/fixtures")
            .join(name);
        let json = std::fs::read(folder.join("fixture.json")).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
        let logits = std::fs::read(folder.join("logits.safetensors")).unwrap();
        let logits = SafeTensors::deserialize(&logits).unwrap();
        let ids = |value: &serde_json::Value| -> Vec<u32> {
            serde_json::from_value(value.clone()).unwrap()
        };
        let cases = json["cases"].as_array().unwrap();
        let wanted = cases.iter().enumerate().map(|(i, case)| {
            let logits = logits.tensor(&format!("logits.{i}")).unwrap();
            let values: Vec<f32> = bytemuck::pod_collect_to_vec(logits.data());
            Generated {
                tokens: ids(&case["greedy"]),
                logits: values
                    .chunks(logits.shape()[1])
                    .map(<[f32]>::to_vec)
                    .collect(),
            }
        });
        Self {
            wanted: wanted.collect(),
            prompts: cases.iter().map(|case| ids(&case["prompt"])).collect(),
            model: Model::open(folder.to_str()).unwrap(),
        }
    }

    /// Runs the prompts of `indices` as one batch and compares every logit.
    fn check(&self, runner: &mut dyn Runner, indices: &[usize], padding: Padding, chunk: usize) {
        let prompts: Vec<_> = indices.iter().map(|&i| self.prompts[i].clone()).collect();
        let steps = self.wanted[0].tokens.len();
        let got = generate(runner, &prompts, padding, chunk, steps);
        for (got, &i) in got.iter().zip(indices) {
            let wanted = &self.wanted[i];
            let place = format!("prompt {i} of {indices:?}, {padding:?}, chunk {chunk}");
            assert_eq!(got.tokens, wanted.tokens, "{place}");
            assert_eq!(got.logits.len(), steps);
            for (step, (got, wanted)) in got.logits.iter().zip(&wanted.logits).enumerate() {
                assert_eq!(got.len(), wanted.len());
                for (id, (g, w)) in got.iter().zip(wanted).enumerate() {
                    assert!(
                        (g - w).abs() <= 1e-4,
                        "{place}, step {step}, token {id}: {g} {w}"
                    );
                }
            }
        }
    }
}

const FIXTURES: [&str; 10] = [
    "gpt2-f32",
    "gpt2-f16",
    "gpt2-bf16",
    "gpt2-sharded",
    "gpt2-bare-names",
    "llama-sharded",
    "llama-linear",
    "llama-biases",
    "qwen2-f32",
    "mistral-f16",
];
const WHOLE: usize = usize::MAX;

#[test]
fn every_fixture_gives_the_logits_of_transformers() {
    for name in FIXTURES {
        let fixture = Fixture::open(name);
        let all: Vec<usize> = (0..fixture.prompts.len()).collect();
        let mut runner = CpuRunner::new(&fixture.model, &options(16)).unwrap();
        for i in &all {
            fixture.check(&mut runner, &[*i], Padding::Ragged, WHOLE);
        }
        fixture.check(&mut runner, &all, Padding::Ragged, WHOLE);
        fixture.check(&mut runner, &all, Padding::Left, WHOLE);
    }
}

/// A checkpoint in bf16 loses nothing by weights in bf16.
#[test]
fn a_fixture_in_bf16_gives_the_logits_of_transformers_in_bf16() {
    let fixture = Fixture::open("gpt2-bf16");
    let all: Vec<usize> = (0..fixture.prompts.len()).collect();
    let mut runner = CpuRunner::new(&fixture.model, &bf16_options(16)).unwrap();
    assert_eq!(runner.dtype(), Dtype::BF16);
    for padding in [Padding::Ragged, Padding::Left] {
        for chunk in [1, 7, WHOLE] {
            fixture.check(&mut runner, &all, padding, chunk);
        }
    }
}

/// Each weight is off by up to 2⁻⁹ of itself, and the products follow one another: at most, their errors
/// add up.
#[test]
fn weights_in_bf16_move_logits_by_no_more_than_their_rounding() {
    for name in ["gpt2-f32", "qwen2-f32"] {
        let fixture = Fixture::open(name);
        let first_logits = |options| {
            let mut runner = CpuRunner::new(&fixture.model, &options).unwrap();
            generate(&mut runner, &fixture.prompts, Padding::Ragged, WHOLE, 1)
        };
        let (exact, rounded) = (first_logits(options(16)), first_logits(bf16_options(16)));
        let (mut error, mut size) = (0.0, 0.0);
        for (exact, rounded) in exact.iter().zip(&rounded) {
            for (&exact, &rounded) in exact.logits[0].iter().zip(&rounded.logits[0]) {
                error += f64::from(exact - rounded).powi(2);
                size += f64::from(exact).powi(2);
            }
        }
        let relative = (error / size).sqrt();
        // Embedding, four matrices a layer, head.
        let products = 4 * fixture.model.spec.layers + 2;
        let bound = products as f64 / 512.0;
        assert!((1e-6..bound).contains(&relative), "{name}: {relative}");
    }
}

#[test]
fn chunks_and_page_sizes_change_no_answer() {
    for fixture in ["gpt2-f32", "llama-sharded"].map(Fixture::open) {
        let all: Vec<usize> = (0..fixture.prompts.len()).collect();
        for page_size in [1, 8, 16, 64, 128] {
            let mut runner = CpuRunner::new(&fixture.model, &options(page_size)).unwrap();
            for padding in [Padding::Ragged, Padding::Left] {
                for chunk in [1, 7, 16, WHOLE] {
                    fixture.check(&mut runner, &all, padding, chunk);
                }
            }
        }
    }
}

#[test]
fn a_row_never_depends_on_the_others_contents() {
    let fixture = Fixture::open("gpt2-f32");
    for options in [options(8), bf16_options(8)] {
        let mut runner = CpuRunner::new(&fixture.model, &options).unwrap();
        rows_never_depend_on_others(&fixture, &mut runner);
    }
}

fn rows_never_depend_on_others(fixture: &Fixture, runner: &mut dyn Runner) {
    let vocab = fixture.model.spec.vocab as u32;
    for (padding, chunk) in [
        (Padding::Ragged, WHOLE),
        (Padding::Left, WHOLE),
        (Padding::Ragged, 7),
    ] {
        let before = generate(runner, &fixture.prompts, padding, chunk, 6);
        for changed in 0..before.len() {
            let mut prompts = fixture.prompts.clone();
            prompts[changed]
                .iter_mut()
                .for_each(|t| *t = (*t + 1) % vocab);
            let after = generate(runner, &prompts, padding, chunk, 6);
            for row in 0..before.len() {
                // Bit for bit, not within a tolerance.
                assert_eq!(before[row] == after[row], row != changed, "row {row}");
            }
        }
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let fixture = Fixture::open("gpt2-bf16");
    let on = |threads: usize, options| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
        pool.build().unwrap().install(|| {
            let mut runner = CpuRunner::new(&fixture.model, &options).unwrap();
            assert!(runner.describe().contains(&format!("{threads} thread")));
            generate(&mut runner, &fixture.prompts, Padding::Ragged, WHOLE, 6)
        })
    };
    for options in [options(16), bf16_options(16)] {
        let one = on(1, options);
        assert_eq!(one, on(2, options));
        assert_eq!(one, on(5, options));
    }
}

fn bundled() -> Model {
    Model::open(None).unwrap()
}

#[test]
fn memory_is_what_was_planned_to_the_byte() {
    let dummies = ["dummy:distilgpt2", "dummy:smollm2-135m"];
    let dummies = dummies.map(|name| Model::open(Some(name)).unwrap());
    let untied = Fixture::open("llama-sharded").model;
    for model in dummies.into_iter().chain([bundled(), untied]) {
        for options in [options(32), bf16_options(32)] {
            let runner = CpuRunner::new(&model, &options).unwrap();
            let memory = runner.memory();
            assert_eq!(memory.asked, memory.given);
            assert_eq!(
                memory.asked,
                Target::Cpu.footprint(&model.spec, &options).unwrap()
            );
        }
    }
}

/// The bundled checkpoint is in bf16, which its config.json says.
#[test]
fn a_checkpoint_in_bf16_keeps_its_type_and_gives_what_f32_gives() {
    let model = bundled();
    let prompts = [vec![20, 307, 11, 393], (1000..1070).collect()];
    let run = |dtype| {
        let options = RunnerOptions {
            dtype,
            ..options(32)
        };
        let mut runner = CpuRunner::new(&model, &options).unwrap();
        let rows = generate(&mut runner, &prompts, Padding::Ragged, WHOLE, 20);
        (runner.dtype(), rows)
    };
    let (own, f32) = (run(None), run(Some(Dtype::F32)));
    assert_eq!((own.0, f32.0), (Dtype::BF16, Dtype::F32));
    for (own, f32) in own.1.iter().zip(&f32.1) {
        assert_eq!(own.tokens, f32.tokens);
        for (own, f32) in own.logits.concat().iter().zip(&f32.logits.concat()) {
            assert!((own - f32).abs() <= 1e-4, "{own} {f32}");
        }
    }
}

#[test]
fn what_a_cpu_reaches_is_measured() {
    for dtype in [Dtype::F32, Dtype::BF16] {
        let options = RunnerOptions {
            dtype: Some(dtype),
            ..options(32)
        };
        let mut runner = CpuRunner::new(&bundled(), &options).unwrap();
        let ceilings = runner.measure_ceilings().unwrap();
        // Any machine of this century: 100 MB/s and 100 MFLOP/s to 10 TB/s and 100 TFLOP/s.
        assert!(
            (1e8..1e13).contains(&ceilings.copy_bytes_per_s),
            "{ceilings:?}"
        );
        assert!((1e8..1e14).contains(&ceilings.flop_per_s), "{ceilings:?}");
    }
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
        error(|o| o.dtype = Some(Dtype::F16))
            .to_string()
            .contains("f32 or bf16, not f16")
    );
}

#[test]
fn a_plan_out_of_bounds_is_an_error() {
    let mut runner = CpuRunner::new(&bundled(), &options(16)).unwrap();
    let mut plan = StepPlan {
        token_ids: vec![50_257],
        rows: vec![RowPlan {
            query_len: 1,
            kv_start: 0,
            kv_len: 1,
            pages: vec![0],
            sampling: Sampling::GREEDY,
            penalised: Vec::new(),
            sample_index: 0,
            follows: None,
        }],
    };
    assert!(matches!(runner.execute(&plan), Err(RunnerError::Plan(_))));
    plan.token_ids[0] = 50_256;
    assert_eq!(runner.execute(&plan).unwrap().tokens.len(), 1);
    plan.rows[0].pages[0] = runner.kv_pages() as u32;
    assert!(matches!(runner.execute(&plan), Err(RunnerError::Plan(_))));
}
