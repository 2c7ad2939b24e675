//! A client that goes away leaves nothing behind.

use std::io::Write;
use std::net::Shutdown;

use serde_json::json;

use crate::client::{connect, head};
use crate::process::Served;

const PATH: &str = "/v1/completions";

fn free(served: &Served, cancelled: f64) {
    served.wait_for("requests_total{reason=\"cancelled\"}", cancelled);
    for name in ["requests_running", "requests_waiting", "kv_pages_used"] {
        assert_eq!(served.metric(name), Some(0.0), "{name}");
    }
}

#[test]
fn who_leaves_frees_rows_and_pages() {
    let served = Served::start(&["--model=dummy:gpt2"]);
    let ask = json!({"prompt": [1, 2, 3], "max_tokens": 1000, "ignore_eos": true, "n": 2});
    // In the middle of a stream.
    let mut stream = served.stream(PATH, &ask);
    assert!(stream.event().is_some());
    served.wait_for("requests_running", 2.0);
    assert!(served.metric("kv_pages_used") > Some(0.0));
    drop(stream);
    free(&served, 2.0);

    // Before a whole answer.
    let body = ask.to_string();
    let mut waiting = connect(served.address);
    let head = head("POST", PATH, &format!("content-length: {}\r\n", body.len()));
    waiting
        .write_all(format!("{head}{body}").as_bytes())
        .unwrap();
    served.wait_for("requests_running", 2.0);
    waiting.shutdown(Shutdown::Both).unwrap();
    free(&served, 4.0);

    served.terminate();
    let (code, log) = served.ended();
    assert_eq!(code, Some(0), "nothing is left to drain: {log}");
    assert_eq!(log.matches("client_gone").count(), 2, "{log}");
}

/// A line's end or a second request may lie unread while the answer is under way.
#[test]
fn who_leaves_after_sending_more_frees_rows_too() {
    let served = Served::start(&["--model=dummy:gpt2"]);
    let more = ["\r\n".to_owned(), head("GET", "/health", "")];
    for (gone, more) in (1..).zip(&more) {
        let ask = json!({"prompt": [1], "max_tokens": 1000, "ignore_eos": true}).to_string();
        let head = head("POST", PATH, &format!("content-length: {}\r\n", ask.len()));
        let mut leaving = connect(served.address);
        leaving
            .write_all(format!("{head}{ask}{more}").as_bytes())
            .unwrap();
        served.wait_for("requests_running", 1.0);
        leaving.shutdown(Shutdown::Write).unwrap();
        free(&served, f64::from(gone));
    }
}

/// In the queue, before it has a row.
#[test]
fn who_leaves_the_queue_frees_his_place() {
    let served = Served::start(&[
        "--policy=static",
        "--max-batch-size=2",
        "--max-queue-size=0",
    ]);
    for gone in 1..=3 {
        let stream = connect(served.address);
        let body = json!({"prompt": "a"}).to_string();
        let head = head("POST", PATH, &format!("content-length: {}\r\n", body.len()));
        (&stream)
            .write_all(format!("{head}{body}").as_bytes())
            .unwrap();
        served.wait_for("requests_waiting", 1.0);
        drop(stream);
        free(&served, f64::from(gone));
    }
    let two = json!({"prompt": "a", "n": 2, "max_tokens": 1});
    assert_eq!(served.post(PATH, &two).status, 200);
}
