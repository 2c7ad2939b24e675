//! Steps submitted ahead on a GPU tell everybody what one step at a time on the CPU does.

use std::ops::ControlFlow;
use std::time::Duration;

use batchlab::batching::{Continuous, Policy, Static};
use batchlab::clock::WallClock;
use batchlab::engine::{Engine, EngineConfig};
use batchlab::model::Model;
use batchlab::request::FinishReason;
use batchlab::runner::cpu::CpuRunner;
use batchlab::runner::cuda::CudaRunner;
use batchlab::runner::{CublasLt, Dtype, KvBudget, Limits, Runner, RunnerOptions};
use batchlab::sampling::Sampling;
use batchlab::scheduler::Padding;
use batchlab::workload::{Arrivals, Load, RequestOptions, drive, random};

const CONTEXT: usize = 96;
const PAGE: usize = 8;

/// Why and with what every request ended, in their order, and how many tokens were dropped.
fn told(
    model: &Model,
    runner: &mut dyn Runner,
    policy: Box<dyn Policy>,
    (sampling, stop_tokens): (Sampling, &[u32]),
) -> (Vec<(FinishReason, Vec<u32>)>, usize) {
    let clock = WallClock::start();
    let (input, output) = ("1-30".parse().unwrap(), "1-50".parse().unwrap());
    let asks = random(&input, &output, model.spec.vocab, 24, 9);
    let config = EngineConfig {
        policy,
        padding: Padding::Ragged,
        max_queue_size: asks.len(),
        max_positions: CONTEXT,
    };
    let mut engine = Engine::new(runner, &clock, config);
    let options = RequestOptions {
        stop_tokens: stop_tokens.to_vec(),
        sampling,
        timeout: None,
    };
    let mut arrivals = Arrivals::new(asks, Load::Offline, options, Duration::ZERO, 0).unwrap();
    let mut ended = drive(&mut engine, &mut arrivals, |_| {
        ControlFlow::Continue(Vec::new())
    })
    .unwrap();
    ended.sort_by_key(|r| r.id);
    let dropped = engine.records().steps.iter().map(|s| s.shape.idle_rows);
    let dropped = dropped.sum();
    let told = ended.into_iter().map(|r| (r.reason, r.output));
    (told.collect(), dropped)
}

#[test]
fn everybody_is_told_what_the_cpu_says() {
    if !crate::has_gpu() {
        return;
    }
    let model = Model::open(Some(crate::FIXTURE)).unwrap();
    let token = model.spec.kv_layout(PAGE, 4).bytes_per_token();
    let options = RunnerOptions {
        dtype: Some(Dtype::F32),
        page_size: PAGE,
        // Two rows at their longest: some are preempted.
        kv: KvBudget::Bytes((2 * CONTEXT * token) as u64),
        limits: Limits {
            max_rows: 8,
            max_tokens: 8 * CONTEXT,
            max_kv_len: CONTEXT,
        },
        cublaslt: CublasLt::Auto,
    };
    let mut cuda = CudaRunner::open(0, &model, &options).unwrap();
    let mut cpu = CpuRunner::new(&model, &options).unwrap();
    assert_eq!((cuda.depth(), cpu.depth()), (2, 1));
    let sampled = Sampling {
        temperature: 0.9,
        seed: 4,
        ..Sampling::GREEDY
    };
    let penalised = Sampling {
        repetition_penalty: 1.3,
        ..Sampling::GREEDY
    };
    for sampling in [Sampling::GREEDY, sampled, penalised] {
        let continuous = || {
            Box::new(Continuous {
                max_num_seqs: 8,
                max_num_batched_tokens: 24,
                prefill_window: Duration::ZERO,
            })
        };
        let (whole, _) = told(&model, &mut cpu, continuous(), (sampling, &[]));
        // What some of them say in the middle ends these, and others, early.
        let long = whole.iter().filter(|(_, output)| output.len() > 9);
        let stops: Vec<u32> = long.step_by(3).map(|(_, output)| output[4]).collect();
        let asked = (sampling, stops.as_slice());
        let (wanted, _) = told(&model, &mut cpu, continuous(), asked);
        let (ahead, dropped) = told(&model, &mut cuda, continuous(), asked);
        assert_eq!(ahead, wanted);
        assert!(
            wanted
                .iter()
                .any(|(reason, _)| *reason == FinishReason::Stop)
        );
        // A penalty needs the token before the next step can be planned.
        assert_eq!(dropped > 0, sampling.repetition_penalty == 1.0);
        let (batches, _) = told(&model, &mut cuda, Box::new(Static { batch_size: 4 }), asked);
        assert_eq!(batches, wanted);
    }
}

#[test]
fn more_steps_than_may_be_under_way_are_refused_and_leave_the_others_alone() {
    if !crate::has_gpu() {
        return;
    }
    let model = Model::open(Some(crate::FIXTURE)).unwrap();
    let mut runner = crate::cuda(&model, Dtype::F32);
    assert!(runner.collect().is_err());
    let prompts = crate::prompts(&model, 3);
    let plan = crate::Batch::new(&runner, &prompts, false, 4).plan(usize::MAX);
    let wanted = runner.execute(&plan).unwrap().tokens;
    runner.submit(&plan).unwrap();
    runner.submit(&plan).unwrap();
    assert!(runner.submit(&plan).is_err());
    let mut follows_nobody = plan.clone();
    follows_nobody.rows[1].follows = Some(3);
    assert_eq!(runner.collect().unwrap().tokens, wanted);
    assert!(runner.submit(&follows_nobody).is_err());
    assert_eq!(runner.collect().unwrap().tokens, wanted);
    assert!(runner.collect().is_err());
    assert_eq!(runner.execute(&plan).unwrap().tokens, wanted);
}

/// Busy and idle by the device's clock add up to no more than the host's.
#[test]
fn the_devices_clock_fits_into_the_hosts() {
    if !crate::has_gpu() {
        return;
    }
    let model = Model::open(Some(crate::FIXTURE)).unwrap();
    let mut runner = crate::cuda(&model, Dtype::F32);
    let plan = crate::Batch::new(&runner, &crate::prompts(&model, 8), false, 4).plan(usize::MAX);
    runner.time_steps(true).unwrap();
    let began = std::time::Instant::now();
    let mut times = Vec::new();
    runner.submit(&plan).unwrap();
    let refused = runner.time_steps(false).unwrap_err().to_string();
    assert!(refused.contains("between steps"), "{refused}");
    for _ in 0..20 {
        runner.submit(&plan).unwrap();
        times.push(runner.collect().unwrap().device.unwrap());
    }
    runner.collect().unwrap();
    let took = began.elapsed();
    assert!(times[0].idle.is_none() && times[1..].iter().all(|t| t.idle.is_some()));
    let all: Duration = times
        .iter()
        .map(|t| t.busy + t.idle.unwrap_or_default())
        .sum();
    assert!(all > Duration::ZERO && all <= took, "{all:?} in {took:?}");
    runner.time_steps(false).unwrap();
    assert_eq!(runner.execute(&plan).unwrap().device, None);
}
