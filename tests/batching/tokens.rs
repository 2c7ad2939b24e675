//! What a request is told does not depend on whom it ran with: a real model on a real runner. These
//! tests are part of tests/cuda_model too, with its runner.

use std::ops::ControlFlow;
use std::time::Duration;

use batchlab::batching::{Continuous, Dynamic, Policy, Static};
use batchlab::clock::ManualClock;
use batchlab::engine::{Engine, EngineConfig};
use batchlab::model::Model;
use batchlab::runner::{CublasLt, Dtype, KvBudget, Limits, RunnerOptions};
use batchlab::sampling::Sampling;
use batchlab::scheduler::Padding;
use batchlab::workload::{Arrivals, Ask, Load, RequestOptions, drive, random};

const CONTEXT: usize = 96;

fn model() -> Model {
    // Relative to the folder that tests run in.
    Model::open(Some("tests/fixtures/gpt2-f32")).unwrap()
}

/// Where and how requests run.
struct Setting {
    page_size: usize,
    /// In tokens; none: as many as all rows may need.
    pool: Option<usize>,
    policy: Box<dyn Policy>,
    padding: Padding,
    load: Load,
    sampling: Sampling,
}

impl Setting {
    fn greedy(policy: impl Policy + 'static) -> Self {
        Self {
            page_size: 16,
            pool: None,
            policy: Box::new(policy),
            padding: Padding::Ragged,
            load: Load::Offline,
            sampling: Sampling::GREEDY,
        }
    }
}

/// Each request's output in the order of asking, and how often one was preempted.
fn outputs(model: &Model, asks: &[Ask], setting: Setting) -> (Vec<Vec<u32>>, usize) {
    let limits = Limits {
        max_rows: 8,
        max_tokens: 8 * CONTEXT,
        max_kv_len: CONTEXT,
    };
    let token = model.spec.kv_layout(setting.page_size, 4).bytes_per_token();
    let kv = match setting.pool {
        Some(tokens) => KvBudget::Bytes((tokens * token) as u64),
        None => KvBudget::Utilization(0.9),
    };
    let options = RunnerOptions {
        dtype: Some(Dtype::F32),
        page_size: setting.page_size,
        kv,
        limits,
        cublaslt: CublasLt::Auto,
    };
    let mut runner = crate::open(model, &options);
    assert!(
        setting
            .pool
            .is_none_or(|tokens| tokens / setting.page_size == runner.kv_pages())
    );
    let clock = ManualClock::default();
    let config = EngineConfig {
        policy: setting.policy,
        padding: setting.padding,
        max_queue_size: asks.len(),
        max_positions: CONTEXT,
    };
    let mut engine = Engine::new(runner.as_mut(), &clock, config);
    let options = RequestOptions {
        stop_tokens: Vec::new(),
        sampling: setting.sampling,
        timeout: None,
    };
    let mut arrivals =
        Arrivals::new(asks.to_vec(), setting.load, options, Duration::ZERO, 0).unwrap();
    let mut ended = drive(&mut engine, &mut arrivals, |_| {
        ControlFlow::Continue(Vec::new())
    })
    .unwrap();
    ended.sort_by_key(|r| r.id);
    let preemptions = engine
        .records()
        .steps
        .iter()
        .map(|s| s.shape.preemptions)
        .sum();
    (ended.into_iter().map(|r| r.output).collect(), preemptions)
}

fn asks(model: &Model, input: &str, output: &str, seed: u64) -> Vec<Ask> {
    let (input, output) = (input.parse().unwrap(), output.parse().unwrap());
    random(&input, &output, model.spec.vocab, 12, seed)
}

fn continuous(max_num_seqs: usize, max_num_batched_tokens: usize) -> Continuous {
    Continuous {
        max_num_seqs,
        max_num_batched_tokens,
        prefill_window: Duration::ZERO,
    }
}

/// Every request alone.
fn alone(model: &Model, asks: &[Ask], sampling: Sampling) -> Vec<Vec<u32>> {
    let setting = Setting {
        sampling,
        ..Setting::greedy(Static { batch_size: 1 })
    };
    outputs(model, asks, setting).0
}

#[test]
fn tokens_are_the_same_under_every_policy() {
    if !crate::has_runner() {
        return;
    }
    let model = model();
    let asks = asks(&model, "1-40", "1-40", 5);
    let wanted = alone(&model, &asks, Sampling::GREEDY);
    let told = |setting| outputs(&model, &asks, setting).0;
    for padding in [Padding::Padded, Padding::Ragged] {
        let batch = |policy: Box<dyn Policy>| Setting {
            policy,
            padding,
            ..Setting::greedy(Static { batch_size: 1 })
        };
        assert_eq!(told(batch(Box::new(Static { batch_size: 5 }))), wanted);
        let dynamic = Dynamic {
            max_batch_size: 8,
            window: Duration::ZERO,
            preferred_sizes: vec![3],
        };
        assert_eq!(told(batch(Box::new(dynamic))), wanted);
    }
    for (rows, budget) in [(1, 8), (3, 8), (8, 8), (8, 23), (8, 700)] {
        for page_size in [8, 32] {
            let setting = Setting {
                page_size,
                ..Setting::greedy(continuous(rows, budget))
            };
            assert_eq!(
                told(setting),
                wanted,
                "{rows} rows, {budget} tokens, pages of {page_size}"
            );
        }
    }
    let closed = Setting {
        load: Load::Closed { concurrency: 3 },
        ..Setting::greedy(continuous(8, 64))
    };
    assert_eq!(told(closed), wanted);
}

#[test]
fn tokens_survive_preemption_greedy_and_sampled() {
    if !crate::has_runner() {
        return;
    }
    let model = model();
    let asks = asks(&model, "1-12", "20-60", 6);
    let sampled = Sampling {
        temperature: 0.9,
        top_k: 20,
        seed: 4,
        ..Sampling::GREEDY
    };
    let penalised = Sampling {
        repetition_penalty: 1.5,
        ..sampled
    };
    for sampling in [Sampling::GREEDY, sampled, penalised] {
        let wanted = alone(&model, &asks, sampling);
        let tiny = Setting {
            page_size: 8,
            pool: Some(CONTEXT),
            sampling,
            ..Setting::greedy(continuous(8, 16))
        };
        let (told, preemptions) = outputs(&model, &asks, tiny);
        assert!(preemptions > 3, "{preemptions} preemptions");
        assert_eq!(told, wanted);
    }
}

#[test]
fn order_and_neighbours_change_nothing() {
    if !crate::has_runner() {
        return;
    }
    let model = model();
    let asked = asks(&model, "1-40", "1-40", 7);
    let wanted = outputs(&model, &asked, Setting::greedy(continuous(4, 24))).0;
    let mut reversed = asked.clone();
    reversed.reverse();
    let mut told = outputs(&model, &reversed, Setting::greedy(continuous(4, 24))).0;
    told.reverse();
    assert_eq!(told, wanted);
    // Other neighbours at every other place.
    let others = asks(&model, "1-40", "1-40", 8);
    let mut mixed = asked.clone();
    for (place, other) in others.into_iter().enumerate().step_by(2) {
        mixed[place] = other;
    }
    let told = outputs(&model, &mixed, Setting::greedy(continuous(4, 24))).0;
    for place in (1..asked.len()).step_by(2) {
        assert_eq!(told[place], wanted[place], "request {place}");
    }
}
