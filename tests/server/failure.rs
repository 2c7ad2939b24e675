//! An engine that fails ends every request with the cause, and the server.

use std::future;
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use batchlab::Error;
use batchlab::batching::Continuous;
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

use crate::client::{Stream, send};

const LIMITS: Limits = Limits {
    max_rows: 4,
    max_tokens: 64,
    max_kv_len: 512,
};
/// A step that both requests of a test have begun by.
const BAD_STEP: usize = 20;

/// A CPU runner whose rows, once there are two, take so many steps and no more.
struct Failing {
    inner: CpuRunner,
    steps: usize,
    how: fn() -> RunnerError,
}

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
        self.steps += usize::from(plan.rows.len() == 2);
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

fn set_up(model: &Model, how: fn() -> RunnerError) -> Result<EngineSetup, Error> {
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
            policy: Box::new(Continuous {
                max_num_seqs: LIMITS.max_rows,
                max_num_batched_tokens: LIMITS.max_tokens,
                prefill_window: Duration::ZERO,
            }),
            padding: Padding::Ragged,
            max_queue_size: 16,
            max_positions: LIMITS.max_kv_len,
        },
    })
}

fn options() -> ServeOptions {
    ServeOptions {
        model_name: "failing".into(),
        policy: "continuous".into(),
        chat_template: None,
        api_key: None,
        max_queue_size: 16,
        timeout: Duration::from_secs(600),
        drain_timeout: Duration::from_secs(600),
        max_body_size: 1 << 20,
        max_connections: 16,
    }
}

/// A server in this process, until its engine fails.
fn serve(how: fn() -> RunnerError) -> (SocketAddr, JoinHandle<Result<(), Error>>) {
    let (told, address) = mpsc::channel();
    let served = thread::spawn(move || {
        let model = Arc::new(Model::open(None)?);
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let of = Arc::clone(&model);
            let server =
                Server::start(("127.0.0.1", 0), model, options(), move || set_up(&of, how)).await?;
            told.send(server.address()).unwrap();
            server.run(future::pending()).await
        })
    });
    (address.recv().unwrap(), served)
}

fn check(how: fn() -> RunnerError, cause: &str) {
    let (address, served) = serve(how);
    let ask = |stream: bool| {
        let body = json!({"prompt": "a", "max_tokens": 500, "stream": stream, "ignore_eos": true});
        body.to_string()
    };
    let body = ask(true);
    let mut stream = Stream::open(address, "POST", "/v1/completions", "", body.as_bytes());
    assert!(stream.event().is_some());
    let whole = send(
        address,
        "POST",
        "/v1/completions",
        "",
        ask(false).as_bytes(),
    );
    assert_eq!(whole.status, 500);
    let mut last = String::new();
    while let Some(event) = stream.event() {
        last = event;
    }
    let last: Value = serde_json::from_str(&last).unwrap();
    for error in [whole.error(), last["error"].clone()] {
        assert_eq!(error["type"], "server_error", "{error}");
        assert_eq!(error["code"], "engine_failed");
        assert!(
            error["message"].as_str().unwrap().contains(cause),
            "{error}"
        );
    }
    let ended = served.join().unwrap().unwrap_err();
    assert!(ended.to_string().contains(cause), "{ended}");
    assert_eq!(ended.exit_code(), 7);
    assert!(TcpStream::connect(address).is_err());
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
fn a_runner_that_cannot_be_opened_is_the_servers_error() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let model = Arc::new(Model::open(None).unwrap());
    let unopened = || Err(RunnerError::Unavailable("no such device".into()).into());
    let started = Server::start(("127.0.0.1", 0), model, options(), unopened);
    let error = runtime.block_on(started).err().unwrap();
    assert_eq!(error.to_string(), "no such device");
}
