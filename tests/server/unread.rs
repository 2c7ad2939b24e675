//! Answers of which nothing is read: they stand still once the system buffers enough of them.

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::client::{Stream, connect, head, texts};
use crate::process::Served;
use crate::spelled;

const PATH: &str = "/v1/completions";
/// All that a request may have.
const CHOICES: usize = 128;
/// Bytes of its text.
const LONG_TOKEN: usize = 5000;

/// A small model with a token of much text.
fn model() -> TempDir {
    let folder = spelled::model();
    let file = folder.path().join("tokenizer.json");
    let mut tokenizer: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let vocab = tokenizer["model"]["vocab"].as_object_mut().unwrap();
    let id = vocab.remove("a").unwrap();
    vocab.insert("a".repeat(LONG_TOKEN), id);
    fs::write(file, tokenizer.to_string()).unwrap();
    folder
}

fn start(model: &TempDir, args: &[&str]) -> Served {
    let model = model.path().to_str().unwrap();
    Served::start(&[&["--model", model], args].concat())
}

/// Asks for some 64 MB: prompts of few tokens and much text come back with the answer.
fn ask(served: &Served, max_tokens: usize, stream: bool) -> TcpStream {
    let body = json!({
        "prompt": vec![b'a'; 100], "n": CHOICES, "echo": true, "max_tokens": max_tokens,
        "stream": stream, "ignore_eos": true,
    });
    let body = body.to_string();
    let mut unread = connect(served.address);
    let head = head("POST", PATH, &format!("content-length: {}\r\n", body.len()));
    unread
        .write_all(format!("{head}{body}").as_bytes())
        .unwrap();
    unread
}

#[test]
fn an_echo_that_would_be_too_large_is_refused() {
    let model = model();
    let served = start(&model, &[]);
    let body = json!({"prompt": vec![b'a'; 200], "n": CHOICES, "echo": true, "max_tokens": 1});
    let refused = served.post(PATH, &body);
    assert_eq!(
        (refused.status, &refused.error()["param"]),
        (400, &"echo".into())
    );
}

#[test]
fn a_stream_ends_in_time() {
    let model = model();
    let served = start(&model, &["--timeout-ms=200", "--max-num-seqs=1"]);
    let unread = ask(&served, 400, true);
    // It has begun.
    unread.peek(&mut [0]).unwrap();
    let name = |reason| format!("requests_total{{reason=\"{reason}\"}}");
    served.wait_until(&name("timed_out"), |count| count.is_some());
    // No more come, so that the first is not 0 for a moment only.
    served.wait_for("requests_waiting", 0.0);
    served.wait_for("requests_running", 0.0);
    // Those that had time enough are counted when nobody can hear of them any more.
    drop(unread);
    let ended = |reason| served.metric(&name(reason)).unwrap_or(0.0);
    served.wait_until(&name("timed_out"), |late| {
        late.unwrap_or(0.0) + ended("length") == CHOICES as f64
    });
    assert_eq!(ended("cancelled"), 0.0);
}

#[test]
fn the_end_of_the_server_waits_until_an_answer_is_read() {
    let model = model();
    let served = start(&model, &["--drain-timeout=100000"]);
    let unread = ask(&served, 1, false);
    served.wait_for("requests_total{reason=\"length\"}", CHOICES as f64);
    served.terminate();
    // Longer than last words get.
    thread::sleep(Duration::from_secs(2));
    let whole = Stream::read(unread).whole();
    assert_eq!((whole.status, texts(&whole.json()).len()), (200, CHOICES));
    let (code, log) = served.ended();
    assert_eq!(code, Some(0), "{log}");
}

#[test]
fn an_answer_that_is_cut_off_is_told() {
    let model = model();
    let served = start(&model, &["--drain-timeout=0"]);
    let unread = ask(&served, 1, false);
    served.wait_for("requests_total{reason=\"length\"}", CHOICES as f64);
    served.terminate();
    let (code, log) = served.ended();
    assert_eq!(code, Some(7), "{log}");
    let cause = "not all of their answers were read within 0 s (--drain-timeout)";
    assert!(log.contains(cause), "{log}");
    drop(unread);
}
