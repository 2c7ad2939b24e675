//! One generation at a time, driving a runner directly with step plans: prefill, then decode steps.
//!
//! `total` is the time of a whole generation, `prefill` that of a generation of one token, and
//! `step` is (total − prefill) / (new tokens − 1), so that other engines' `generate` can be
//! measured by the same rule (scripts/compare_peers.py). `host` is a decode step's wall time, the
//! building of its plan included, less the time that the runner waited for arithmetic. `of GEMM` is
//! the prefill's FLOP/s over those of a large product on this device, `of copy` the bytes that a
//! decode step must move over those of a large copy.

use std::error::Error;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use batchlab::metrics::{Ceilings, NetworkSize};
use batchlab::model::Model;
use batchlab::plan::{RowPlan, StepPlan};
use batchlab::runner::{
    self, CublasLt, DeviceChoice, Dtype, KvBudget, Limits, Runner, RunnerOptions,
};
use batchlab::sampling::Sampling;
use batchlab::scheduler::StepShape;
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
        let (mut totals, mut prefills, mut hosts) = (vec![], vec![], vec![]);
        for _ in 0..args.repeats {
            let whole = run(args.new_tokens)?;
            totals.push(whole.total);
            hosts.extend(whole.decode_host);
            prefills.push(run(1)?.total);
        }
        let (total, prefill) = (median(totals), median(prefills));
        let step_ms = 1e3 * (total - prefill).max(0.0) / (args.new_tokens - 1) as f64;
        let host_us = 1e6 * median(hosts);
        let tok_s = (batch * args.new_tokens) as f64 / total;
        let of_gemm = limits.prefill_percent(batch, args.prompt_len, prefill);
        let middle = args.prompt_len + args.new_tokens / 2;
        let of_copy = limits.step_percent(batch, middle, step_ms / 1e3);
        let prefill_tok_s = (batch * args.prompt_len) as f64 / prefill;
        println!(
            "{} B {batch:<4} total {:9.3} ms  prefill {:8.3} ms {prefill_tok_s:9.0} tok/s {of_gemm:5.1} % of GEMM  step {step_ms:8.4} ms {of_copy:5.1} % of copy  {tok_s:9.1} tok/s  host {host_us:7.1} µs/step",
            args.model,
            1e3 * total,
            1e3 * prefill,
        );
        results.push(json!({
            "engine": "batchlab", "device": runner.describe(), "model": args.model, "batch": batch,
            "prompt_len": args.prompt_len, "new_tokens": args.new_tokens,
            "total_ms": 1e3 * total, "prefill_ms": 1e3 * prefill, "step_ms": step_ms,
            "output_tok_s": tok_s, "host_us_per_step": host_us,
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
    /// Seconds of each decode step in which the runner did not wait for arithmetic.
    decode_host: Vec<f64>,
}

/// One batch from its prompts to `new_tokens` tokens a row, greedy.
fn generate(
    runner: &mut dyn Runner,
    prompts: &[Vec<u32>],
    new_tokens: usize,
) -> Result<Generation, Box<dyn Error>> {
    let started = Instant::now();
    let layout = runner.kv_layout();
    let pages_per_row = layout.pages_for(prompts[0].len() + new_tokens) as u32;
    let mut fresh = prompts.to_vec();
    let mut kv_len = 0;
    let mut decode_host = Vec::with_capacity(new_tokens);
    for index in 0..new_tokens as u32 {
        let step = Instant::now();
        kv_len += fresh[0].len();
        let plan = step_plan(&fresh, kv_len, pages_per_row, index);
        let output = runner.execute(&plan)?;
        fresh = output.tokens.iter().map(|&token| vec![token]).collect();
        if index > 0 {
            decode_host.push(host_time(step.elapsed(), output.compute));
        }
    }
    Ok(Generation {
        total: started.elapsed().as_secs_f64(),
        decode_host,
    })
}

fn host_time(step: Duration, compute: Duration) -> f64 {
    step.saturating_sub(compute).as_secs_f64()
}

/// Row b owns the pages `b·n .. (b + 1)·n`; `fresh` are the tokens that it adds.
fn step_plan(fresh: &[Vec<u32>], kv_len: usize, pages_per_row: u32, index: u32) -> StepPlan {
    let first = kv_len - fresh[0].len();
    StepPlan {
        token_ids: fresh.concat(),
        rows: (0..fresh.len() as u32)
            .map(|b| RowPlan {
                query_len: kv_len - first,
                kv_start: 0,
                kv_len,
                pages: (b * pages_per_row..(b + 1) * pages_per_row).collect(),
                sampling: Sampling::GREEDY,
                penalised: Vec::new(),
                sample_index: index,
            })
            .collect(),
    }
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
