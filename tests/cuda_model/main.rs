//! Whole models on a GPU against the CPU runner, and against themselves. Without a GPU each test
//! says why it is skipped; with `BATCHLAB_REQUIRE_GPU=1` it fails instead.

mod ahead;
mod steps;
#[path = "../batching/tokens.rs"]
mod tokens;

use batchlab::model::Model;
use batchlab::runner::cpu::CpuRunner;
use batchlab::runner::cuda::{self, CudaRunner};
use batchlab::runner::{
    self, CublasLt, DeviceChoice, Dtype, KvBudget, Limits, Runner, RunnerError, RunnerOptions,
    Target,
};
use batchlab::sampling::{Sampling, sample};
use steps::{Batch, Run, greedy};

/// D = 32, an odd vocabulary, 96 positions; relative to the folder that tests run in.
const FIXTURE: &str = "tests/fixtures/gpt2-f32";
const LLAMA: &str = "dummy:smollm2-135m";
const PAGE_SIZE: usize = 16;

/// All of them, but under compute-sanitizer (`BATCHLAB_QUICK_TESTS=1`) one: each takes a minute there,
/// and the kernel tests have the others.
fn dtypes() -> &'static [Dtype] {
    match under_sanitizer() {
        true => &[Dtype::BF16],
        false => &[Dtype::F32, Dtype::F16, Dtype::BF16],
    }
}

fn under_sanitizer() -> bool {
    std::env::var("BATCHLAB_QUICK_TESTS").is_ok_and(|value| value == "1")
}

/// Whether the device's own rates and memory can be told; compute-sanitizer changes both.
fn can_measure() -> bool {
    if under_sanitizer() {
        eprintln!("skipped: compute-sanitizer changes what this measures");
    }
    has_gpu() && !under_sanitizer()
}

/// False, with the reason printed, where there is no GPU.
fn has_gpu() -> bool {
    let Err(why) = cuda::available(0) else {
        return true;
    };
    let required = std::env::var("BATCHLAB_REQUIRE_GPU").is_ok_and(|value| value == "1");
    assert!(!required, "a GPU is required: {why}");
    println!("skipped: {why}");
    false
}

/// Whether `tokens` has a runner to try.
fn has_runner() -> bool {
    has_gpu()
}

/// The runner that `tokens` tries.
fn open(model: &Model, options: &RunnerOptions) -> Box<dyn Runner> {
    Box::new(CudaRunner::open(0, model, options).unwrap())
}

fn options(model: &Model, dtype: Dtype) -> RunnerOptions {
    RunnerOptions {
        dtype: Some(dtype),
        page_size: PAGE_SIZE,
        kv: KvBudget::Utilization(0.3),
        limits: Limits {
            max_rows: 64,
            max_tokens: 4096,
            max_kv_len: model.spec.max_positions.min(512),
        },
        cublaslt: CublasLt::Auto,
    }
}

fn cuda(model: &Model, dtype: Dtype) -> CudaRunner {
    CudaRunner::open(0, model, &options(model, dtype)).unwrap()
}

/// As on a machine with the driver alone.
fn without_cublaslt(model: &Model, dtype: Dtype) -> CudaRunner {
    let options = RunnerOptions {
        cublaslt: CublasLt::Off,
        ..options(model, dtype)
    };
    CudaRunner::open(0, model, &options).unwrap()
}

fn cpu(model: &Model) -> CpuRunner {
    CpuRunner::new(model, &options(model, Dtype::F32)).unwrap()
}

/// `rows` prompts of the lengths that go wrong first: one token, around a page, several pages.
fn prompts(model: &Model, rows: usize) -> Vec<Vec<u32>> {
    let lengths = [PAGE_SIZE, 1, 37, PAGE_SIZE + 1, PAGE_SIZE - 1, 2, 64, 5];
    let token = |row: usize, i: usize| ((row * 7919 + i * 104_729 + 11) % model.spec.vocab) as u32;
    (0..rows)
        .map(|row| {
            (0..lengths[row % lengths.len()])
                .map(|i| token(row, i))
                .collect()
        })
        .collect()
}

