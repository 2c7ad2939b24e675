//! `batchlab sweep --target` as a user runs it.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use assert_cmd::Command;
use predicates::prelude::*;
use predicates::str::contains;
use serde_json::Value;
use tempfile::tempdir;

use crate::server::{Answer, Server};

fn sweep(url: &str) -> Command {
    let mut command = Command::cargo_bin("batchlab").unwrap();
    command.env_remove("OPENAI_API_KEY");
    command.args(["sweep", "--target", url, "--device=cpu"]);
    command
}

/// Two closed loops and five shares, a few requests each.
fn small(url: &str, output: &Path) -> Command {
    let mut command = sweep(url);
    command.args(["--output-len=4", "--num-prompts=6", "--min-seconds=0"]);
    command.arg("--output").arg(output);
    command
}

fn report(dir: &Path) -> Value {
    serde_json::from_slice(&fs::read(dir.join("report.json")).unwrap()).unwrap()
}

fn cells(dir: &Path) -> Vec<String> {
    let text = fs::read_to_string(dir.join("cells.jsonl")).unwrap();
    text.lines().map(String::from).collect()
}

#[test]
fn a_dry_run_shows_loads_and_asks_nobody() {
    let dir = tempdir().unwrap();
    sweep("http://localhost:1")
        .current_dir(&dir)
        .arg("--dry-run")
        .assert()
        .success()
        .stdout(contains("11 cells").and(contains("closed loop, 64 clients")))
        .stdout(contains("Poisson, 110 % of capacity"));
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
}

#[test]
fn a_server_gets_the_whole_report() {
    let server = Server::start(Answer::whole);
    let dir = tempdir().unwrap();
    let out = dir.path().join("r");
    small(&server.url, &out)
        .args(["--api-key", "sk-secret", "--num-runs=2"])
        .assert()
        .success()
        .stderr(contains("prompts as ids").and(contains("cell 11/11")))
        .stdout(contains("Closed loop").and(contains("The client itself")))
        .stdout(contains("shares of the best request rate").and(contains("KV cache").not()))
        .stdout(contains("Expectations").not())
        .stdout(predicate::function(|text: &str| {
            // The command that measures again, wherever its lines are broken.
            let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
            words.contains("--target-model scripted --target-prompts ids --output-len 4")
        }))
        .stdout(predicate::function(|text: &str| {
            text.lines().all(|line| line.chars().count() <= 120)
        }));
    assert!(
        server
            .authorization()
            .iter()
            .all(|a| a.as_deref() == Some("Bearer sk-secret"))
    );
    let saved = report(&out);
    for file in ["report.json", "report.html", "cells.jsonl", "summary.csv"] {
        let text = fs::read_to_string(out.join(file)).unwrap();
        assert!(!text.contains("sk-secret"), "{file}");
    }
    assert!(saved["command"].as_array().unwrap().contains(&"…".into()));
    assert_eq!(
        (&saved["status"], &saved["config"]["model"]),
        (&"complete".into(), &"scripted".into())
    );
    assert!(saved["kv"].is_null() && saved["memory"].is_null() && saved["gpu"].is_null());
    let of_cell = |i: usize| &saved["cells"][i];
    assert_eq!(of_cell(5)["cell"]["load"]["closed"]["concurrency"], 64);
    assert!(of_cell(6)["request_rate"].as_f64().unwrap() > 0.0);
    let run = &of_cell(0)["runs"][0];
    assert_eq!(
        (
            &run["summary"]["completed"],
            &run["summary"]["output_tokens"]
        ),
        (&6.into(), &24.into())
    );
    assert!(run["client"]["cpu_s"].as_f64().unwrap() > 0.0);
    // What only an engine knows is not there, and not zero.
    for name in [
        "steps",
        "batches",
        "row_steps",
        "queue_ms",
        "kv_cache_usage_percent",
    ] {
        assert!(run["summary"][name].is_null(), "{name}");
    }
    let mut csv = csv::Reader::from_path(out.join("summary.csv")).unwrap();
    let header = csv.headers().unwrap().clone();
    let first = csv.records().next().unwrap().unwrap();
    let field = |name: &str| &first[header.iter().position(|h| h == name).unwrap()];
    for empty in [
        "max_batch_size",
        "steps",
        "preemptions_total",
        "gpu_power_w",
        "queue_ms_mean",
    ] {
        assert_eq!(field(empty), "", "{empty}");
    }
    for known in [
        "ttft_ms_mean",
        "client_busiest_thread_percent",
        "client_tokens_per_chunk",
    ] {
        assert!(field(known).parse::<f64>().unwrap() > 0.0, "{known}");
    }
    let page = fs::read_to_string(out.join("report.html")).unwrap();
    assert!(page.contains("Latency against clients") && page.contains("until the first token"));
    assert!(!page.contains("Expectations") && !page.contains("batch 0"));
    // The report again, from what is saved.
    let mut again = Command::cargo_bin("batchlab").unwrap();
    again
        .arg("report")
        .arg(&out)
        .assert()
        .success()
        .stdout(contains("server"));
}

/// A server may keep what it has computed of a prompt.
#[test]
fn random_prompts_never_come_again() {
    let server = Server::start(Answer::whole);
    let dir = tempdir().unwrap();
    for run in ["a", "b"] {
        small(&server.url, &dir.path().join(run))
            .args([
                "--input-len=20",
                "--num-runs=2",
                "--max-concurrency=1,2",
                "--load=closed",
            ])
            .assert()
            .success()
            .stderr(contains("come again").not());
    }
    let asked = server.asked();
    let prompts: Vec<String> = asked.iter().map(|a| a["prompt"].to_string()).collect();
    assert!(prompts.len() > 2 * 2 * 2 * 6, "{}", prompts.len());
    let different: std::collections::BTreeSet<_> = prompts.iter().collect();
    // But for the first contact's.
    assert_eq!(different.len(), prompts.len() - 1);
    let long = "a prompt ".repeat(20);
    small(&server.url, &dir.path().join("c"))
        .args(["--prompt", &long, "--load=closed"])
        .assert()
        .success()
        .stderr(contains("come again").and(contains("--no-enable-prefix-caching")));
}

