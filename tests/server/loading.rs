//! What a server answers while its model loads.

use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;
use std::sync::mpsc;
use std::time::Duration;

use serde_json::json;

use crate::client::{connect, send};
use crate::process::{command, terminate};
use crate::serving::{Serving, cpu_runner, engine};

const LONG: Duration = Duration::from_secs(600);

#[test]
fn a_server_that_loads_is_there_and_not_ready() {
    let (loaded, loads) = mpsc::channel();
    let serving = Serving::start(LONG, move |model| {
        loads.recv().unwrap();
        Ok(engine(cpu_runner(model)?))
    });
    let address = serving.address;
    let ask = json!({"prompt": "a", "n": 2, "max_tokens": 1}).to_string();
    let complete = || send(address, "POST", "/v1/completions", "", ask.as_bytes());
    assert_eq!(send(address, "GET", "/health", "", b"").status, 200);
    let others = ["/ready", "/metrics", "/v1/models", "/"];
    let others = others.map(|path| send(address, "GET", path, "", b""));
    for answer in others.into_iter().chain([complete()]) {
        assert_eq!(answer.status, 503);
        assert_eq!(answer.header("retry-after"), Some("1"));
        let error = answer.error();
        assert_eq!(error["type"], "service_unavailable_error");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains("is being loaded"), "{error}");
    }
    let _silent: Vec<_> = (0..10).map(|_| connect(address)).collect();
    loaded.send(()).unwrap();
    let serving = serving.ready();
    assert_eq!(complete().status, 200);
    serving.stop.unwrap().send(()).unwrap();
    serving.served.join().unwrap().unwrap();
}

#[test]
fn a_signal_ends_a_server_that_loads() {
    // Its weights take seconds.
    let mut server = command(0, &["--model=dummy:gpt2-xl", "--max-num-seqs=1"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(server.stderr.take().unwrap());
    let mut log = String::new();
    while !log.contains("loading dummy:gpt2-xl") {
        assert_ne!(lines.read_line(&mut log).unwrap(), 0, "it ended: {log}");
    }
    terminate(&server);
    lines.read_to_string(&mut log).unwrap();
    assert_eq!(server.wait().unwrap().code(), Some(0), "{log}");
    assert!(!log.contains("listening"), "{log}");
}
