//! From its start to its end.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

use serde_json::{Value, json};

use crate::client::{Stream, connect, head};
use crate::process::{Served, command};

const PATH: &str = "/v1/completions";

#[test]
fn what_runs_ends_and_nothing_new_is_accepted() {
    let served = Served::start(&["--drain-timeout=100000"]);
    let ask = json!({"prompt": "HAMLET:", "max_tokens": 400, "temperature": 0, "ignore_eos": true});
    let mut stream = served.stream(PATH, &ask);
    assert!(stream.event().is_some());
    served.terminate();
    while TcpStream::connect(served.address).is_ok() {
        thread::yield_now();
    }
    let events = stream.events();
    assert_eq!(
        events.last().unwrap()["choices"][0]["finish_reason"],
        "length"
    );
    let (code, log) = served.ended();
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("shutting down"), "{log}");
}

/// A batch that waits to be full leaves as it is.
#[test]
fn what_waits_is_let_go() {
    let served = Served::start(&[
        "--policy=static",
        "--max-batch-size=4",
        "--drain-timeout=100000",
    ]);
    thread::scope(|scope| {
        let held = scope.spawn(|| {
            served
                .post(PATH, &json!({"prompt": "a", "max_tokens": 2}))
                .status
        });
        served.wait_for("requests_waiting", 1.0);
        served.terminate();
        assert_eq!(held.join().unwrap(), 200);
    });
    assert_eq!(served.ended().0, Some(0));
}

#[test]
fn what_does_not_end_in_time_is_cut_off() {
    let served = Served::start(&["--model=dummy:gpt2", "--drain-timeout=0"]);
    let ask = json!({"prompt": [1], "max_tokens": 1000, "ignore_eos": true});
    let mut stream = served.stream(PATH, &ask);
    assert!(stream.event().is_some());
    served.terminate();
    let mut last = String::new();
    while let Some(event) = stream.event() {
        last = event;
    }
    let last: Value = serde_json::from_str(&last).unwrap();
    assert_eq!(last["error"]["type"], "service_unavailable_error", "{last}");
    let (code, log) = served.ended();
    assert_eq!(code, Some(7), "{log}");
    assert!(log.contains("within 0 s (--drain-timeout)"), "{log}");
}

#[test]
fn clients_that_ask_nothing_hold_nothing_up() {
    let served = Served::start(&["--drain-timeout=100000"]);
    let silent = connect(served.address);
    let mut half_a_head = connect(served.address);
    half_a_head.write_all(b"GET /heal").unwrap();
    let mut half_a_body = connect(served.address);
    let expecting = "content-length: 100\r\nexpect: 100-continue\r\n";
    let head = head("POST", PATH, expecting);
    half_a_body.write_all(head.as_bytes()).unwrap();
    // It is being read.
    let mut goes_on = [0; 25];
    half_a_body.read_exact(&mut goes_on).unwrap();
    assert_eq!(&goes_on, b"HTTP/1.1 100 Continue\r\n\r\n");
    half_a_body.write_all(b"{").unwrap();
    let mut watching = connect(served.address);
    watching
        .write_all(b"GET /live HTTP/1.1\r\nhost: test\r\n\r\n")
        .unwrap();
    assert!(watching.read(&mut [0]).unwrap() > 0);
    served.wait_for("connections", 5.0);
    served.terminate();
    // The request of which half is here was not accepted.
    let refused = Stream::read(half_a_body).whole();
    assert_eq!(refused.status, 503);
    assert_eq!(refused.error()["type"], "service_unavailable_error");
    assert!(refused.header("retry-after").is_some());
    let (code, log) = served.ended();
    assert_eq!(code, Some(0), "{log}");
    drop((silent, half_a_head, watching));
}

#[test]
fn a_port_in_use_is_told() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let output = command(port, &[]).output().unwrap();
    assert_eq!(output.status.code(), Some(7));
    let log = String::from_utf8(output.stderr).unwrap();
    let error = log
        .lines()
        .find(|line| line.starts_with("error: "))
        .unwrap();
    assert!(error.contains("give another --port"), "{log}");
}

#[test]
fn each_request_is_one_line_of_json() {
    let served = Served::start(&["--log-format=json"]);
    let body = json!({"prompt": "a b c", "max_tokens": 3, "ignore_eos": true, "n": 2});
    assert_eq!(served.post(PATH, &body).status, 200);
    assert_eq!(served.post(PATH, &json!({"prompt": 7})).status, 400);
    served.terminate();
    let (code, log) = served.ended();
    assert_eq!(code, Some(0));
    let lines = log
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect(line));
    let requests: Vec<Value> = lines.filter(|line| line["message"] == "request").collect();
    let [request, refused] = &requests[..] else {
        panic!("{log}");
    };
    assert_eq!(request["outcome"], "complete");
    assert_eq!(request["prompt_tokens"], 3);
    assert_eq!(request["output_tokens"], 6);
    for time in ["queue_ms", "ttft_ms", "e2el_ms"] {
        assert!(request[time].as_f64().unwrap() >= 0.0, "{request}");
    }
    assert_eq!(refused["outcome"], "refused");
    assert_eq!(refused["status"], 400);
    assert_eq!(refused["path"], PATH);
    assert!(
        refused["cause"].as_str().unwrap().contains("prompt"),
        "{refused}"
    );
}
