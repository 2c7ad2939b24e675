//! report.json: what was measured, with what, and all cells.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Machine;
use crate::sweep::CellResult;
use crate::telemetry::GpuInfo;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    Running,
    Complete,
    Interrupted,
}

/// The KV pool that the cells shared.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct KvInfo {
    pub kv_bytes_per_token: usize,
    pub page_size: usize,
    pub pages: usize,
    pub bytes: usize,
}

/// Everything but the cells.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// [`Header::FORMAT`] of the batchlab that wrote it.
    pub format: u32,
    pub batchlab_version: String,
    pub status: Status,
    pub started_utc: String,
    pub written_utc: String,
    /// The command line of the last invocation.
    pub command: Vec<String>,
    pub machine: Machine,
    /// None without a GPU.
    pub gpu: Option<GpuInfo>,
    /// Device and compute type of the runner.
    pub runner: String,
    pub kv: KvInfo,
    /// Everything that `--resume` demands to be the same, the seed among it.
    pub config: Value,
    pub cells_total: usize,
    /// Options that ask for the same model on the same device.
    pub engine_options: Vec<String>,
    /// For each label of `config`'s prompts, the options that ask for them.
    pub prompt_options: BTreeMap<String, Vec<String>>,
}

impl Header {
    /// Counts the changes that make older results folders unreadable.
    pub const FORMAT: u32 = 2;

    /// The model's name in `config`.
    pub fn model(&self) -> &str {
        self.config["model"].as_str().unwrap_or("unknown model")
    }
}

#[derive(Debug, Clone, Serialize)]
pub struct Report<'a> {
    #[serde(flatten)]
    pub header: Header,
    pub cells: &'a [CellResult],
}