/// Fails at the first step whose logits are not `atol + rtol·|reference|` close, with the ten worst.
fn assert_close(run: &Run, reference: &Run, tolerance: f32, what: &str) {
    for (step, (a, b)) in run.logits.iter().zip(&reference.logits).enumerate() {
        assert_eq!(a.len(), b.len());
        let far = |(_, (a, b)): &(usize, (&f32, &f32))| {
            (*a - *b)
                .abs()
                .partial_cmp(&(tolerance + tolerance * b.abs()))
                != Some(std::cmp::Ordering::Less)
        };
        let wrong: Vec<_> = a.iter().zip(b).enumerate().filter(far).take(10).collect();
        assert!(
            wrong.is_empty(),
            "{what}, step {step}: (index, (value, reference)) {wrong:?}"
        );
    }
}

/// The root mean square of the difference, over the reference's standard deviation.
fn relative_error(run: &Run, reference: &Run) -> f64 {
    let pairs = || {
        let both = run.logits.iter().zip(&reference.logits);
        both.flat_map(|(a, b)| a.iter().zip(b))
            .map(|(&a, &b)| (f64::from(a), f64::from(b)))
    };
    let count = pairs().count() as f64;
    let mean = pairs().map(|(_, b)| b).sum::<f64>() / count;
    let error: f64 = pairs().map(|(a, b)| (a - b) * (a - b)).sum();
    let spread: f64 = pairs().map(|(_, b)| (b - mean) * (b - mean)).sum();
    (error / spread).sqrt()
}

fn f32_equals_the_cpu(source: Option<&str>, batches: &[usize]) {
    equals_the_cpu(cuda, source, batches);
}

fn equals_the_cpu(open: fn(&Model, Dtype) -> CudaRunner, source: Option<&str>, batches: &[usize]) {
    if !has_gpu() {
        return;
    }
    let model = Model::open(source).unwrap();
    let (mut cuda, mut cpu) = (open(&model, Dtype::F32), cpu(&model));
    println!("{} on {}", model.spec.name, cuda.describe());
    for &rows in batches {
        let prompts = prompts(&model, rows);
        let reference = greedy(&mut cpu, &prompts, false, 12);
        for padded in [false, true] {
            let what = format!("{rows} rows, padded: {padded}");
            let run = greedy(&mut cuda, &prompts, padded, 12);
            assert_close(&run, &reference, 1e-4, &what);
            assert_eq!(run.tokens, reference.tokens, "{what}");
        }
        // Chunks: long prompts go on while short rows already decode, in one step.
        let in_chunks =
            |runner: &mut dyn Runner| Batch::new(runner, &prompts, false, 12).run(runner, 12, 7);
        let (run, reference) = (in_chunks(&mut cuda), in_chunks(&mut cpu));
        assert_close(&run, &reference, 1e-4, &format!("{rows} rows in chunks"));
        assert_eq!(run.tokens, reference.tokens, "{rows} rows in chunks");
    }
}

#[test]
fn the_fixture_in_f32_equals_the_cpu() {
    f32_equals_the_cpu(Some(FIXTURE), &[1, 2, 3, 5, 8, 13, 33, 64]);
}

#[test]
fn the_bundled_model_in_f32_equals_the_cpu() {
    f32_equals_the_cpu(None, &[1, 2, 7, 24, 64]);
}

#[test]
fn dummy_weights_in_f32_equal_the_cpu() {
    f32_equals_the_cpu(Some("dummy:distilgpt2"), &[1, 8]);
}

/// Every bias and none, own and tied heads, scaled angles, groups of query heads.
#[test]
fn the_llama_familys_fixtures_in_f32_equal_the_cpu() {
    for fixture in [
        "llama-biases",
        "llama-linear",
        "llama-sharded",
        "mistral-f16",
        "qwen2-f32",
    ] {
        f32_equals_the_cpu(Some(&format!("tests/fixtures/{fixture}")), &[3, 19]);
    }
}

/// Rotary positions, RMS norm, the gate and three query heads a KV head.
#[test]
fn a_llama_in_f32_equals_the_cpu() {
    let batches: &[usize] = if under_sanitizer() { &[3] } else { &[1, 9, 33] };
    f32_equals_the_cpu(Some(LLAMA), batches);
}

