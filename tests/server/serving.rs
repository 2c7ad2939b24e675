//! A server in the test's own process, with an engine of the test's making.

use std::future;
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use batchlab::Error;
use batchlab::batching::Static;
use batchlab::engine::EngineConfig;
use batchlab::model::Model;
use batchlab::runner::cpu::CpuRunner;
use batchlab::runner::{CublasLt, KvBudget, Limits, Runner, RunnerError, RunnerOptions};
use batchlab::scheduler::Padding;
use batchlab::server::{Bound, EngineSetup, ServeOptions};
use serde_json::json;
use tokio::sync::oneshot;

use crate::client::{Stream, send};

const LIMITS: Limits = Limits {
    max_rows: 4,
    max_tokens: 64,
    max_kv_len: 512,
};

pub fn cpu_runner(model: &Model) -> Result<CpuRunner, RunnerError> {
    let options = RunnerOptions {
        dtype: None,
        page_size: 32,
        kv: KvBudget::Utilization(0.9),
        limits: LIMITS,
        cublaslt: CublasLt::Off,
    };
    CpuRunner::new(model, &options)
}

/// Two requests are a batch.
pub fn engine(runner: impl Runner + 'static) -> EngineSetup {
    EngineSetup {
        runner: Box::new(runner),
        config: EngineConfig {
            policy: Box::new(Static { batch_size: 2 }),
            padding: Padding::Ragged,
            max_queue_size: 16,
            max_positions: LIMITS.max_kv_len,
        },
    }
}

/// Until its engine fails, or it is told to stop.
pub struct Serving {
    pub address: SocketAddr,
    pub stop: Option<oneshot::Sender<()>>,
    pub served: JoinHandle<Result<(), Error>>,
}

fn options(drain_timeout: Duration) -> ServeOptions {
    ServeOptions {
        model_name: "served".into(),
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

impl Serving {
    /// Returns when the address is taken.
    pub fn start(
        drain_timeout: Duration,
        set_up: impl FnOnce(&Model) -> Result<EngineSetup, Error> + Send + 'static,
    ) -> Self {
        let (told, address) = mpsc::channel();
        let (stop, stopped) = oneshot::channel();
        let served = thread::spawn(move || {
            let model = Arc::new(Model::open(None)?);
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(async {
                let bound = Bound::to("127.0.0.1", 0).await?;
                told.send(bound.address()).unwrap();
                let of = Arc::clone(&model);
                let set_up = move || set_up(&of);
                let server = bound.start(model, options(drain_timeout), set_up).await?;
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

    /// Waits until it is ready.
    pub fn ready(self) -> Self {
        while send(self.address, "GET", "/ready", "", b"").status != 200 {
            thread::sleep(Duration::from_millis(5));
        }
        self
    }

    /// A stream that has begun.
    pub fn stream(&self) -> Stream {
        let body = json!({"prompt": "a", "max_tokens": 500, "stream": true, "ignore_eos": true});
        let body = body.to_string();
        let mut stream = Stream::open(self.address, "POST", "/v1/completions", "", body.as_bytes());
        assert!(stream.event().is_some());
        stream
    }

    /// Its error names the cause.
    pub fn ended(self, cause: &str) {
        let ended = self.served.join().unwrap().unwrap_err();
        assert!(ended.to_string().contains(cause), "{ended}");
        assert_eq!(ended.exit_code(), 7);
        assert!(TcpStream::connect(self.address).is_err());
    }
}
