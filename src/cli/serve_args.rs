//! The options of `batchlab serve`.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;

use super::at_least_one;
use super::engine_args::{EngineArgs, bytes};
use super::policy_args::PolicyArgs;

/// Serve a model behind OpenAI's HTTP interface.
///
/// With no options: the bundled model on 127.0.0.1:8000, continuous batching. http://127.0.0.1:8000/
/// shows live what batching does; docs/serving.md has the API.
#[derive(Debug, Clone, clap::Args)]
pub struct ServeArgs {
    /// The address to listen on; 0.0.0.0 is every network of this machine
    #[arg(long, default_value = "127.0.0.1", value_name = "HOST")]
    pub host: String,
    /// The port to listen on; 0 = any free one
    #[arg(long, default_value_t = 8000, value_name = "PORT")]
    pub port: u16,
    /// The name that clients know the model by [default: that of --model]
    #[arg(long, value_name = "NAME")]
    pub served_model_name: Option<String>,
    /// A Jinja file that writes conversations, in place of the model's own template
    #[arg(long, value_name = "FILE")]
    pub chat_template: Option<PathBuf>,
    /// Clients must send it as 'Authorization: Bearer KEY'; BATCHLAB_API_KEY does the same
    #[arg(
        long,
        value_name = "KEY",
        env = "BATCHLAB_API_KEY",
        hide_env_values = true,
        value_parser = NonEmptyStringValueParser::new()
    )]
    pub api_key: Option<String>,
    #[command(flatten)]
    pub policy: PolicyArgs,
    /// Tokens of prompt and output, at most [default: the model's context, at most 4096]
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub max_model_len: Option<usize>,
    #[command(flatten)]
    pub limits: LimitArgs,
    /// text or json: how each request is logged, on stderr
    #[arg(long, default_value = "text", value_name = "FORMAT")]
    pub log_format: LogFormat,
    #[command(flatten)]
    pub engine: EngineArgs,
}

#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Limits")]
pub struct LimitArgs {
    /// Requests that wait, at most; more get status 429
    #[arg(long, default_value_t = 256, value_name = "N")]
    pub max_queue_size: usize,
    /// From when a request's prompt has been read to the end of its answer; then it ends with an error
    #[arg(long, default_value = "600000", value_name = "MS", value_parser = millis)]
    pub timeout_ms: Duration,
    /// Seconds that running requests get to end after SIGTERM or Ctrl-C
    #[arg(long, default_value = "30", value_name = "S", value_parser = seconds)]
    pub drain_timeout: Duration,
    /// Of a request's body, such as 8MiB
    #[arg(long, default_value = "8MiB", value_name = "BYTES", value_parser = bytes)]
    pub max_body_size: u64,
    /// Open connections; more wait to be accepted
    #[arg(long, default_value_t = 4096, value_name = "N", value_parser = at_least_one)]
    pub max_connections: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

/// A year: longer is a slip of the pen.
const LONGEST_S: f64 = 31_536_000.0;

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(s) if (0.0..=LONGEST_S).contains(&s) => Ok(Duration::from_secs_f64(s)),
        _ => Err("give a number of at least 0".into()),
    }
}

fn millis(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(ms) if ms > 0.0 && ms / 1e3 <= LONGEST_S => Ok(Duration::from_secs_f64(ms / 1e3)),
        _ => Err("give a number above 0".into()),
    }
}
