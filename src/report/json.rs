//! report.json: what was measured, with what, and all cells.

use serde::Serialize;
use serde_json::Value;

use super::Machine;
use crate::sweep::CellResult;
use crate::telemetry::GpuInfo;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    Running,
    Complete,
    Interrupted,
}

/// The KV pool that the cells shared.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct KvInfo {
    pub kv_bytes_per_token: usize,
    pub page_size: usize,
    pub pages: usize,
    pub bytes: usize,
}

#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub batchlab_version: &'static str,
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
    pub cells: Vec<CellResult>,
}
