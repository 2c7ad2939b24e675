//! An engine that fails ends every request with the cause, and the server.

use std::future;
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use batchlab::Error;
use batchlab::batching::Static;
use batchlab::engine::EngineConfig;
use batchlab::kv::KvLayout;
use batchlab::metrics::Ceilings;
use batchlab::model::Model;
use batchlab::plan::{StepOutput, StepPlan};
use batchlab::runner::cpu::CpuRunner;
use batchlab::runner::{
    CublasLt, Dtype, KvBudget, Limits, MemoryUse, Runner, RunnerError, RunnerOptions,
};
use batchlab::scheduler::Padding;
use batchlab::server::{EngineSetup, ServeOptions, Server};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::client::{Stream, send};

const PATH: &str = "/v1/completions";
const LONG: Duration = Duration::from_secs(600);
const LIMITS: Limits = Limits {
    max_rows: 4,
    max_tokens: 64,
    max_kv_len: 512,
};
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

fn set_up(model: &Model, how: How) -> Result<EngineSetup, Error> {
    let options = RunnerOptions {
        dtype: None,
        page_size: 32,
        kv: KvBudget::Utilization(0.9),
        limits: LIMITS,
        cublaslt: CublasLt::Off,
    };
    Ok(EngineSetup {
        runner: Box::new(Failing {
            inner: CpuRunner::new(model, &options)?,
            steps: 0,
            how,
        }),
        config: EngineConfig {
            policy: Box::new(Static { batch_size: 2 }),
            padding: Padding::Ragged,
            max_queue_size: 16,
            max_positions: LIMITS.max_kv_len,
        },
    })
}

fn options(drain_timeout: Duration) -> ServeOptions {
    ServeOptions {
        model_name: "failing".into(),
        policy: "static".into(),
        chat_template: None,
        api_key: None,
        max_queue_size: 16,
        timeout: Duration::from_secs(600),
        drain_timeout,
        max_body_size: 1 << 20,
        max_connections: 16,
    }
}

/// A server in this process, until its engine fails.
struct Serving {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    served: JoinHandle<Result<(), Error>>,
}

impl Serving {
    fn start(drain_timeout: Duration, how: How) -> Self {
        let (told, address) = mpsc::channel();
        let (stop, stopped) = oneshot::channel();
        let served = thread::spawn(move || {
            let model = Arc::new(Model::open(None)?);
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(async {
                let (of, options) = (Arc::clone(&model), options(drain_timeout));
                let set_up = move || set_up(&of, how);
                let server = Server::start(("127.0.0.1", 0), model, options, set_up).await?;
                told.send(server.address()).unwrap();
                let stopped = async {
                    // An error: nobody will stop it.
                    if stopped.await.is_err() {
                        future::pending().await
                    }
                };
                server.run(stopped).await
            })
        });
        Self {
            address: address.recv().unwrap(),
            stop: Some(stop),
            served,
        }
    }

    /// A stream that has begun.
    fn stream(&self) -> Stream {
        let body = json!({"prompt": "a", "max_tokens": 500, "stream": true, "ignore_eos": true});
        let body = body.to_string();
        let mut stream = Stream::open(self.address, "POST", PATH, "", body.as_bytes());
        assert!(stream.event().is_some());
        stream
    }

    /// Its error names the cause.
    fn ended(self, cause: &str) {
        let ended = self.served.join().unwrap().unwrap_err();
        assert!(ended.to_string().contains(cause), "{ended}");
        assert_eq!(ended.exit_code(), 7);
        assert!(TcpStream::connect(self.address).is_err());
    }
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
    let serving = Serving::start(LONG, Box::new(how));
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
    let mut serving = Serving::start(Duration::ZERO, Box::new(how));
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
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let model = Arc::new(Model::open(None).unwrap());
    let unopened = || Err(RunnerError::Unavailable("no such device".into()).into());
    let started = Server::start(("127.0.0.1", 0), model, options(LONG), unopened);
    let error = runtime.block_on(started).err().unwrap();
    assert_eq!(error.to_string(), "no such device");
}
