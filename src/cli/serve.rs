//! `batchlab serve`: opens model and runner on the engine's thread and serves until it is told to end.

use std::io::IsTerminal;
use std::pin::pin;
use std::sync::Arc;

use anyhow::Context;
use batchlab::Error;
use batchlab::batching::Batching;
use batchlab::engine::EngineConfig;
use batchlab::model::Model;
use batchlab::runner::{self, Limits};
use batchlab::server::{Bound, EngineSetup, ServeOptions};
use tracing::{info, warn};

use super::engine_args::EngineArgs;
use super::policy_args::Setting;
use super::serve_args::{LogFormat, ServeArgs};

/// Longer contexts cost memory that few servers need.
const USUAL_MODEL_LEN: usize = 4096;

pub fn run(args: &ServeArgs) -> anyhow::Result<()> {
    log_as(args.log_format)?;
    let setting = args.policy.setting(args.engine.model.kv_block_size)?;
    let engine = args.engine_args(&setting)?;
    let model = Arc::new(engine.model()?);
    let limits = args.runner_limits(&model, &setting)?;
    let options = args.serve_options(&engine, &model, &setting);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let runtime = runtime.context("the server's threads cannot be started")?;
    runtime.block_on(async {
        let mut stop = pin!(stop_signal()?);
        let set_up = set_up(
            engine,
            Arc::clone(&model),
            limits,
            setting,
            args.max_requests(limits),
        );
        let bound = Bound::to(&args.host, args.port).await?;
        let address = bound.address();
        info!(
            "loading {}; until then {address} answers 503",
            model.spec.name
        );
        let server = tokio::select! {
            started = bound.start(model, options, set_up) => started?,
            // Nothing has been served yet.
            () = stop.as_mut() => return Ok(()),
        };
        info!("listening on http://{address}");
        Ok(server.run(stop).await?)
    })
}

/// Opens the runner; called on the engine's thread.
fn set_up(
    engine: EngineArgs,
    model: Arc<Model>,
    limits: Limits,
    setting: Setting,
    max_queue_size: usize,
) -> impl FnOnce() -> Result<EngineSetup, Error> + Send {
    move || {
        let options = engine.runner_options(limits);
        let (runner, device) = runner::open(engine.model.device, &model, &options)?;
        info!("{device}");
        Ok(EngineSetup {
            runner,
            config: EngineConfig {
                policy: setting.policy,
                padding: setting.padding,
                max_queue_size,
                max_positions: model.spec.max_positions,
            },
        })
    }
}

impl ServeArgs {
    /// Errors: options that a sweep's own would silently win over.
    fn engine_args(&self, setting: &Setting) -> Result<EngineArgs, Error> {
        let measured = setting.engine.as_ref();
        let Some(measured) = measured.filter(|_| self.engine.model.model.is_none()) else {
            return Ok(self.engine.clone());
        };
        match self.engine.unlike(measured) {
            unlike if unlike.is_empty() => Ok(measured.clone()),
            unlike => Err(Error::Usage(format!(
                "--from-results serves with the sweep's own model, device and memory, which are not those of \
                 {}: leave that out, or give --model and all that is to be as asked",
                unlike.join(", ")
            ))),
        }
    }

    /// All places: the server's own admission says who gets one.
    fn max_requests(&self, limits: Limits) -> usize {
        self.limits.max_queue_size.saturating_add(limits.max_rows)
    }

    fn runner_limits(&self, model: &Model, setting: &Setting) -> Result<Limits, Error> {
        let context = model.spec.max_positions;
        let max_kv_len = match self.max_model_len {
            Some(asked) if asked > context => {
                return Err(Error::Usage(format!(
                    "--max-model-len {asked} is more than the context of {} ({context} tokens); lower it",
                    model.spec.name
                )));
            }
            Some(asked) => asked,
            None => context.min(USUAL_MODEL_LEN),
        };
        let max_rows = setting.policy.max_batch_size();
        let budget = setting.max_num_batched_tokens;
        Ok(Limits {
            max_rows,
            max_tokens: match setting.policy.batching() {
                // A prompt is computed in one step.
                Batching::RequestLevel => budget.max(max_kv_len),
                Batching::IterationLevel { .. } => budget,
            }
            .min(max_rows * max_kv_len),
            max_kv_len,
        })
    }

    fn serve_options(&self, engine: &EngineArgs, model: &Model, setting: &Setting) -> ServeOptions {
        if setting.policy.batching() == Batching::RequestLevel
            && setting.words.starts_with("static")
        {
            warn!(
                "static waits until a batch is full: fewer clients than rows wait until --timeout-ms"
            );
        }
        let asked = engine.model.model.clone();
        ServeOptions {
            model_name: self
                .served_model_name
                .clone()
                .or(asked)
                .unwrap_or_else(|| model.spec.name.clone()),
            policy: setting.words.clone(),
            chat_template: self.chat_template.clone(),
            api_key: self.api_key.clone(),
            max_queue_size: self.limits.max_queue_size,
            timeout: self.limits.timeout_ms,
            drain_timeout: self.limits.drain_timeout,
            max_body_size: usize::try_from(self.limits.max_body_size).unwrap_or(usize::MAX),
            max_connections: connections(self.limits.max_connections),
        }
    }
}

/// Files that are no connections: the log, the listener, the model, the live page's pipes.
const OTHER_FILES: u64 = 64;

/// As many of `asked` as the process may have open: one more is better left waiting than accepted in vain.
fn connections(asked: usize) -> usize {
    let wanted = (asked as u64).saturating_add(OTHER_FILES);
    // An error: the system does not say, and accepting will.
    let files = rlimit::increase_nofile_limit(wanted).unwrap_or(wanted);
    if files >= wanted {
        return asked;
    }
    let possible = files.saturating_sub(OTHER_FILES).max(1) as usize;
    warn!(
        "{possible} connections at once, not {asked} (--max-connections): the process may open only {files} files (ulimit -n)"
    );
    possible
}

fn log_as(format: LogFormat) -> anyhow::Result<()> {
    let log = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .with_max_level(tracing::Level::INFO);
    let started = match format {
        LogFormat::Text => log.try_init(),
        LogFormat::Json => log.json().flatten_event(true).try_init(),
    };
    started.map_err(|e| Error::Server(format!("the log cannot be started: {e}")).into())
}

/// Resolves at SIGTERM or Ctrl-C; a second one ends the process at once.
fn stop_signal() -> anyhow::Result<impl Future<Output = ()>> {
    let (told, stop) = tokio::sync::oneshot::channel();
    let mut told = Some(told);
    ctrlc::set_handler(move || match told.take() {
        Some(told) => drop(told.send(())),
        None => std::process::exit(130),
    })
    .context("Ctrl-C and SIGTERM cannot be watched")?;
    Ok(async {
        let _ = stop.await;
    })
}
