//! One generation at a time through the engine, continuous batching: all prompts in a step, then decode
//! steps.
//!
//! `total` is the time of a whole generation, `prefill` that of a generation of one token, and
//! `step` is (total − prefill) / (new tokens − 1), so that other engines' `generate` can be
//! measured by the same rule (scripts/compare_peers.py). `of GEMM` is the prefill's FLOP/s over those of
//! a large product on this device, `of copy` the bytes that a decode step must move over those of a
//! large copy. `host` is the host's own work in a decode step. A run more, which is not timed, asks the
//! GPU's clock how long steps run and how long nothing does between two.

use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

use batchlab::batching::Continuous;
use batchlab::clock::{Clock, WallClock};
use batchlab::engine::{Engine, EngineConfig};
use batchlab::metrics::{Ceilings, NetworkSize, Pace, StepRecord};
use batchlab::model::Model;
use batchlab::request::Request;
use batchlab::runner::{
    self, CublasLt, DeviceChoice, Dtype, KvBudget, Limits, Runner, RunnerOptions,
};
use batchlab::sampling::Sampling;
use batchlab::scheduler::{Padding, StepShape};
use clap::Parser;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;
use serde_json::json;

#[derive(Parser)]
struct Args {
    #[arg(long, default_value = "auto")]
    device: DeviceChoice,
    #[arg(long, default_value = "dummy:distilgpt2")]
    model: String,
    #[arg(long)]
    dtype: Option<Dtype>,
    #[arg(long, default_value_t)]
    cublaslt: CublasLt,
    #[arg(long, value_delimiter = ',', default_value = "1,4,8")]
    batch_sizes: Vec<usize>,
    #[arg(long, default_value_t = 13)]
    prompt_len: usize,
    #[arg(long, default_value_t = 32)]
    new_tokens: usize,
    #[arg(long, default_value_t = 5)]
    repeats: usize,
    #[arg(long, default_value_t = 64)]
    kv_block_size: usize,
    /// JSON, one object a batch size.
    #[arg(long)]
    output: Option<PathBuf>,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    if args.batch_sizes.contains(&0) || args.new_tokens < 2 || args.repeats == 0 {
        return Err("a batch size or --repeats is 0, or --new-tokens is below 2".into());
    }
    let rows = args.batch_sizes.iter().copied().max().unwrap_or(1);
    let model = Model::open(Some(&args.model))?;
    let options = RunnerOptions {
        dtype: args.dtype,
        page_size: args.kv_block_size,
        kv: KvBudget::Utilization(0.9),
        limits: Limits {
            max_rows: rows,
            max_tokens: rows * args.prompt_len,
            max_kv_len: args.prompt_len + args.new_tokens,
        },
        cublaslt: args.cublaslt,
    };
    let (mut runner, device) = runner::open(args.device, &model, &options)?;
    println!("{device}");
    let limits = DeviceLimits {
        ceilings: runner.measure_ceilings()?,
        network: NetworkSize::of(&model.spec, &runner.kv_layout(), runner.dtype().bytes()),
    };
    let mut results = Vec::new();
    for &batch in &args.batch_sizes {
        let prompts = prompts(batch, args.prompt_len, model.spec.vocab);
        let mut run = |new_tokens| generate(runner.as_mut(), &prompts, new_tokens);
        for _ in 0..2 {
            run(args.new_tokens)?;
        }
        run(1)?;
        let (mut totals, mut prefills, mut steps) = (vec![], vec![], vec![]);
        for _ in 0..args.repeats {
            let whole = run(args.new_tokens)?;
            totals.push(whole.total);
            steps.extend(whole.steps);
            prefills.push(run(1)?.total);
        }
        let (total, prefill) = (median(totals), median(prefills));
        let step_ms = 1e3 * (total - prefill).max(0.0) / (args.new_tokens - 1) as f64;
        let tok_s = (batch * args.new_tokens) as f64 / total;
        let host = Pace::of(&steps)
            .ok_or("no step only decodes")?
            .host_us_per_step;
        let of_gemm = limits.prefill_percent(batch, args.prompt_len, prefill);
        let middle = args.prompt_len + args.new_tokens / 2;
        let of_copy = limits.step_percent(batch, middle, step_ms / 1e3);
        let prefill_tok_s = (batch * args.prompt_len) as f64 / prefill;
        println!(
            "{} B {batch:<4} total {:9.3} ms  prefill {:8.3} ms {prefill_tok_s:9.0} tok/s {of_gemm:5.1} % of GEMM  step {step_ms:8.4} ms {of_copy:5.1} % of copy  {tok_s:9.1} tok/s",
            args.model,
            1e3 * total,
            1e3 * prefill,
        );
        println!(
            "  host µs/step: mean {:.1} median {:.1} p95 {:.1}",
            host.mean, host.p50, host.p95
        );
        runner.time_steps(true)?;
        let timed = generate(runner.as_mut(), &prompts, args.new_tokens)?;
        runner.time_steps(false)?;
        let device = Pace::of(&timed.steps).and_then(|pace| pace.device);
        if let Some(device) = device {
            println!(
                "  GPU: busy {:.4} ms/step, idle between steps {:.2} %",
                device.gpu_busy_ms_per_step, device.gpu_idle_between_steps_percent
            );
        }
        results.push(json!({
            "engine": "batchlab", "device": runner.describe(), "model": args.model, "batch": batch,
            "prompt_len": args.prompt_len, "new_tokens": args.new_tokens,
            "total_ms": 1e3 * total, "prefill_ms": 1e3 * prefill, "step_ms": step_ms,
            "output_tok_s": tok_s, "host_us_per_step": host.p50, "host_us": host, "gpu": device,
            "prefill_tok_s": prefill_tok_s, "prefill_percent_of_gemm": of_gemm,
            "prefill_tflop_s": of_gemm / 100.0 * limits.ceilings.flop_per_s / 1e12,
            "step_percent_of_copy": of_copy,
            "copy_gb_per_s": limits.ceilings.copy_bytes_per_s / 1e9,
            "gemm_tflop_per_s": limits.ceilings.flop_per_s / 1e12,
        }));
    }
    if let Some(path) = &args.output {
        std::fs::write(path, serde_json::to_string_pretty(&results)?)?;
    }
    Ok(())
}

