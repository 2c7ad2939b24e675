//! What measuring a cell gave.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::CellSpec;
use crate::metrics::{ClientCost, Interval, Summary, confidence_interval};
use crate::telemetry::GpuUsage;

const CONFIDENCE: f64 = 0.95;

/// One repeat of a cell.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunResult {
    pub summary: Summary,
    /// None without a GPU.
    pub gpu: Option<GpuUsage>,
    pub j_per_output_token: Option<f64>,
    /// Of a server's client; none where requests ran in this process.
    #[serde(default)]
    pub client: Option<ClientCost>,
}

/// What a cell gave.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CellResult {
    /// Position in the sweep's list of cells, which names its files.
    pub index: usize,
    pub cell: CellSpec,
    /// Of an open load, in req/s.
    pub request_rate: Option<f64>,
    pub runs: Vec<RunResult>,
    /// Student-t intervals at 95 % over the runs, where there are at least two.
    pub confidence: BTreeMap<String, Interval>,
}

impl CellResult {
    /// The mean over the runs; none when a run does not know.
    pub fn mean(&self, of: impl Fn(&RunResult) -> Option<f64>) -> Option<f64> {
        let values: Option<Vec<f64>> = self.runs.iter().map(of).collect();
        values
            .filter(|v| !v.is_empty())
            .map(|v| v.iter().sum::<f64>() / v.len() as f64)
    }
}

/// A number of one run.
pub type RunMetric = fn(&RunResult) -> Option<f64>;

/// What gets a confidence interval over the runs.
pub const WITH_CONFIDENCE: [(&str, RunMetric); 7] = [
    ("e2el_ms_mean", |r| {
        r.summary.e2el_ms.as_ref().map(|s| s.mean)
    }),
    ("e2el_ms_p95", |r| r.summary.e2el_ms.as_ref().map(|s| s.p95)),
    ("ttft_ms_mean", |r| {
        r.summary.ttft_ms.as_ref().map(|s| s.mean)
    }),
    ("tpot_ms_mean", |r| {
        r.summary.tpot_ms.as_ref().map(|s| s.mean)
    }),
    ("output_throughput", |r| Some(r.summary.output_throughput)),
    ("request_throughput", |r| Some(r.summary.request_throughput)),
    ("j_per_output_token", |r| r.j_per_output_token),
];

pub(super) fn confidence(runs: &[RunResult]) -> BTreeMap<String, Interval> {
    WITH_CONFIDENCE
        .iter()
        .filter_map(|(name, of)| {
            let values: Option<Vec<f64>> = runs.iter().map(of).collect();
            Some(((*name).into(), confidence_interval(&values?, CONFIDENCE)?))
        })
        .collect()
}