#[test]
fn contexts_across_kv_buckets_equal_the_cpu() {
    if !has_gpu() {
        return;
    }
    let model = Model::open(None).unwrap();
    let (mut cuda, mut cpu) = (cuda(&model, Dtype::F32), cpu(&model));
    let long = |len: usize| {
        (0..len)
            .map(|i| (i * 31 % model.spec.vocab) as u32)
            .collect()
    };
    // Decoding crosses 128 and 256: other graphs, other splits.
    let prompts: Vec<Vec<u32>> = vec![long(124), long(3), long(252), long(60)];
    let reference = greedy(&mut cpu, &prompts, false, 10);
    let run = greedy(&mut cuda, &prompts, false, 10);
    assert_close(&run, &reference, 1e-4, "long contexts");
    assert_eq!(run.tokens, reference.tokens);
}

#[test]
fn without_cublaslt_f32_equals_the_cpu() {
    for source in [FIXTURE, "tests/fixtures/llama-biases", "dummy:distilgpt2"] {
        equals_the_cpu(without_cublaslt, Some(source), &[1, 19]);
    }
}

#[test]
fn half_types_stay_close_to_f32() {
    let sources = [Some(FIXTURE), None, Some("dummy:distilgpt2"), Some(LLAMA)];
    halves_are_close(cuda, &sources, 8);
}

/// The prompts of 64 rows are too many tokens for the kernels for few rows.
#[test]
fn without_cublaslt_half_types_stay_close_to_f32() {
    let sources = [Some(FIXTURE), Some("tests/fixtures/llama-biases"), None];
    halves_are_close(without_cublaslt, &sources, 64);
}

fn halves_are_close(open: fn(&Model, Dtype) -> CudaRunner, sources: &[Option<&str>], rows: usize) {
    if !has_gpu() {
        return;
    }
    for &source in sources {
        let model = Model::open(source).unwrap();
        let prompts = prompts(&model, rows);
        // One step: later ones could follow other tokens.
        let reference = greedy(&mut open(&model, Dtype::F32), &prompts, false, 1);
        for (dtype, bound) in [(Dtype::F16, 0.01), (Dtype::BF16, 0.05)] {
            let run = greedy(&mut open(&model, dtype), &prompts, false, 1);
            let error = relative_error(&run, &reference);
            println!(
                "{} {dtype}: logits differ by {error:.5} of their spread",
                model.spec.name
            );
            assert!(error < bound, "{} {dtype}: {error}", model.spec.name);
        }
    }
}

#[test]
fn graphs_equal_plain_launches_bit_for_bit() {
    if !has_gpu() {
        return;
    }
    let model = Model::open(None).unwrap();
    for &dtype in dtypes() {
        let mut graphs = cuda(&model, dtype);
        assert!(
            !graphs.describe().contains("no CUDA graphs"),
            "{}",
            graphs.describe()
        );
        let mut plain = cuda(&model, dtype).without_graphs();
        assert!(plain.describe().contains("no CUDA graphs"));
        for rows in [1, 3, 8, 20, 64] {
            let prompts = prompts(&model, rows);
            let with_graphs = greedy(&mut graphs, &prompts, false, 10);
            let without = greedy(&mut plain, &prompts, false, 10);
            assert!(with_graphs == without, "{dtype}, {rows} rows");
        }
    }
}

#[test]
fn runs_repeat_bit_for_bit() {
    if !has_gpu() {
        return;
    }
    let model = Model::open(None).unwrap();
    for &dtype in dtypes() {
        let mut runner = cuda(&model, dtype);
        for rows in [1, 5, 64] {
            let prompts = prompts(&model, rows);
            let first = greedy(&mut runner, &prompts, true, 10);
            let second = greedy(&mut runner, &prompts, true, 10);
            assert!(first == second, "{dtype}, {rows} rows");
        }
    }
}

#[test]
fn a_rows_content_changes_no_other_row() {
    if !has_gpu() {
        return;
    }
    let model = Model::open(None).unwrap();
    let changed = 2;
    for &dtype in dtypes() {
        let mut runner = cuda(&model, dtype);
        for (rows, padded) in [(3, false), (9, true), (24, false), (64, true)] {
            let mut prompts = prompts(&model, rows);
            let before = greedy(&mut runner, &prompts, padded, 8);
            for token in &mut prompts[changed] {
                *token = (*token + 4321) % model.spec.vocab as u32;
            }
            let after = greedy(&mut runner, &prompts, padded, 8);
            for (step, (a, b)) in before.logits.iter().zip(&after.logits).enumerate() {
                let rows = |all| <[f32]>::chunks_exact(all, model.spec.vocab).enumerate();
                for ((row, a), (_, b)) in rows(a).zip(rows(b)) {
                    let what = format!("{dtype}, step {step}, row {row}");
                    assert_eq!(a == b, row != changed, "{what}");
                }
            }
        }
    }
}

