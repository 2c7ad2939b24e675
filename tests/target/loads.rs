//! Loads sent to a scripted server: how each request ends, and what is counted.

use std::sync::{Arc, Barrier};
use std::time::Duration;

use batchlab::Error;
use batchlab::clock::{Clock, WallClock};
use batchlab::metrics::Counted;
use batchlab::model::Tokenizer;
use batchlab::request::FinishReason::{Failed, Length, Rejected, Stop, TimedOut};
use batchlab::sampling::Sampling;
use batchlab::scheduler::Padding;
use batchlab::sweep::{CellSpec, LoadSpec, PolicyKind, Ran, Service};
use batchlab::target::{Asked, Target, contact};
use batchlab::workload::{Arrivals, Ask, Load, RequestOptions};
use serde_json::Value;

use crate::server::{Answer, Part, Server, events};

/// Nothing here takes that long, however busy the machine is.
const LONG: Duration = Duration::from_secs(100);

/// Sends requests whose prompts are `[100]`, `[101]` and so on.
fn run(server: &Server, load: Load, outputs: &[usize], timeout: Duration) -> Result<Ran, Error> {
    let tokenizer = Arc::new(Tokenizer::open(None).unwrap().1);
    let clock = WallClock::start();
    let asked = Asked {
        address: server.url.parse().unwrap(),
        model: None,
        api_key: None,
        prompts: None,
        ignore_eos: true,
        prompt: vec![1, 2, 3],
    };
    let contact = contact(asked, &tokenizer, clock).unwrap();
    let mut target = Target::open(&contact, None, tokenizer, clock).unwrap();
    let asks = outputs.iter().enumerate().map(|(i, &output_len)| Ask {
        prompt: vec![100 + i as u32],
        output_len,
    });
    let options = RequestOptions {
        stop_tokens: vec![],
        sampling: Sampling::GREEDY,
        timeout: Some(timeout),
    };
    let arrivals = Arrivals::new(asks.collect(), load, options, clock.now(), 0).unwrap();
    let cell = CellSpec {
        policy: PolicyKind::Server,
        batch_size: 0,
        window_ms: None,
        padding: Padding::Ragged,
        prompts: "p".into(),
        output_len: "8".into(),
        load: LoadSpec::Offline,
    };
    let mut heard = (0, 0);
    let ran = target.run(&cell, arrivals, &mut |ended, chunks| {
        heard = (heard.0 + ended, heard.1 + chunks);
    });
    if ran.is_ok() {
        assert_eq!(heard.0, outputs.len());
    }
    ran
}

fn first_id(asked: &Value) -> u64 {
    asked["prompt"][0].as_u64().unwrap()
}

#[test]
fn every_way_to_end_has_its_reason() {
    let server = Server::start(|asked| {
        let all = events(
            asked,
            asked["max_tokens"].as_u64().unwrap() as usize,
            "length",
        );
        match first_id(asked) {
            100 => Answer::cut(&all, 1),
            101 => Answer::cut(&all, 7),
            102 => Answer::refusal(429, "too many"),
            103 => Answer::refusal(503, "not now"),
            104 => Answer::refusal(500, "it is broken"),
            105 => {
                let mut cut = Answer::of(&all[..3]);
                cut.parts.push(Part::Close);
                cut
            }
            106 => Answer::of(&all[..2]),
            107 => Answer::of(&["data: {nonsense\n\n".into()]),
            108 => Answer::of(&["<html>what?</html>".into()]),
            109 => Answer::of(&[
                all[0].clone(),
                "data: {\"error\": {\"message\": \"out of pages\"}}\n\n".into(),
            ]),
            110 => Answer::of(&events(asked, 2, "stop")),
            111 => Answer::of(&[
                ": a comment\r\n\r\n".into(),
                all.concat().replace('\n', "\r\n"),
            ]),
            112 => Answer::of(&[all.concat()]),
            113 => Answer::of(&[
                "data: {\"error\": {\"message\": \"later\", \"code\": 429}}\n\n".into(),
            ]),
            _ => Answer::whole(asked),
        }
    });
    let ran = run(&server, Load::Offline, &[5; 15], LONG).unwrap();
    let mut finished = ran.finished;
    finished.sort_by_key(|r| r.id);
    let ends: Vec<_> = finished
        .iter()
        .map(|r| (r.reason, r.token_times.len()))
        .collect();
    assert_eq!(
        ends,
        [
            (Length, 5),
            (Length, 5),
            (Rejected, 0),
            (Rejected, 0),
            (Failed, 0),
            (Failed, 3),
            (Failed, 2),
            (Failed, 0),
            (Failed, 0),
            (Failed, 1),
            (Stop, 2),
            (Length, 5),
            (Length, 5),
            (Rejected, 0),
            (Length, 5),
        ]
    );
    for r in &finished {
        assert!(r.token_times.is_sorted() && r.scheduled.is_none() && r.output.is_empty());
        assert!(
            r.token_times
                .iter()
                .all(|&t| r.arrival <= t && t <= r.finished)
        );
    }
    assert!(finished.iter().all(|r| r.prompt_len == 1));
    // All in one piece, all at one moment.
    let at_once = &finished[12].token_times;
    assert!(at_once.iter().all(|t| *t == at_once[0]));

    assert!(ran.records.steps.is_empty() && ran.records.batches.is_empty());
    let client = ran.client.unwrap();
    assert_eq!(
        (client.counted, client.ended_early),
        (Counted::EachChunk, 1)
    );
    let causes: Vec<&str> = client.failures.keys().map(String::as_str).collect();
    for cause in [
        "429",
        "503",
        "it is broken",
        "broke off",
        "out of pages",
        "no completion",
    ] {
        assert!(
            causes.iter().any(|c| c.contains(cause)),
            "{cause}: {causes:?}"
        );
    }
    assert_eq!(client.failures.values().sum::<usize>(), 9);
    assert!(client.cpu_s > 0.0 && client.late_send_ms.unwrap().n == 15);
}

