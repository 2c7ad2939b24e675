use std::time::Duration;

use super::*;
use crate::batching::CloseReason;
use crate::metrics::StepRecord;
use crate::request::Token;
use crate::scheduler::StepShape;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn live(request_level: bool, max_rows: usize) -> Live {
    Live::new(About {
        model: "dummy".into(),
        device: "cpu".into(),
        policy: "some policy".into(),
        request_level,
        max_rows,
        kv_pages: 100,
        page_size: 16,
    })
}

fn batch(start: u64, size: usize, end: Option<u64>) -> BatchRecord {
    BatchRecord {
        size,
        max_size: 4,
        close_reason: CloseReason::Window,
        wait: ms(5),
        start: ms(start),
        end: end.map(ms),
    }
}

/// Asked for at 0, scheduled at 10, with a token every 10 ms from 20 on.
fn finished(id: RequestId, tokens: u64) -> Finished {
    let token_times: Vec<_> = (0..tokens).map(|i| ms(20 + 10 * i)).collect();
    Finished {
        id,
        prompt_len: 7,
        output: vec![1; tokens as usize],
        reason: FinishReason::Length,
        arrival: ms(0),
        scheduled: Some(ms(10)),
        finished: *token_times.last().unwrap(),
        token_times,
        preempted: vec![],
    }
}

fn arrived(id: RequestId, at: u64) -> Arrived {
    Arrived {
        id,
        at: ms(at),
        prompt_len: 7,
        max_new_tokens: 8,
    }
}

fn token(request: RequestId) -> Token {
    Token {
        request,
        id: 5,
        logprobs: None,
    }
}

fn submit(live: &mut Live, ids: std::ops::Range<RequestId>) {
    live.step(&StepNews {
        arrived: ids.map(|id| arrived(id, 0)).collect(),
        ..StepNews::default()
    });
}

fn states(snapshot: &Snapshot) -> Vec<(RequestId, State, Option<usize>)> {
    let requests = snapshot.requests.iter();
    requests.map(|r| (r.id, r.state, r.row)).collect()
}

#[test]
fn a_request_goes_through_its_states() {
    let mut live = live(false, 4);
    submit(&mut live, 1..2);
    let s = live.snapshot(ms(5), None);
    assert_eq!(states(&s), [(1, State::Queued, None)]);
    assert_eq!((s.queued, s.running), (1, 0));

    live.step(&StepNews {
        now: ms(15),
        started: vec![1],
        batches: vec![batch(10, 1, None)],
        ..StepNews::default()
    });
    let s = live.snapshot(ms(16), None);
    assert_eq!(states(&s), [(1, State::Prefill, Some(0))]);
    assert_eq!(s.requests[0].started, Some(ms(10)));
    assert_eq!((s.queued, s.running, s.batches.len()), (0, 1, 1));

    for now in [20, 30] {
        live.step(&StepNews {
            now: ms(now),
            tokens: vec![token(1)],
            ..StepNews::default()
        });
    }
    let s = live.snapshot(ms(31), None);
    assert_eq!(states(&s), [(1, State::Decode, Some(0))]);
    let request = &s.requests[0];
    assert_eq!((request.first_token, request.output_len), (Some(ms(20)), 2));
    assert!(s.batches.is_empty());

    live.step(&StepNews {
        now: ms(40),
        tokens: vec![token(1)],
        finished: vec![finished(1, 3)],
        ..StepNews::default()
    });
    let s = live.snapshot(ms(201), None);
    assert!(s.requests.is_empty());
    assert_eq!(s.left.len(), 1);
    let request = &s.left[0];
    assert_eq!(request.state, State::Left);
    assert_eq!((request.ended, request.left), (Some(ms(40)), Some(ms(40))));
    assert_eq!(request.reason, Some(FinishReason::Length));
    assert_eq!(s.finish_reasons[&FinishReason::Length], 1);
    assert_eq!(s.batch_close_reasons[&CloseReason::Window], 1);
    // Queue 10, TTFT 20, TPOT 10 ms, each to a hundredth.
    for (percentiles, exact) in [(s.queue_ms, 10.0), (s.ttft_ms, 20.0), (s.tpot_ms, 10.0)] {
        assert_eq!(percentiles.n, 1);
        assert!((percentiles.p50.unwrap() - exact).abs() < exact / 100.0);
    }
    assert_eq!((s.output_throughput, s.request_throughput), (3, 1));
    assert!(live.snapshot(ms(202), None).left.is_empty());
}