#[test]
fn sampled_tokens_are_the_references() {
    if !has_gpu() {
        return;
    }
    let model = Model::open(None).unwrap();
    // Every fifth row is greedy among the sampled.
    let sampling = |row: usize| Sampling {
        temperature: [0.8, 1.0, 0.0, 1.5, 0.3][row % 5],
        top_k: [0, 50, 0, 7, 1][row % 5],
        top_p: [1.0, 0.9, 1.0, 0.5, 1.0, 0.95][row % 6],
        repetition_penalty: 1.0,
        seed: 0x1234_5678_9abc_def0 + row as u64,
    };
    for &dtype in dtypes() {
        let mut runner = cuda(&model, dtype);
        for rows in [1, 6, 64] {
            let batch = Batch::new(&runner, &prompts(&model, rows), false, 12).sampled(sampling);
            let run = batch.run(&mut runner, 12, usize::MAX);
            for (step, logits) in run.logits.iter().enumerate() {
                for (row, logits) in logits.chunks_exact(model.spec.vocab).enumerate() {
                    let expected = sample(logits, &sampling(row), step as u32);
                    assert_eq!(
                        run.tokens[row][step], expected,
                        "{dtype}, row {row}, step {step}"
                    );
                }
            }
        }
    }
}

#[test]
fn penalised_tokens_are_the_references() {
    if !has_gpu() {
        return;
    }
    let model = Model::open(None).unwrap();
    // Every third row has none; every second is greedy.
    let sampling = |row: usize| Sampling {
        temperature: [0.0, 0.9][row % 2],
        repetition_penalty: [1.0, 1.3, 0.7][row % 3],
        seed: row as u64,
        ..Sampling::GREEDY
    };
    let prompts = prompts(&model, 8);
    let (mut cuda, mut cpu) = (cuda(&model, Dtype::F32), cpu(&model));
    let run = |runner: &mut dyn Runner, sampling: &dyn Fn(usize) -> Sampling| {
        let batch = Batch::new(runner, &prompts, false, 24).sampled(sampling);
        batch.run(runner, 24, 9)
    };
    let penalised = run(&mut cuda, &sampling);
    let reference = run(&mut cpu, &sampling);
    assert_close(&penalised, &reference, 1e-4, "with penalties");
    assert_eq!(penalised.tokens, reference.tokens);
    let free = run(&mut cuda, &|row| Sampling {
        repetition_penalty: 1.0,
        ..sampling(row)
    });
    assert_ne!(free.tokens, penalised.tokens);
}

#[test]
fn a_refused_plan_leaves_the_runner_usable() {
    if !has_gpu() {
        return;
    }
    let model = Model::open(Some(FIXTURE)).unwrap();
    let mut runner = cuda(&model, Dtype::F32);
    let prompts = prompts(&model, 3);
    let before = greedy(&mut runner, &prompts, false, 4);
    let mut plan = Batch::new(&runner, &prompts, false, 4).plan(usize::MAX);
    plan.token_ids[3] = model.spec.vocab as u32;
    assert!(matches!(runner.execute(&plan), Err(RunnerError::Plan(_))));
    plan.token_ids[3] = 0;
    plan.rows[1].pages[0] = runner.kv_pages() as u32;
    assert!(matches!(runner.execute(&plan), Err(RunnerError::Plan(_))));
    assert!(greedy(&mut runner, &prompts, false, 4) == before);
}

#[test]
fn memory_is_planned_before_loading() {
    if !has_gpu() {
        return;
    }
    let model = Model::open(Some(FIXTURE)).unwrap();
    let with = |kv, max_kv_len| {
        let mut options = options(&model, Dtype::BF16);
        options.kv = kv;
        options.limits.max_kv_len = max_kv_len;
        CudaRunner::open(0, &model, &options)
    };
    let refused = |result: Result<CudaRunner, RunnerError>| match result {
        Err(RunnerError::OutOfMemory {
            needed, available, ..
        }) => assert!(needed > available),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("1 PiB fitted"),
    };
    refused(with(KvBudget::Bytes(1 << 50), 96));
    refused(with(KvBudget::Utilization(1e-6), 96));
    let page = with(KvBudget::Utilization(0.3), 96)
        .unwrap()
        .kv_layout()
        .bytes_per_page() as u64;
    assert_eq!(
        with(KvBudget::Bytes(3 * page + 1), 96).unwrap().kv_pages(),
        3
    );
    assert_eq!(
        with(KvBudget::Utilization(0.3), 96).unwrap().kv_pages(),
        64 * 6
    );
}

