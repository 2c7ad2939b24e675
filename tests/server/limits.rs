//! What a server lets nobody have: too much, too long, too many, or without the key.

use std::io::Write;
use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::client::{Stream, connect, head, send};
use crate::process::{Served, command};

const PATH: &str = "/v1/completions";

#[test]
fn the_api_needs_its_key() {
    let served = Served::start(&["--api-key=secret"]);
    let ask = |headers: &str| {
        let body = br#"{"prompt": "a", "max_tokens": 1}"#;
        send(served.address, "POST", PATH, headers, body)
    };
    for headers in [
        "",
        "authorization: Bearer wrong\r\n",
        "authorization: Bearer secret2\r\n",
        "authorization: Bearer\r\n",
        "authorization: secret\r\n",
        "authorization: Basic secret\r\n",
        "authorization: Béarer secret\r\n",
    ] {
        let answer = ask(headers);
        assert_eq!(answer.status, 401, "{headers}");
        let error = answer.error();
        assert_eq!(error["type"], "authentication_error");
        assert_eq!(error["code"], "invalid_api_key");
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
    }
    assert_eq!(served.get("/v1/models").status, 401);
    assert_eq!(ask("authorization: Bearer secret\r\n").status, 200);
    assert_eq!(ask("authorization: bearer secret\r\n").status, 200);
    // Those who watch over it need none.
    for path in ["/health", "/ready", "/metrics", "/"] {
        assert_eq!(served.get(path).status, 200, "{path}");
    }
}

#[test]
fn a_body_too_large_is_refused_before_it_comes() {
    let served = Served::start(&["--max-body-size=1KiB"]);
    let check = |answer: Stream| {
        let answer = answer.whole();
        assert_eq!(answer.status, 413);
        let error = answer.error();
        assert_eq!(error["type"], "invalid_request_error");
        assert!(
            error["message"]
                .as_str()
                .unwrap()
                .contains("1024 bytes (--max-body-size)")
        );
    };
    // Told, and never sent.
    let mut stream = connect(served.address);
    stream
        .write_all(head("POST", PATH, "content-length: 1025\r\n").as_bytes())
        .unwrap();
    check(Stream::read(stream));
    // Not told.
    let mut stream = connect(served.address);
    let chunked = head("POST", PATH, "transfer-encoding: chunked\r\n");
    stream.write_all(chunked.as_bytes()).unwrap();
    let chunk = format!("300\r\n{}\r\n", "a".repeat(0x300));
    stream.write_all(chunk.repeat(2).as_bytes()).unwrap();
    check(Stream::read(stream));

    let mut fits = br#"{"prompt": "a", "max_tokens": 1}"#.to_vec();
    fits.resize(1024, b' ');
    assert_eq!(send(served.address, "POST", PATH, "", &fits).status, 200);
}

/// Before anything is generated.
#[test]
fn an_answer_that_would_be_too_large_is_refused_by_its_fields() {
    let served = Served::start(&[]);
    let ask = |max_tokens: usize, logprobs: usize| {
        let body = json!({
            "prompt": "a", "n": 128, "max_tokens": max_tokens, "logprobs": logprobs, "ignore_eos": true,
        });
        served.post(PATH, &body)
    };
    let refused = ask(480, 20);
    assert_eq!(refused.status, 400);
    let error = refused.error();
    assert_eq!(error["param"], "logprobs");
    let message = error["message"].as_str().unwrap();
    assert!(
        message.contains("lower 'n', 'max_tokens' or 'logprobs'"),
        "{error}"
    );
    assert_eq!(ask(1, 20).status, 200);
    assert_eq!(
        served.metric("requests_total{reason=\"length\"}"),
        Some(128.0)
    );
}

#[test]
fn a_flood_of_headers_is_refused() {
    let served = Served::start(&[]);
    let status = |headers: &str| send(served.address, "GET", "/health", headers, b"").status;
    assert_eq!(status(&"x: 1\r\n".repeat(90)), 200);
    assert_eq!(status(&"x: 1\r\n".repeat(200)), 431);
    assert_eq!(status(&format!("x: {}\r\n", "a".repeat(200_000))), 431);
    let path = format!("/{}", "a".repeat(100_000));
    assert_eq!(send(served.address, "GET", &path, "", b"").status, 414);
    assert_eq!(served.get("/health").status, 200);
}