#[test]
fn random_prompts_can_be_sent_as_text() {
    let server = Server::start(Answer::whole);
    let dir = tempdir().unwrap();
    small(&server.url, &dir.path().join("r"))
        .args(["--input-len=20", "--target-prompts=text", "--load=closed"])
        .assert()
        .success()
        .stderr(contains("prompts as text"));
    let texts = server.asked();
    assert!(
        texts
            .iter()
            .all(|asked| !asked["prompt"].as_str().unwrap().is_empty())
    );
}

#[test]
fn a_server_that_goes_away_costs_nothing_that_was_measured() {
    let here = Arc::new(AtomicBool::new(true));
    let (seen, count) = (
        Arc::clone(&here),
        Arc::new(std::sync::atomic::AtomicUsize::new(0)),
    );
    let server = Server::start(move |asked| {
        // The contact, the first cell and its warm-up.
        if count.fetch_add(1, Ordering::SeqCst) >= 1 + 1 + 6 && seen.load(Ordering::SeqCst) {
            return Answer::refusal(500, "it has crashed");
        }
        Answer::whole(asked)
    });
    let dir = tempdir().unwrap();
    let out = dir.path().join("r");
    let loads = ["--max-concurrency=1,2", "--num-warmups=1"];
    small(&server.url, &out)
        .args(loads)
        .assert()
        .code(6)
        .stdout(contains("Closed loop"))
        .stderr(contains("it has crashed").and(contains("--resume")));
    let kept = cells(&out);
    assert_eq!(
        (kept.len(), &report(&out)["status"]),
        (1, &"interrupted".into())
    );

    small(&server.url, &out)
        .args(loads)
        .args(["--resume", "--target-model=other"])
        .assert()
        .code(6);
    here.store(false, Ordering::SeqCst);
    small(&server.url, &out)
        .args(loads)
        .args(["--resume", "--target-model=other"])
        .assert()
        .code(2)
        .stderr(contains("model is \"other\", was \"scripted\""));
    small(&server.url, &out)
        .args(loads)
        .arg("--resume")
        .assert()
        .success()
        .stderr(contains("cell 2/2").and(contains("cell 1/2").not()));
    assert_eq!(cells(&out)[0], kept[0]);
    assert_eq!(cells(&out).len(), 2);
}

#[test]
fn rejected_requests_count_against_goodput() {
    let count = std::sync::atomic::AtomicUsize::new(0);
    let server = Server::start(
        move |asked| match count.fetch_add(1, Ordering::SeqCst) % 2 {
            0 => Answer::whole(asked),
            _ => Answer::refusal(429, "the queue is full"),
        },
    );
    let dir = tempdir().unwrap();
    let out = dir.path().join("r");
    small(&server.url, &out)
        .args(["--request-rate=200", "--goodput", "e2el:1000"])
        .assert()
        .success()
        .stdout(contains("timed out, were rejected or failed"))
        .stdout(contains("% of the requests failed"))
        .stdout(contains("the queue is full"));
    let summary = &report(&out)["cells"][0]["runs"][0]["summary"];
    assert_eq!(
        (&summary["completed"], &summary["failed"]),
        (&3.into(), &3.into())
    );
}

#[test]
fn what_cannot_be_is_one_clear_line() {
    let nobody = "http://127.0.0.1:1";
    let cases: [(&str, &[&str], i32, &str); 13] = [
        (nobody, &[], 6, "start the server"),
        ("localhost:8000", &[], 2, "http://localhost:8000"),
        ("http://u:p@localhost", &[], 2, "--api-key"),
        (nobody, &["--policies=static"], 2, "--policies"),
        (nobody, &["--batch-sizes=1"], 2, "--batch-sizes"),
        (nobody, &["--windows-ms=1"], 2, "--windows-ms"),
        (nobody, &["--padding=ragged"], 2, "--padding"),
        (nobody, &["--experiment=saturation"], 2, "--experiment"),
        (nobody, &["--kv-cache-memory=1GiB"], 2, "--kv-cache-memory"),
        (nobody, &["--max-queue-size=1"], 2, "--max-queue-size"),
        (nobody, &["--load=day2"], 2, "--load day2"),
        (nobody, &["--max-concurrency=0"], 2, "--max-concurrency: 0"),
        (
            nobody,
            &["--max-concurrency=2", "--request-rate=1"],
            2,
            "give one of them",
        ),
    ];
    let dir = tempdir().unwrap();
    for (url, args, code, names) in cases {
        sweep(url)
            .current_dir(&dir)
            .args(args)
            .assert()
            .code(code)
            .stdout("")
            .stderr(contains(names).and(predicate::function(|text: &str| {
                text.trim_end().lines().count() == 1
            })));
    }
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
    let mut without = Command::cargo_bin("batchlab").unwrap();
    without
        .args(["sweep", "--target-model=x"])
        .assert()
        .code(2)
        .stderr(contains("--target"));
    let mut several = Command::cargo_bin("batchlab").unwrap();
    several
        .args(["sweep", "--max-concurrency=1,2"])
        .assert()
        .code(2)
        .stderr(contains("only with --target"));
}
