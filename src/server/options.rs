//! How a server answers.

use std::path::PathBuf;
use std::time::Duration;

/// All but what the engine is set up with.
#[derive(Debug, Clone)]
pub struct ServeOptions {
    /// `--served-model-name`
    pub model_name: String,
    /// How requests are batched, in words.
    pub policy: String,
    /// In place of the model's own.
    pub chat_template: Option<PathBuf>,
    pub api_key: Option<String>,
    /// Requests that wait, at most.
    pub max_queue_size: usize,
    /// From when a request's prompt has been read to the end of its answer.
    pub timeout: Duration,
    /// How long running requests may go on after the server was told to end.
    pub drain_timeout: Duration,
    /// Of a request, in bytes.
    pub max_body_size: usize,
    pub max_connections: usize,
}
