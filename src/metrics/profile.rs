//! One request, or one batch, taken apart: prefill and decode beside what the device could do.

use std::time::Duration;

use serde::Serialize;

use super::{Bound, Ceilings, NetworkSize, Pace, StepRecord, Work};
use crate::request::Finished;

/// All steps of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Phase {
    pub steps: usize,
    pub ms: f64,
    pub ms_per_step: f64,
    /// Prompt tokens of a prefill, generated ones of decoding, per second.
    pub tokens_per_s: f64,
    #[serde(flatten)]
    pub work: Work,
    /// What the bytes and the operations alone take at the device's limits.
    pub memory_limit_ms: f64,
    pub compute_limit_ms: f64,
    pub mbu_percent: f64,
    pub mfu_percent: f64,
    pub bound_by: Bound,
}

/// One run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Profile {
    pub prompt_tokens: usize,
    pub output_tokens: usize,
    pub e2el_ms: f64,
    /// Output tokens over `e2el_ms`.
    pub output_throughput: f64,
    pub prefill: Option<Phase>,
    /// None when nothing was generated after the first token.
    pub decode: Option<Phase>,
    /// Of the steps of `decode`.
    pub pace: Option<Pace>,
    /// Shares of `e2el_ms` that moving bytes and computing must take, each step counted for the one
    /// that takes longer.
    pub memory_bound_percent: f64,
    pub compute_bound_percent: f64,
    /// The rest: launches, the host's work, and work too small to fill the device.
    pub neither_percent: f64,
}

impl Profile {
    /// `steps` are all that the engine ran for `finished`.
    pub fn of(
        finished: &[Finished],
        steps: &[StepRecord],
        network: &NetworkSize,
        ceilings: &Ceilings,
    ) -> Self {
        let arrival = finished.iter().map(|r| r.arrival).min().unwrap_or_default();
        let end = finished
            .iter()
            .map(|r| r.finished)
            .max()
            .unwrap_or_default();
        let seconds = end.saturating_sub(arrival).as_secs_f64();
        let prompt_tokens: usize = finished.iter().map(|r| r.prompt_len).sum();
        let output_tokens: usize = finished.iter().map(|r| r.output.len()).sum();
        let phase = |prefill: bool, tokens: usize| {
            let of_phase = steps.iter().filter(|s| s.shape.prefills() == prefill);
            Phase::of(of_phase, tokens, network, ceilings)
        };
        let percent = |bound: Bound| {
            let bound_s = steps.iter().map(|step| {
                let (by, least) = network.work(&step.shape).bound(ceilings);
                // What stays in a cache can be faster than memory: no step counts for more than it
                // took.
                let s = least.min(step.duration.as_secs_f64());
                if by == bound { s } else { 0.0 }
            });
            share(bound_s.sum(), seconds)
        };
        let (memory, compute) = (percent(Bound::Memory), percent(Bound::Compute));
        Self {
            prompt_tokens,
            output_tokens,
            e2el_ms: 1e3 * seconds,
            output_throughput: rate(output_tokens, seconds),
            prefill: phase(true, prompt_tokens),
            decode: phase(false, output_tokens.saturating_sub(finished.len())),
            pace: Pace::of(steps),
            memory_bound_percent: memory,
            compute_bound_percent: compute,
            neither_percent: (100.0 - memory - compute).max(0.0),
        }
    }
}

impl Phase {
    /// None without steps.
    fn of<'a>(
        steps: impl Iterator<Item = &'a StepRecord>,
        tokens: usize,
        network: &NetworkSize,
        ceilings: &Ceilings,
    ) -> Option<Self> {
        let (mut count, mut time, mut work) = (0, Duration::ZERO, Work::default());
        for step in steps {
            count += 1;
            time += step.duration;
            work += network.work(&step.shape);
        }
        let seconds = time.as_secs_f64();
        let (memory_s, compute_s) = (work.memory_s(ceilings), work.compute_s(ceilings));
        (count > 0).then(|| Self {
            steps: count,
            ms: 1e3 * seconds,
            ms_per_step: 1e3 * seconds / count as f64,
            tokens_per_s: rate(tokens, seconds),
            work,
            memory_limit_ms: 1e3 * memory_s,
            compute_limit_ms: 1e3 * compute_s,
            mbu_percent: share(memory_s, seconds),
            mfu_percent: share(compute_s, seconds),
            bound_by: work.bound(ceilings).0,
        })
    }
}

