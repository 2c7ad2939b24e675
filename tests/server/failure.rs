//! An engine that fails ends every request with the cause, and the server.

use std::net::TcpStream;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use batchlab::kv::KvLayout;
use batchlab::metrics::Ceilings;
use batchlab::model::Model;
use batchlab::plan::{StepOutput, StepPlan};
use batchlab::runner::cpu::CpuRunner;
use batchlab::runner::{Dtype, Limits, MemoryUse, Runner, RunnerError};
use serde_json::{Value, json};

use crate::client::{Stream, send};
use crate::serving::{Serving, cpu_runner, engine};

const PATH: &str = "/v1/completions";
const LONG: Duration = Duration::from_secs(600);
/// A step that both requests of a test, which are one batch, have begun by.
const BAD_STEP: usize = 20;

/// A CPU runner that takes so many steps and no more.
struct Failing {
    inner: CpuRunner,
    steps: usize,
    how: How,
}

type How = Box<dyn FnMut() -> RunnerError + Send>;

impl Runner for Failing {
    fn describe(&self) -> String {
        self.inner.describe()
    }
    fn dtype(&self) -> Dtype {
        self.inner.dtype()
    }
    fn limits(&self) -> Limits {
        self.inner.limits()
    }
    fn kv_layout(&self) -> KvLayout {
        self.inner.kv_layout()
    }
    fn kv_pages(&self) -> usize {
        self.inner.kv_pages()
    }
    fn memory(&self) -> MemoryUse {
        self.inner.memory()
    }
    fn measure_ceilings(&mut self) -> Result<Ceilings, RunnerError> {
        self.inner.measure_ceilings()
    }
    fn submit(&mut self, plan: &StepPlan) -> Result<(), RunnerError> {
        self.steps += 1;
        match self.steps == BAD_STEP {
            true => Err((self.how)()),
            false => self.inner.submit(plan),
        }
    }
    fn collect(&mut self) -> Result<StepOutput, RunnerError> {
        self.inner.collect()
    }
    fn logits(&mut self) -> Result<Vec<f32>, RunnerError> {
        self.inner.logits()
    }
}

fn device_error() -> RunnerError {
    RunnerError::Device {
        device: "GPU 0".into(),
        call: "cuStreamSynchronize".into(),
        cause: "an illegal memory access was encountered".into(),
    }
}

/// A server whose engine fails.
fn start(drain_timeout: Duration, how: How) -> Serving {
    let set_up = move |model: &Model| {
        Ok(engine(Failing {
            inner: cpu_runner(model)?,
            steps: 0,
            how,
        }))
    };
    Serving::start(drain_timeout, set_up).ready()
}

fn is_told(error: &Value, cause: &str) {
    assert_eq!(error["type"], "server_error", "{error}");
    assert_eq!(error["code"], "engine_failed");
    let message = error["message"].as_str().unwrap();
    assert!(message.contains(cause), "{error}");
}

/// The last event of a stream is its error.
fn ends_with(mut stream: Stream, cause: &str) {
    let mut last = String::new();
    while let Some(event) = stream.event() {
        last = event;
    }
    let last: Value = serde_json::from_str(&last).unwrap();
    is_told(&last["error"], cause);
}

fn check(how: fn() -> RunnerError, cause: &str) {
    let serving = start(LONG, Box::new(how));
    thread::scope(|scope| {
        scope.spawn(|| ends_with(serving.stream(), cause));
        let body = json!({"prompt": "a", "max_tokens": 500, "ignore_eos": true}).to_string();
        let whole = send(serving.address, "POST", PATH, "", body.as_bytes());
        assert_eq!(whole.status, 500);
        is_told(&whole.error(), cause);
    });
    serving.ended(cause);
}

/// A server that is told to end while the step of its two streams is under way, which then goes on as `how`
/// says.
fn check_stopped(how: impl FnOnce() -> RunnerError + Send + 'static, cause: &str) {
    let (begun, begins) = mpsc::channel();
    let (resume, resumed) = mpsc::channel();
    let mut how = Some(how);
    let how = move || {
        begun.send(()).unwrap();
        resumed.recv().unwrap();
        how.take().unwrap()()
    };
    let mut serving = start(Duration::ZERO, Box::new(how));
    let stop = serving.stop.take().unwrap();
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| ends_with(serving.stream(), cause));
        }
        begins.recv().unwrap();
        stop.send(()).unwrap();
        while TcpStream::connect(serving.address).is_ok() {
            thread::yield_now();
        }
        resume.send(()).unwrap();
    });
    serving.ended(cause);
}

#[test]
fn a_device_error_is_told_to_everyone() {
    check(
        device_error,
        "GPU 0: cuStreamSynchronize failed: an illegal memory access",
    );
}

#[test]
fn a_panic_is_told_to_everyone() {
    check(|| panic!("a bug"), "the engine panicked: a bug");
}

#[test]
fn a_failure_while_the_server_ends_is_told() {
    check_stopped(device_error, "cuStreamSynchronize failed");
}

#[test]
fn a_step_that_hangs_holds_the_end_up_for_a_moment_only() {
    let hangs = || loop {
        thread::park();
    };
    check_stopped(hangs, "has not come back from its step");
}

#[test]
fn a_runner_that_cannot_be_opened_is_the_servers_error() {
    let unopened = |_: &Model| Err(RunnerError::Unavailable("no such device".into()).into());
    let error = Serving::start(LONG, unopened).served.join().unwrap();
    assert_eq!(error.unwrap_err().to_string(), "no such device");
}