/// As vLLM cuts an answer to what its context holds.
#[test]
fn an_answer_that_is_shorter_than_asked_is_counted() {
    let server = Server::start(|asked| {
        let tokens = asked["max_tokens"].as_u64().unwrap() as usize;
        let cut = match first_id(asked) {
            101 => tokens - 1,
            _ => tokens,
        };
        Answer::of(&events(asked, cut, "length"))
    });
    let ran = run(&server, Load::Offline, &[5; 3], LONG).unwrap();
    assert!(ran.finished.iter().all(|r| r.reason == Length));
    assert_eq!(ran.client.unwrap().ended_early, 1);
}

#[test]
fn an_answer_without_a_token_is_waited_for_so_long() {
    // The first contact is answered.
    let server = Server::start(|asked| match first_id(asked) {
        1 => Answer::whole(asked),
        _ => Answer {
            status: 200,
            parts: vec![Part::Pause(Duration::from_secs(3600))],
        },
    });
    let ran = run(&server, Load::Offline, &[5], Duration::from_millis(400)).unwrap();
    let ends = ran.finished.iter().map(|r| (r.reason, r.token_times.len()));
    assert_eq!(ends.collect::<Vec<_>>(), [(TimedOut, 0)]);
}

#[test]
fn a_closed_loop_has_no_more_requests_under_way_than_clients() {
    // The first three of the load wait for each other.
    let together = Barrier::new(3);
    let server = Server::start(move |asked| {
        if (100..103).contains(&first_id(asked)) {
            together.wait();
        }
        let mut answer = Answer::whole(asked);
        answer
            .parts
            .insert(1, Part::Pause(Duration::from_millis(5)));
        answer
    });
    let ran = run(&server, Load::Closed { concurrency: 3 }, &[4; 20], LONG).unwrap();
    assert_eq!((ran.finished.len(), server.most_at_once()), (20, 3));
    let tokens: usize = ran.finished.iter().map(|r| r.token_times.len()).sum();
    let client = ran.client.unwrap();
    assert_eq!((tokens, client.chunks), (80, 80));
    assert_eq!(client.tokens_per_chunk, Some(1.0));
    let sent = &server.asked()[1];
    assert_eq!(
        (&sent["model"], &sent["ignore_eos"]),
        (&"scripted".into(), &true.into())
    );
    assert_eq!(
        (&sent["temperature"], &sent["stream"]),
        (&0.into(), &true.into())
    );
}

#[test]
fn where_nothing_is_answered_the_sweep_ends() {
    // The first contact is answered.
    let server = Server::start(|asked| match first_id(asked) {
        1 => Answer::whole(asked),
        _ => Answer::refusal(500, "no memory left"),
    });
    let error = run(&server, Load::Offline, &[4; 3], LONG).err().unwrap();
    assert_eq!(error.exit_code(), 6);
    let error = error.to_string();
    assert!(
        error.contains("all 3 requests failed") && error.contains("no memory left"),
        "{error}"
    );
}