#[test]
fn a_request_that_takes_too_long_ends() {
    // Alone in a static batch it waits for ever.
    let served = Served::start(&["--policy=static", "--max-batch-size=2", "--timeout-ms=200"]);
    let body = json!({"prompt": "a", "max_tokens": 1});
    for answer in [served.post(PATH, &body), served.stream(PATH, &body).whole()] {
        assert_eq!(answer.status, 504);
        let error = answer.error();
        assert_eq!(error["type"], "timeout_error");
        assert_eq!(error["code"], "timeout");
        assert!(
            error["message"]
                .as_str()
                .unwrap()
                .contains("0.2 s (--timeout-ms)")
        );
    }
    served.wait_for("requests_total{reason=\"timed_out\"}", 2.0);
    served.wait_for("requests_waiting", 0.0);
}

/// Answers one after another, more than any machine has in time.
#[test]
fn a_stream_that_takes_too_long_ends_with_the_error() {
    let served = Served::start(&["--max-num-seqs=1", "--timeout-ms=1000"]);
    let ask = json!({"prompt": "a", "n": 128, "max_tokens": 500, "ignore_eos": true});
    let answer = served.stream(PATH, &ask).whole();
    // Where the machine was held up for all that time, the answer is the error alone.
    assert!([200, 504].contains(&answer.status));
    let text = answer.text();
    let last = text.trim_end().lines().last().unwrap();
    let last = last.strip_prefix("data: ").unwrap_or(last);
    let last: serde_json::Value = serde_json::from_str(last).unwrap();
    assert_eq!(last["error"]["code"], "timeout", "{last}");
    served.wait_for("kv_pages_used", 0.0);
}

#[test]
fn more_than_there_are_places_for_come_again_later() {
    // A batch leaves when three are there, and none waits beside it.
    let served = Served::start(&[
        "--policy=static",
        "--max-batch-size=3",
        "--max-queue-size=0",
    ]);
    let ask = |n: usize| {
        let body = json!({"prompt": "a", "max_tokens": 2, "n": n, "ignore_eos": true});
        served.post(PATH, &body)
    };
    thread::scope(|scope| {
        let held = scope.spawn(|| ask(2));
        served.wait_for("requests_waiting", 2.0);
        let refused = ask(2);
        assert_eq!(refused.status, 429);
        let wait: u32 = refused.header("retry-after").unwrap().parse().unwrap();
        assert!(wait >= 1);
        let error = refused.error();
        assert_eq!(error["type"], "rate_limit_error");
        assert_eq!(error["code"], "queue_full");
        // More than ever will fit is another error.
        assert_eq!(ask(4).status, 400);
        assert_eq!(ask(1).status, 200);
        assert_eq!(held.join().unwrap().status, 200);
    });
}

#[test]
fn more_connections_than_allowed_wait() {
    let served = Served::start(&["--max-connections=2"]);
    let idle = [connect(served.address), connect(served.address)];
    thread::scope(|scope| {
        let third = scope.spawn(|| served.get("/health").status);
        thread::sleep(Duration::from_millis(200));
        assert!(!third.is_finished());
        drop(idle);
        assert_eq!(third.join().unwrap(), 200);
    });
}

#[test]
fn impossible_options_are_told_in_one_line() {
    for (args, message) in [
        (&["--max-model-len=513"][..], "context of"),
        (
            &["--policy=static", "--max-queue-delay-ms=5"],
            "--max-queue-delay-ms is for",
        ),
        (&["--timeout-ms=0"], "above 0"),
        (&["--api-key="], "--api-key"),
        (&["--chat-template=/nowhere"], "/nowhere"),
        (&["--model=/nowhere"], "/nowhere"),
        (&["--host=256.0.0.1"], "256.0.0.1"),
    ] {
        let output = command(0, args).output().unwrap();
        assert!(!output.status.success());
        let log = String::from_utf8(output.stderr).unwrap();
        assert!(log.contains(message), "{args:?}: {log}");
        assert!(!log.contains("panicked"), "{log}");
    }
}
