//! Requests are batched as the policy says.

use std::process::Command;
use std::thread;

use serde_json::{Value, json};
use tempfile::tempdir;

use crate::client::Stream;
use crate::process::{Served, command};

const PATH: &str = "/v1/completions";

/// So many clients at once, each with one request.
fn ask_at_once(served: &Served, clients: usize) {
    thread::scope(|scope| {
        for _ in 0..clients {
            let body = json!({"prompt": "a", "max_tokens": 4, "ignore_eos": true});
            scope.spawn(move || assert_eq!(served.post(PATH, &body).status, 200));
        }
    });
}

fn batches(served: &Served, why: &str) -> [Option<f64>; 3] {
    [
        "actual_batch_size_count".to_owned(),
        "actual_batch_size_sum".to_owned(),
        format!("batch_close_reason_total{{reason=\"{why}\"}}"),
    ]
    .map(|name| served.metric(&name))
}

#[test]
fn a_static_batch_leaves_full() {
    let served = Served::start(&["--policy=static", "--max-batch-size=3"]);
    ask_at_once(&served, 6);
    assert_eq!(batches(&served, "full"), [Some(2.0), Some(6.0), Some(2.0)]);
}

/// Of more tokens than a step of continuous batching has.
#[test]
fn long_prompts_make_no_batch_smaller() {
    let served = Served::start(&["--policy=static", "--max-batch-size=8"]);
    let body = json!({"prompt": vec![vec![65; 400]; 8], "max_tokens": 1});
    assert_eq!(served.post(PATH, &body).status, 200);
    assert_eq!(batches(&served, "full"), [Some(1.0), Some(8.0), Some(1.0)]);
}

/// The client of a batch's only row leaves, so that it ends where the next one starts.
#[test]
fn the_live_page_counts_a_batch_that_was_cancelled_once() {
    let served = Served::start(&[
        "--model=dummy:gpt2",
        "--policy=dynamic",
        "--max-batch-size=1",
    ]);
    // Seconds, whatever the machine.
    let long = json!({"prompt": [1], "max_tokens": 1000, "ignore_eos": true});
    let mut first = served.stream(PATH, &long);
    assert!(first.event().is_some());
    let short = json!({"prompt": [1], "max_tokens": 4, "ignore_eos": true});
    thread::scope(|scope| {
        let second = scope.spawn(|| served.post(PATH, &short).status);
        served.wait_for("requests_waiting", 1.0);
        drop(first);
        assert_eq!(second.join().unwrap(), 200);
    });
    served.wait_for("batch_close_reason_total{reason=\"full\"}", 2.0);
    let told = Stream::open(served.address, "GET", "/live", "", b"")
        .event()
        .unwrap();
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["batch_close_reasons"], json!({"full": 2}));
    let rows = told["left"].as_array().unwrap().iter().map(|r| &r["row"]);
    assert!(rows.clone().all(|row| row == 0), "{told:#}");
}

#[test]
fn a_dynamic_batch_leaves_full_or_after_its_window() {
    let served = Served::start(&[
        "--policy=dynamic",
        "--max-batch-size=4",
        "--max-queue-delay-ms=600000",
    ]);
    ask_at_once(&served, 4);
    assert_eq!(batches(&served, "full"), [Some(1.0), Some(4.0), Some(1.0)]);

    let served = Served::start(&[
        "--policy=dynamic",
        "--max-batch-size=4",
        "--max-queue-delay-ms=50",
    ]);
    ask_at_once(&served, 1);
    assert_eq!(
        batches(&served, "window"),
        [Some(1.0), Some(1.0), Some(1.0)]
    );
    assert!(served.metric("batch_wait_seconds_sum") >= Some(0.05));
}

#[test]
fn a_continuous_request_starts_at_once() {
    let served = Served::start(&[]);
    ask_at_once(&served, 1);
    assert_eq!(
        batches(&served, "queue_empty"),
        [Some(1.0), Some(1.0), Some(1.0)]
    );
    assert_eq!(served.metric("prompt_tokens_total"), Some(1.0));
    assert_eq!(served.metric("output_tokens_total"), Some(4.0));
    assert_eq!(
        served.metric("requests_total{reason=\"length\"}"),
        Some(1.0)
    );
    assert_eq!(
        served
            .metric("http_responses_total{status=\"200\"}")
            .map(|n| n >= 1.0),
        Some(true)
    );
}

#[test]
fn a_setting_that_a_sweep_picked() {
    let folder = tempdir().unwrap();
    let results = folder.path().join("results");
    let sweep = Command::new(env!("CARGO_BIN_EXE_batchlab"))
        .args([
            "sweep",
            "--device=cpu",
            "--batch-sizes=2",
            "--windows-ms=0",
            "--output-len=4",
        ])
        .args([
            "--num-prompts=8",
            "--num-warmups=1",
            "--min-seconds=0",
            "--num-runs=2",
        ])
        .args([
            "--policies=dynamic",
            "--prompt=Hello",
            "--load=offline",
            "--output",
        ])
        .arg(&results)
        .output()
        .unwrap();
    assert!(
        sweep.status.success(),
        "{}",
        String::from_utf8_lossy(&sweep.stderr)
    );
    let results = results.to_str().unwrap();
    let served = Served::start(&["--from-results", results, "--scenario=documents"]);
    ask_at_once(&served, 2);
    let [count, sum, _] = batches(&served, "full");
    assert_eq!(sum, Some(2.0));
    assert!(count <= Some(2.0));
    let model = served.get("/v1/models").json()["data"][0]["id"].clone();
    assert_eq!(model, "batchlab-shakespeare");

    // What would not be read is refused.
    let unlike = ["--dtype=bf16", "--kv-cache-memory=64MiB"];
    let from = ["--from-results", results, "--scenario=documents"];
    let refused = command(0, &[&from[..], &unlike].concat()).output().unwrap();
    assert!(!refused.status.success());
    let log = String::from_utf8(refused.stderr).unwrap();
    assert!(log.contains("--dtype, --kv-cache-memory: leave"), "{log}");
}