#[test]
fn rows_of_a_batch_are_idle_until_it_ends() {
    let mut live = live(true, 4);
    submit(&mut live, 1..6);
    live.step(&StepNews {
        now: ms(20),
        started: vec![1, 2],
        tokens: vec![token(1), token(2)],
        finished: vec![finished(1, 1)],
        batches: vec![batch(10, 2, None)],
        ..StepNews::default()
    });
    let s = live.snapshot(ms(25), None);
    assert_eq!(
        states(&s)[..2],
        [(1, State::Idle, Some(0)), (2, State::Decode, Some(1))]
    );
    assert_eq!((s.queued, s.running, s.idle_rows), (3, 1, 1));

    // The batch ends, and the next one takes its rows, in the same news.
    live.step(&StepNews {
        now: ms(30),
        started: vec![3],
        tokens: vec![token(2), token(3)],
        finished: vec![finished(2, 2)],
        batches: vec![batch(10, 2, Some(30)), batch(31, 1, None)],
        ..StepNews::default()
    });
    let s = live.snapshot(ms(35), None);
    assert_eq!(states(&s)[0], (3, State::Decode, Some(0)));
    let left: Vec<_> = s.left.iter().map(|r| (r.id, r.ended, r.left)).collect();
    assert_eq!(
        left,
        [
            (1, Some(ms(20)), Some(ms(30))),
            (2, Some(ms(30)), Some(ms(30)))
        ]
    );
    let batches: Vec<_> = s.batches.iter().map(|b| (b.start, b.end)).collect();
    assert_eq!(batches, [(ms(10), Some(ms(30))), (ms(31), None)]);
}

#[test]
fn a_row_has_all_its_tokens_when_it_ends() {
    let mut live = live(true, 4);
    submit(&mut live, 1..3);
    live.step(&StepNews {
        now: ms(15),
        started: vec![1, 2],
        batches: vec![batch(10, 2, None)],
        ..StepNews::default()
    });
    live.step(&StepNews {
        now: ms(20),
        tokens: vec![token(1), token(2)],
        finished: vec![finished(1, 1)],
        ..StepNews::default()
    });
    let s = live.snapshot(ms(25), None);
    assert_eq!(states(&s)[0], (1, State::Idle, Some(0)));
    let ended = &s.requests[0];
    assert_eq!((ended.output_len, ended.first_token), (1, Some(ms(20))));
    assert_eq!(s.ttft_ms.n, 2);
}

#[test]
fn a_batch_of_one_step_is_told_whole() {
    let mut live = live(true, 4);
    submit(&mut live, 1..2);
    live.step(&StepNews {
        now: ms(20),
        started: vec![1],
        tokens: vec![token(1)],
        finished: vec![finished(1, 1)],
        batches: vec![batch(10, 1, Some(20))],
        ..StepNews::default()
    });
    let s = live.snapshot(ms(21), None);
    assert!(s.requests.is_empty());
    assert_eq!(s.left[0].started, Some(ms(10)));
    assert_eq!(s.left[0].left, Some(ms(20)));
    assert_eq!(s.batches.last().unwrap().end, Some(ms(20)));
}

#[test]
fn the_lowest_free_row_is_taken_also_by_who_starts_as_another_ends() {
    let mut live = live(false, 2);
    submit(&mut live, 1..5);
    live.step(&StepNews {
        now: ms(10),
        started: vec![1, 2],
        batches: vec![batch(10, 2, None)],
        ..StepNews::default()
    });
    live.step(&StepNews {
        now: ms(20),
        started: vec![3],
        tokens: vec![token(1), token(2)],
        finished: vec![finished(1, 1)],
        batches: vec![batch(19, 1, None)],
        ..StepNews::default()
    });
    let s = live.snapshot(ms(21), None);
    assert_eq!(
        states(&s),
        [
            (3, State::Prefill, Some(0)),
            (2, State::Decode, Some(1)),
            (4, State::Queued, None)
        ]
    );
}

