//! SmolLM2-135M-Instruct, a real model of the Llama family, against Hugging Face transformers
//! (tests/fixtures/smollm2-greedy.json, made by scripts/make_smollm2_fixture.py).
//!
//! `BATCHLAB_SMOLLM2` names the folder that scripts/make_smollm2.py writes. Without it each test
//! says that it is skipped, and so do those on CUDA without a GPU, unless `BATCHLAB_REQUIRE_GPU=1`.

use batchlab::model::Model;
use batchlab::plan::{RowPlan, StepPlan};
use batchlab::runner::cpu::CpuRunner;
use batchlab::runner::cuda::{self, CudaRunner};
use batchlab::runner::{CublasLt, Dtype, KvBudget, Limits, Runner, RunnerOptions};
use batchlab::sampling::{Sampling, argmax};
use serde::Deserialize;

/// What transformers made of every prompt.
#[derive(Deserialize)]
struct Fixture {
    cases: Vec<Case>,
    /// Of transformers in bf16, along the tokens of f32: the share of steps with the same best token,
    /// and the largest difference of a logit.
    bf16_equal_share: f64,
    bf16_largest_error: f32,
}

#[derive(Deserialize)]
struct Case {
    prompt: Vec<u32>,
    greedy: Vec<u32>,
}

impl Fixture {
    fn open() -> Self {
        let json = include_str!("fixtures/smollm2-greedy.json");
        serde_json::from_str(json).unwrap()
    }

    fn steps(&self) -> usize {
        self.cases[0].greedy.len()
    }
}

/// None, with the reason printed, where no folder is named.
fn model() -> Option<Model> {
    let Ok(folder) = std::env::var("BATCHLAB_SMOLLM2") else {
        println!("skipped: BATCHLAB_SMOLLM2 names no folder; scripts/make_smollm2.py writes one");
        return None;
    };
    Some(Model::open(Some(&folder)).unwrap())
}

/// The same, and a GPU to run it on.
fn model_for_cuda() -> Option<Model> {
    if let Err(why) = cuda::available(0) {
        let required = std::env::var("BATCHLAB_REQUIRE_GPU").is_ok_and(|value| value == "1");
        assert!(!required, "a GPU is required: {why}");
        println!("skipped: {why}");
        return None;
    }
    model()
}

fn options(fixture: &Fixture, dtype: Dtype) -> RunnerOptions {
    let prompts = || fixture.cases.iter().map(|case| case.prompt.len());
    RunnerOptions {
        dtype: Some(dtype),
        page_size: 32,
        kv: KvBudget::Utilization(0.5),
        limits: Limits {
            max_rows: fixture.cases.len(),
            max_tokens: prompts().sum(),
            max_kv_len: prompts().max().unwrap() + fixture.steps(),
        },
        cublaslt: CublasLt::Auto,
    }
}

/// All prompts as one batch: at first their own tokens, then one more of each row a step.
struct Batch {
    /// Tokens that the next step adds, and KV length before it, of every row.
    rows: Vec<(Vec<u32>, usize)>,
    pages_each: usize,
}

impl Batch {
    fn new(fixture: &Fixture, runner: &dyn Runner) -> Self {
        let prompts = fixture.cases.iter().map(|case| case.prompt.clone());
        let pages_each = runner.kv_layout().pages_for(runner.limits().max_kv_len);
        assert!(runner.kv_pages() >= pages_each * fixture.cases.len());
        Self {
            rows: prompts.map(|prompt| (prompt, 0)).collect(),
            pages_each,
        }
    }

    fn plan(&self) -> StepPlan {
        let mut plan = StepPlan::default();
        for (index, (tokens, before)) in self.rows.iter().enumerate() {
            let (kv_len, first) = (before + tokens.len(), index * self.pages_each);
            plan.token_ids.extend(tokens);
            plan.rows.push(RowPlan {
                query_len: tokens.len(),
                kv_start: 0,
                kv_len,
                pages: (first as u32..).take(self.pages_each).collect(),
                sampling: Sampling::GREEDY,
                penalised: Vec::new(),
                sample_index: 0,
                follows: None,
            });
        }
        plan
    }

    /// After a step: the token that every row goes on with.
    fn push(&mut self, tokens: impl Iterator<Item = u32>) {
        for ((pending, before), token) in self.rows.iter_mut().zip(tokens) {
            *before += pending.len();
            *pending = vec![token];
        }
    }
}

/// Every token of every row.
fn assert_greedy_tokens(fixture: &Fixture, runner: &mut dyn Runner) {
    println!("{}", runner.describe());
    let mut batch = Batch::new(fixture, runner);
    let mut generated = vec![Vec::new(); fixture.cases.len()];
    for _ in 0..fixture.steps() {
        let tokens = runner.execute(&batch.plan()).unwrap().tokens;
        for (row, &token) in generated.iter_mut().zip(&tokens) {
            row.push(token);
        }
        batch.push(tokens.into_iter());
    }
    for (index, (generated, case)) in generated.iter().zip(&fixture.cases).enumerate() {
        assert_eq!(generated, &case.greedy, "prompt {index}");
    }
}

#[test]
fn the_cpu_writes_what_transformers_writes() {
    let Some(model) = model() else { return };
    let fixture = Fixture::open();
    let mut runner = CpuRunner::new(&model, &options(&fixture, Dtype::F32)).unwrap();
    assert_greedy_tokens(&fixture, &mut runner);
}

#[test]
fn cuda_in_f32_writes_what_transformers_writes() {
    let Some(model) = model_for_cuda() else {
        return;
    };
    let fixture = Fixture::open();
    let mut runner = CudaRunner::open(0, &model, &options(&fixture, Dtype::F32)).unwrap();
    assert_greedy_tokens(&fixture, &mut runner);
}

/// Along the tokens of f32, as transformers' own bf16 was measured. The CPU runner gives the logits
/// of f32.
#[test]
fn cuda_in_bf16_is_as_close_to_f32_as_transformers() {
    let Some(model) = model_for_cuda() else {
        return;
    };
    let fixture = Fixture::open();
    let mut cuda = CudaRunner::open(0, &model, &options(&fixture, Dtype::BF16)).unwrap();
    let mut cpu = CpuRunner::new(&model, &options(&fixture, Dtype::F32)).unwrap();
    let mut batch = Batch::new(&fixture, &cuda);
    let (mut equal, mut largest) = (0, 0f32);
    for step in 0..fixture.steps() {
        let plan = batch.plan();
        cuda.execute(&plan).unwrap();
        cpu.execute(&plan).unwrap();
        let (rounded, exact) = (cuda.logits().unwrap(), cpu.logits().unwrap());
        for (a, b) in rounded.iter().zip(&exact) {
            // max would pass over a NaN.
            assert!(a.is_finite());
            largest = largest.max((a - b).abs());
        }
        let forced = || fixture.cases.iter().map(|case| case.greedy[step]);
        let best = rounded.chunks_exact(model.spec.vocab).map(argmax);
        equal += best.zip(forced()).filter(|(a, b)| a == b).count();
        batch.push(forced());
    }
    let share = equal as f64 / (fixture.cases.len() * fixture.steps()) as f64;
    println!(
        "bf16: {:.2} % of the tokens of f32, largest difference of a logit {largest:.3}; \
         transformers {:.2} % and {:.3}",
        100.0 * share,
        100.0 * fixture.bf16_equal_share,
        fixture.bf16_largest_error
    );
    // Rounding falls differently in every order of the sums: one step in a hundred either way.
    assert!(share >= fixture.bf16_equal_share - 0.01);
    assert!(largest <= 2.0 * fixture.bf16_largest_error);
}