/// What this device reaches, and what the model asks of it.
struct DeviceLimits {
    ceilings: Ceilings,
    network: NetworkSize,
}

impl DeviceLimits {
    /// Of the rate of a product: whole prompts of `len` tokens in so many seconds.
    fn prefill_percent(&self, batch: usize, len: usize, seconds: f64) -> f64 {
        let work = self.network.work(&StepShape {
            rows: batch,
            tokens: batch * len,
            kv_positions: batch * len,
            query_key_pairs: batch * len * (len + 1) / 2,
            ..StepShape::default()
        });
        100.0 * work.compute_s(&self.ceilings) / seconds
    }

    /// Of the rate of a copy: a decode step at a KV length.
    fn step_percent(&self, batch: usize, kv_len: usize, seconds: f64) -> f64 {
        let work = self.network.work(&StepShape {
            rows: batch,
            tokens: batch,
            kv_positions: batch * kv_len,
            query_key_pairs: batch * kv_len,
            ..StepShape::default()
        });
        100.0 * work.memory_s(&self.ceilings) / seconds
    }
}

/// Seeded random prompts, `[batch][prompt_len]`.
fn prompts(batch: usize, prompt_len: usize, vocab: usize) -> Vec<Vec<u32>> {
    let mut rng = Pcg64::seed_from_u64(0);
    (0..batch)
        .map(|_| {
            (0..prompt_len)
                .map(|_| rng.random_range(0..vocab as u32))
                .collect()
        })
        .collect()
}

struct Generation {
    /// Seconds.
    total: f64,
    steps: Vec<StepRecord>,
}

/// One batch from its prompts to `new_tokens` tokens a row, greedy.
fn generate(
    runner: &mut dyn Runner,
    prompts: &[Vec<u32>],
    new_tokens: usize,
) -> Result<Generation, Box<dyn Error>> {
    let clock = WallClock::start();
    let config = EngineConfig {
        policy: Box::new(Continuous {
            max_num_seqs: prompts.len(),
            max_num_batched_tokens: prompts.iter().map(Vec::len).sum(),
            prefill_window: Duration::ZERO,
        }),
        padding: Padding::Ragged,
        max_queue_size: prompts.len(),
        max_positions: usize::MAX,
    };
    let mut engine = Engine::new(runner, &clock, config);
    for (id, prompt) in prompts.iter().enumerate() {
        engine.submit(Request {
            id: id as u64,
            prompt: prompt.clone(),
            max_new_tokens: new_tokens,
            stop_tokens: Vec::new(),
            sampling: Sampling::GREEDY,
            logprobs: None,
            arrival: Duration::ZERO,
            timeout: None,
        })?;
    }
    let mut ended = 0;
    while ended < prompts.len() {
        ended += engine.step()?.finished.len();
    }
    Ok(Generation {
        total: clock.now().as_secs_f64(),
        steps: engine.records().steps.clone(),
    })
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 {
        values[middle]
    } else {
        (values[middle - 1] + values[middle]) / 2.0
    }
}
