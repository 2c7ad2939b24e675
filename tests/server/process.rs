//! A server of a test's own: the binary, its address, its log, its end.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::client::{self, Answer, Stream};

/// Nothing here takes that long, however busy the machine is.
const FOREVER: Duration = Duration::from_secs(120);

pub struct Served {
    child: Child,
    log: Option<JoinHandle<String>>,
    pub address: SocketAddr,
}

/// `batchlab serve` on a CPU; port 0 is any free one.
pub fn command(port: u16, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_batchlab"));
    command.args(["serve", "--device=cpu", "--port"]);
    command.arg(port.to_string()).args(args);
    command.env_remove("BATCHLAB_API_KEY");
    command
}

/// SIGTERM.
pub fn terminate(server: &Child) {
    let id = server.id().to_string();
    let sent = Command::new("kill").args(["-TERM", &id]).status();
    assert!(sent.unwrap().success());
}

impl Served {
    /// Returns when the server is ready.
    pub fn start(args: &[&str]) -> Self {
        let mut child = command(0, args).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap());
        let mut log = String::new();
        let address = loop {
            let from = log.len();
            assert_ne!(lines.read_line(&mut log).unwrap(), 0, "it ended: {log}");
            if let Some((_, address)) = log[from..].split_once("http://") {
                let end = address.find(|c: char| !c.is_ascii_digit() && c != '.' && c != ':');
                break address[..end.unwrap()].parse().unwrap();
            }
        };
        let rest = move || {
            lines.read_to_string(&mut log).unwrap();
            log
        };
        Self {
            child,
            log: Some(std::thread::spawn(rest)),
            address,
        }
    }

    pub fn get(&self, path: &str) -> Answer {
        client::send(self.address, "GET", path, "", b"")
    }

    pub fn post(&self, path: &str, body: &Value) -> Answer {
        client::send(self.address, "POST", path, "", body.to_string().as_bytes())
    }

    /// An answer with status 200.
    pub fn complete(&self, body: &Value) -> Value {
        let answer = self.post("/v1/completions", body);
        assert_eq!(answer.status, 200, "{body}: {}", answer.text());
        answer.json()
    }

    /// An answer that comes in events, by its first bytes.
    pub fn stream(&self, path: &str, body: &Value) -> Stream {
        let mut body = body.clone();
        body["stream"] = true.into();
        Stream::open(self.address, "POST", path, "", body.to_string().as_bytes())
    }

    /// A sample of /metrics by its name, without `batchlab_`; none before the first.
    pub fn metric(&self, name: &str) -> Option<f64> {
        let text = self.get("/metrics").text();
        let of = |line: &str| {
            line.strip_prefix("batchlab_")?
                .strip_prefix(name)?
                .trim()
                .parse()
                .ok()
        };
        text.lines().find_map(of)
    }

    /// Waits for a sample to have this value.
    pub fn wait_for(&self, name: &str, value: f64) {
        self.wait_until(name, |now| now == Some(value));
    }

    /// Waits for a sample to be as it should.
    pub fn wait_until(&self, name: &str, is_it: impl Fn(Option<f64>) -> bool) {
        let begin = Instant::now();
        loop {
            let now = self.metric(name);
            if is_it(now) {
                return;
            }
            assert!(begin.elapsed() < FOREVER, "{name} stays {now:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// SIGTERM.
    pub fn terminate(&self) {
        terminate(&self.child);
    }

    /// Its exit code and whole log, when it has ended by itself.
    pub fn ended(mut self) -> (Option<i32>, String) {
        let begin = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(begin.elapsed() < FOREVER, "it does not end");
            std::thread::sleep(Duration::from_millis(5));
        };
        (status.code(), self.log.take().unwrap().join().unwrap())
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