#[test]
fn who_ends_in_the_queue_leaves_it() {
    let mut live = live(false, 2);
    submit(&mut live, 1..3);
    let timed_out = Finished {
        reason: FinishReason::TimedOut,
        scheduled: None,
        token_times: vec![],
        output: vec![],
        finished: ms(50),
        ..finished(1, 1)
    };
    // The second was never submitted: its rejection counts and is nobody's.
    let rejected = Finished {
        id: 99,
        reason: FinishReason::Rejected,
        ..timed_out.clone()
    };
    live.step(&StepNews {
        now: ms(50),
        finished: vec![timed_out, rejected],
        ..StepNews::default()
    });
    let s = live.snapshot(ms(200), None);
    assert_eq!(states(&s), [(2, State::Queued, None)]);
    assert_eq!(s.left.len(), 1);
    assert_eq!((s.left[0].row, s.left[0].left), (None, Some(ms(50))));
    assert_eq!(s.finish_reasons[&FinishReason::Rejected], 1);
    assert_eq!((s.request_throughput, s.ttft_ms.n), (0, 0));
}

#[test]
fn pages_and_prompts_are_those_of_the_steps() {
    let mut live = live(false, 4);
    submit(&mut live, 1..2);
    let shape = StepShape {
        rows: 3,
        decode_rows: 2,
        tokens: 42,
        padded_tokens: 10,
        kv_pages_used: 17,
        kv_pages_total: 100,
        ..StepShape::default()
    };
    live.step(&StepNews {
        now: ms(50),
        started: vec![1],
        steps: vec![StepRecord {
            shape,
            ..StepRecord::default()
        }],
        kv_pages_used: 17,
        deadline: Some(ms(70)),
        ..StepNews::default()
    });
    let s = live.snapshot(ms(100), None);
    assert_eq!((s.kv_pages_used, s.prompt_throughput), (17, 30));
    assert_eq!(s.deadline, Some(ms(70)));
    live.step(&StepNews {
        now: ms(60),
        finished: vec![finished(1, 1)],
        ..StepNews::default()
    });
    let s = live.snapshot(ms(100), None);
    assert_eq!((s.kv_pages_used, s.deadline), (0, None));
}

#[test]
fn the_page_reads_these_names() {
    let mut live = live(true, 4);
    submit(&mut live, 1..2);
    let gpu = GpuReading {
        gpu_power_w: Some(300.5),
        ..GpuReading::default()
    };
    let json = serde_json::to_value(live.snapshot(Duration::from_micros(1500), Some(&gpu)));
    let json = json.unwrap();
    assert_eq!((&json["number"], &json["now_ms"]), (&1.into(), &1.5.into()));
    assert_eq!(json["about"]["request_level"], true);
    assert_eq!(json["gpu"]["gpu_power_w"], 300.5);
    assert!(json["gpu"]["gpu_utilization_percent"].is_null());
    assert!(json["deadline_ms"].is_null());
    assert!(json["ttft_ms"]["p99"].is_null());
    let request = &json["requests"][0];
    assert_eq!(request["state"], "queued");
    assert_eq!(request["arrival_ms"], 0.0);
    for name in [
        "row",
        "started_ms",
        "first_token_ms",
        "ended_ms",
        "left_ms",
        "reason",
    ] {
        assert!(request[name].is_null(), "{name}");
        assert!(request.get(name).is_some(), "{name}");
    }
}

/// Nobody asks for a snapshot, and everything goes on.
#[test]
fn memory_stays_bounded() {
    let mut live = live(false, 4);
    for id in 0..20_000 {
        live.step(&StepNews {
            now: ms(id),
            arrived: vec![arrived(id, id)],
            started: vec![id],
            tokens: vec![token(id)],
            finished: vec![finished(id, 2)],
            batches: vec![batch(id, 1, None)],
            ..StepNews::default()
        });
    }
    submit(&mut live, 30_000..40_000);
    let s = live.snapshot(ms(20_000), None);
    assert_eq!(s.left.len(), MOST_LEFT);
    assert_eq!(s.left.last().unwrap().id, 19_999);
    assert_eq!(s.batches.len(), MOST_BATCHES);
    assert_eq!((s.requests.len(), s.queued), (MOST_QUEUED, 10_000));
    assert_eq!(s.requests[0].id, 30_000);
}
