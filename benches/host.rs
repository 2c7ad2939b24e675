//! The host's work in a decode step: deciding, planning, submitting, delivering. The runner computes
//! nothing, so that this is all there is; launching is not in it.

use std::collections::VecDeque;
use std::error::Error;
use std::time::Duration;

use batchlab::batching::Continuous;
use batchlab::clock::WallClock;
use batchlab::engine::{Engine, EngineConfig};
use batchlab::kv::KvLayout;
use batchlab::metrics::{Ceilings, Pace};
use batchlab::plan::{StepOutput, StepPlan};
use batchlab::request::Request;
use batchlab::runner::{Dtype, Limits, MemoryUse, Runner, RunnerError};
use batchlab::sampling::Sampling;
use batchlab::scheduler::Padding;
use clap::Parser;

#[derive(Parser)]
struct Args {
    #[arg(long, value_delimiter = ',', default_value = "1,64,256")]
    batch_sizes: Vec<usize>,
    #[arg(long, default_value_t = 13)]
    prompt_len: usize,
    #[arg(long, default_value_t = 1000)]
    new_tokens: usize,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

const PAGE: usize = 64;

/// Says token 7, at once.
struct NullRunner {
    limits: Limits,
    depth: usize,
    /// Rows of the steps under way.
    under_way: VecDeque<usize>,
}

impl Runner for NullRunner {
    fn describe(&self) -> String {
        "none".into()
    }
    fn dtype(&self) -> Dtype {
        Dtype::BF16
    }
    fn limits(&self) -> Limits {
        self.limits
    }
    fn kv_layout(&self) -> KvLayout {
        KvLayout {
            layers: 1,
            kv_heads: 1,
            head_dim: 8,
            page_size: PAGE,
            bytes_per_element: 2,
        }
    }
    fn kv_pages(&self) -> usize {
        self.limits.max_rows * self.limits.max_kv_len.div_ceil(PAGE)
    }
    fn memory(&self) -> MemoryUse {
        MemoryUse::default()
    }
    fn measure_ceilings(&mut self) -> Result<Ceilings, RunnerError> {
        Err(RunnerError::Unavailable("nothing is computed".into()))
    }
    fn depth(&self) -> usize {
        self.depth
    }
    fn submit(&mut self, plan: &StepPlan) -> Result<(), RunnerError> {
        self.under_way.push_back(plan.rows.len());
        Ok(())
    }
    fn collect(&mut self) -> Result<StepOutput, RunnerError> {
        Ok(StepOutput {
            tokens: vec![7; self.under_way.pop_front().unwrap_or(0)],
            ..StepOutput::default()
        })
    }
    fn logits(&mut self) -> Result<Vec<f32>, RunnerError> {
        Err(RunnerError::Unavailable("nothing is computed".into()))
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    for &rows in &args.batch_sizes {
        for depth in [1, 2] {
            let host = host(&args, rows, depth)?.ok_or("--new-tokens is below 2")?;
            let host = host.host_us_per_step;
            println!(
                "B {rows:<5} {depth} under way: mean {:6.2} µs  median {:6.2}  p95 {:6.2}  max {:7.2}  ({} steps)",
                host.mean, host.p50, host.p95, host.max, host.n
            );
        }
    }
    Ok(())
}

fn host(args: &Args, rows: usize, depth: usize) -> Result<Option<Pace>, Box<dyn Error>> {
    let max_tokens = rows * args.prompt_len;
    let mut runner = NullRunner {
        limits: Limits {
            max_rows: rows,
            max_tokens,
            max_kv_len: args.prompt_len + args.new_tokens,
        },
        depth,
        under_way: VecDeque::new(),
    };
    let clock = WallClock::start();
    let policy = Continuous {
        max_num_seqs: rows,
        max_num_batched_tokens: max_tokens,
        prefill_window: Duration::ZERO,
    };
    let config = EngineConfig {
        policy: Box::new(policy),
        padding: Padding::Ragged,
        max_queue_size: rows,
        max_positions: usize::MAX,
    };
    let mut engine = Engine::new(&mut runner, &clock, config);
    for id in 0..rows as u64 {
        engine.submit(Request {
            id,
            prompt: vec![1; args.prompt_len],
            max_new_tokens: args.new_tokens,
            stop_tokens: vec![0],
            sampling: Sampling::GREEDY,
            logprobs: None,
            arrival: Duration::ZERO,
            timeout: None,
        })?;
    }
    let mut ended = 0;
    while ended < rows {
        ended += engine.step()?.finished.len();
    }
    Ok(Pace::of(&engine.records().steps))
}