#[test]
fn the_device_gives_what_was_planned() {
    if !can_measure() {
        return;
    }
    let model = Model::open(Some("dummy:gpt2")).unwrap();
    let mut options = options(&model, Dtype::BF16);
    options.kv = KvBudget::Bytes(512 << 20);
    let gpu = Target::Cuda;
    let planned = gpu.footprint(&model.spec, &options).unwrap();
    let near = |asked: u64, given: u64| given.abs_diff(asked) as f64 <= 0.02 * asked as f64;
    // Free memory is everybody's: what another test takes or frees meanwhile is counted too, so one
    // opening that nobody disturbed is enough.
    let undisturbed = (0..10).any(|_| {
        let memory = CudaRunner::open(0, &model, &options).unwrap().memory();
        println!("{memory:?}");
        assert_eq!(memory.asked.weights, planned.weights);
        assert_eq!(memory.asked.scratch, planned.scratch);
        assert!(memory.asked.kv <= 512 << 20 && memory.asked.kv > 511 << 20);
        near(memory.asked.kv, memory.given.kv)
            && near(memory.asked.total(), memory.given.total())
            && memory.device >= Some(memory.given.total())
    });
    assert!(undisturbed);
}

#[test]
fn what_a_gpu_reaches_is_measured_beside_a_model() {
    if !can_measure() {
        return;
    }
    let model = Model::open(Some(FIXTURE)).unwrap();
    for &dtype in dtypes() {
        let mut runner = cuda(&model, dtype);
        let prompts = prompts(&model, 3);
        let before = greedy(&mut runner, &prompts, false, 4);
        let ceilings = runner.measure_ceilings().unwrap();
        println!("{dtype}: {ceilings:?}");
        // Any GPU that the kernels run on: 100 GB/s and 1 TFLOP/s to 100 TB/s and 100 PFLOP/s.
        assert!((1e11..1e14).contains(&ceilings.copy_bytes_per_s));
        assert!((1e12..1e17).contains(&ceilings.flop_per_s));
        assert!(greedy(&mut runner, &prompts, false, 4) == before);
    }
}

#[test]
fn the_kernels_of_a_gpu_are_named() {
    if !has_gpu() {
        return;
    }
    let paths = cuda::paths(0).unwrap();
    println!("{paths:#?}");
    assert!(paths.device.contains("cuda:0") && paths.code.starts_with("sm_"));
    // One row goes to the same kernel everywhere.
    let one_row = paths
        .paths
        .iter()
        .find(|p| p.operation.starts_with("1 rows"));
    assert!(one_row.unwrap().kernel.starts_with("linear_small"));
}

#[test]
fn devices_that_are_not_there_are_named_with_a_remedy() {
    let model = Model::open(Some(FIXTURE)).unwrap();
    let options = options(&model, Dtype::F32);
    let missing = DeviceChoice::Cuda { ordinal: 99 };
    let Err(error) = runner::open(missing, &model, &options) else {
        panic!("cuda:99 opened");
    };
    assert!(matches!(error, RunnerError::Unavailable(_)), "{error}");
    let (_, line) = runner::open(DeviceChoice::Auto, &model, &options).unwrap();
    println!("{line}");
    match cuda::available(0) {
        Ok(()) => assert!(line.contains("cuda:0"), "{line}"),
        Err(why) => assert!(
            line.contains("CPU") && line.contains(&why.to_string()),
            "{line}"
        ),
    }
}

#[test]
fn a_cpu_has_no_weights_in_f16() {
    let model = Model::open(Some(FIXTURE)).unwrap();
    let result = runner::open(DeviceChoice::Cpu, &model, &options(&model, Dtype::F16));
    assert!(matches!(result, Err(RunnerError::Options(_))));
}
