//! report.json: what was measured, with what, and all cells.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Machine;
use crate::analysis::{PolicyGroup, policy_groups};
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
    /// By the formula, whole pages.
    pub predicted_bytes: u64,
    /// By the device's own account.
    pub allocated_bytes: Option<u64>,
}

/// Memory of the runner. `gpu_memory_used` is NVML's, of all processes, before the runner was opened
/// and after: the difference also holds the CUDA context.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct MemoryInfo {
    pub weights: PartInfo,
    pub scratch: PartInfo,
    pub kv: PartInfo,
    /// By how much the device's free memory fell while the runner opened; none on a CPU.
    pub device_allocated_bytes: Option<u64>,
    pub gpu_memory_used_before_bytes: Option<u64>,
    pub gpu_memory_used_after_bytes: Option<u64>,
}

/// What was planned beside what the device gave: on a GPU in blocks of 2 MiB.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct PartInfo {
    pub predicted_bytes: u64,
    pub allocated_bytes: u64,
}

impl PartInfo {
    /// None where nothing was predicted.
    pub fn difference_percent(&self) -> Option<f64> {
        let (predicted, allocated) = (self.predicted_bytes as f64, self.allocated_bytes as f64);
        (predicted > 0.0).then(|| 100.0 * (allocated - predicted) / predicted)
    }
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
    /// None of a server.
    pub kv: Option<KvInfo>,
    pub memory: Option<MemoryInfo>,
    /// Everything that `--resume` demands to be the same, the seed among it.
    pub config: Value,
    pub cells_total: usize,
    /// Options that ask for the same model on the same device.
    pub engine_options: Vec<String>,
    /// For each label of `config`'s prompts, the option that asks for them, and its value.
    pub prompt_options: BTreeMap<String, [String; 2]>,
    /// Options that measure in the same way.
    #[serde(default)]
    pub measure_options: Vec<String>,
}

impl Header {
    /// Counts the changes that make older results folders unreadable.
    pub const FORMAT: u32 = 3;

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
    /// The policies under the same load.
    pub policies: Vec<PolicyGroup>,
}

impl<'a> Report<'a> {
    pub fn of(header: Header, cells: &'a [CellResult]) -> Self {
        Self {
            header,
            cells,
            policies: policy_groups(cells),
        }
    }
}