fn rate(count: usize, seconds: f64) -> f64 {
    match seconds > 0.0 {
        true => count as f64 / seconds,
        false => 0.0,
    }
}

fn share(part: f64, whole: f64) -> f64 {
    match whole > 0.0 {
        true => 100.0 * part / whole,
        false => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ModelSpec;
    use crate::request::FinishReason;
    use crate::scheduler::StepShape;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn step(prefill: bool, tokens: usize, kv: usize, duration: u64) -> StepRecord {
        StepRecord {
            duration: ms(duration),
            shape: StepShape {
                rows: 1,
                decode_rows: usize::from(!prefill),
                tokens,
                kv_positions: kv,
                query_key_pairs: if prefill { kv * (kv + 1) / 2 } else { kv },
                ..StepShape::default()
            },
            ..StepRecord::default()
        }
    }

    /// A prompt of 40 tokens and 3 of output: one prefill, two decode steps, 10 ms of nothing.
    #[test]
    fn a_request_is_split_into_what_bounds_it() {
        let spec = ModelSpec::open(Some("dummy:gpt2")).unwrap();
        let network = NetworkSize::of(&spec, &spec.kv_layout(32, 2), 2);
        let steps = [
            step(true, 40, 40, 50),
            step(false, 1, 41, 20),
            step(false, 1, 42, 20),
        ];
        let work = steps.map(|s| network.work(&s.shape));
        // Decoding is given exactly half of its time for its bytes, and the prefill, of many
        // times the operations, its whole time for them.
        let ceilings = Ceilings {
            copy_bytes_per_s: (work[1].bytes + work[2].bytes) / 0.020,
            flop_per_s: work[0].flop / 0.050,
            product_by: "gemm",
        };
        let finished = Finished {
            id: 0,
            prompt_len: 40,
            output: vec![1, 2, 3],
            reason: FinishReason::Length,
            arrival: ms(0),
            scheduled: Some(ms(5)),
            token_times: vec![ms(60), ms(80), ms(100)],
            preempted: Vec::new(),
            finished: ms(100),
        };
        let p = Profile::of(&[finished], &steps, &network, &ceilings);
        let close = |a: f64, b: f64| assert!((a - b).abs() < 0.01, "{a} is not {b}");
        let (prefill, decode) = (p.prefill.unwrap(), p.decode.unwrap());
        assert_eq!((p.prompt_tokens, p.output_tokens), (40, 3));
        assert_eq!((prefill.steps, decode.steps), (1, 2));
        assert_eq!(
            (prefill.bound_by, decode.bound_by),
            (Bound::Compute, Bound::Memory)
        );
        close(p.e2el_ms, 100.0);
        close(p.output_throughput, 30.0);
        close(prefill.tokens_per_s, 800.0);
        close(decode.ms_per_step, 20.0);
        close(decode.tokens_per_s, 50.0);
        close(prefill.mfu_percent, 100.0);
        close(decode.mbu_percent, 50.0);
        close(p.compute_bound_percent, 50.0);
        close(p.memory_bound_percent, 20.0);
        close(p.neither_percent, 30.0);
    }

    #[test]
    fn a_cache_gives_no_more_than_all_of_the_time() {
        let spec = ModelSpec::open(None).unwrap();
        let network = NetworkSize::of(&spec, &spec.kv_layout(32, 4), 4);
        let slow = Ceilings {
            copy_bytes_per_s: 1.0,
            flop_per_s: 1e12,
            product_by: "gemm",
        };
        let finished = Finished {
            id: 0,
            prompt_len: 4,
            output: vec![1],
            reason: FinishReason::Length,
            arrival: ms(0),
            scheduled: Some(ms(0)),
            token_times: vec![ms(50)],
            preempted: Vec::new(),
            finished: ms(50),
        };
        let p = Profile::of(&[finished], &[step(true, 4, 4, 50)], &network, &slow);
        assert_eq!(p.decode, None);
        assert!(p.prefill.unwrap().mbu_percent > 1e6);
        assert_eq!((p.memory_bound_percent, p.neither_percent), (100.0, 0.0));
    }
}
