//! The quantities of a cell, once, for the tables and for summary.csv.

use crate::metrics::{Statistics, Summary};
use crate::sweep::{CellResult, RunMetric, RunResult};
use crate::telemetry::GpuUsage;

type StatisticsOf = fn(&Summary) -> Option<&Statistics>;

/// The statistics that have one column each per statistic in summary.csv.
pub const STATISTICS: [(&str, StatisticsOf); 8] = [
    ("e2el_ms", |s| s.e2el_ms.as_ref()),
    ("ttft_ms", |s| s.ttft_ms.as_ref()),
    ("tpot_ms", |s| s.tpot_ms.as_ref()),
    ("itl_ms", |s| s.itl_ms.as_ref()),
    ("queue_ms", |s| s.queue_ms.as_ref()),
    ("prefill_ms", |s| s.prefill_ms.as_ref()),
    ("batch_wait_ms", |s| s.batch_wait_ms.as_ref()),
    ("host_us_per_step", |s| s.host_us_per_step.as_ref()),
];

/// Every other number; over several runs its mean, under its name in summary.csv.
pub const NUMBERS: [(&str, RunMetric); 27] = [
    ("duration_s", |r| Some(r.summary.duration_s)),
    ("request_throughput", |r| Some(r.summary.request_throughput)),
    ("output_throughput", |r| Some(r.summary.output_throughput)),
    ("total_token_throughput", |r| {
        Some(r.summary.total_token_throughput)
    }),
    ("actual_batch_size", |r| r.summary.actual_batch_size),
    ("batch_utilization_percent", |r| {
        r.summary.batch_utilization_percent
    }),
    ("padding_waste_percent", |r| r.summary.padding_waste_percent),
    ("row_steps", |r| Some(r.summary.row_steps as f64)),
    ("idle_row_steps", |r| Some(r.summary.idle_row_steps as f64)),
    ("preemptions_total", |r| {
        Some(r.summary.preemptions_total as f64)
    }),
    ("kv_cache_usage_percent", |r| {
        r.summary.kv_cache_usage_percent
    }),
    ("gpu_utilization_percent", |r| {
        gpu(r, |g| g.gpu_utilization_percent)
    }),
    ("sm_active_percent", |r| gpu(r, |g| g.sm_active_percent)),
    ("tensor_active_percent", |r| {
        gpu(r, |g| g.tensor_active_percent)
    }),
    ("dram_bandwidth_percent", |r| {
        gpu(r, |g| g.dram_bandwidth_percent)
    }),
    ("gpu_memory_used_mib", memory_mib),
    ("gpu_power_w", |r| gpu(r, |g| g.gpu_power_w)),
    ("gpu_power_max_w", |r| gpu(r, |g| g.gpu_power_max_w)),
    ("energy_j", |r| gpu(r, |g| g.energy_j)),
    ("j_per_output_token", |r| r.j_per_output_token),
    ("sm_clock_mhz", |r| gpu(r, |g| g.sm_clock_mhz)),
    ("memory_clock_mhz", |r| gpu(r, |g| g.memory_clock_mhz)),
    ("temperature_c", |r| {
        gpu(r, |g| g.temperature_c.map(f64::from))
    }),
    ("gpu_samples", |r| gpu(r, |g| Some(g.gpu_samples as f64))),
    ("batches", |r| Some(r.summary.batches as f64)),
    ("steps", |r| Some(r.summary.steps as f64)),
    ("decode_step_ms_mean", |r| {
        r.summary.decode_step_ms.as_ref().map(|s| s.mean)
    }),
];

/// A column of the tables on the terminal.
pub struct Column {
    pub heading: &'static str,
    pub of: RunMetric,
    /// In [`CellResult::confidence`]; shown as ± where there are repeats.
    pub confidence: Option<&'static str>,
    pub mark: Mark,
}

/// What makes a value doubtful.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    Never,
    /// A percentile of too few samples.
    FewSamples,
    /// NVML over less time than it averages.
    ShortWindow,
}

const fn plain(heading: &'static str, of: RunMetric) -> Column {
    Column {
        heading,
        of,
        confidence: None,
        mark: Mark::Never,
    }
}

const fn nvml(heading: &'static str, of: RunMetric) -> Column {
    Column {
        heading,
        of,
        confidence: None,
        mark: Mark::ShortWindow,
    }
}

/// day2 §5.2's columns first.
pub const LATENCY: [Column; 8] = [
    Column {
        heading: "latency\navg ms",
        of: |r| r.summary.e2el_ms.as_ref().map(|s| s.mean),
        confidence: Some("e2el_ms_mean"),
        mark: Mark::Never,
    },
    Column {
        heading: "latency\nP95 ms",
        of: |r| r.summary.e2el_ms.as_ref().map(|s| s.p95),
        confidence: None,
        mark: Mark::FewSamples,
    },
    Column {
        heading: "output\ntok/s",
        of: |r| Some(r.summary.output_throughput),
        confidence: Some("output_throughput"),
        mark: Mark::Never,
    },
    nvml("GPU\nutil %", |r| gpu(r, |g| g.gpu_utilization_percent)),
    plain("TTFT\navg ms", |r| {
        r.summary.ttft_ms.as_ref().map(|s| s.mean)
    }),
    plain("TPOT\navg ms", |r| {
        r.summary.tpot_ms.as_ref().map(|s| s.mean)
    }),
    plain("queue\navg ms", |r| {
        r.summary.queue_ms.as_ref().map(|s| s.mean)
    }),
    plain("actual\nbatch", |r| r.summary.actual_batch_size),
];

pub const RESOURCES: [Column; 10] = [
    plain("batch\nutil %", |r| r.summary.batch_utilization_percent),
    plain("padding\nwaste %", |r| r.summary.padding_waste_percent),
    plain("idle row\nsteps %", |r| r.summary.idle_percent()),
    plain("KV cache\npeak %", |r| r.summary.kv_cache_usage_percent),
    nvml("GPU mem\nMiB", memory_mib),
    nvml("power\nW", |r| gpu(r, |g| g.gpu_power_w)),
    nvml("energy\nJ/token", |r| r.j_per_output_token),
    nvml("SM\nactive %", |r| gpu(r, |g| g.sm_active_percent)),
    nvml("tensor\nactive %", |r| gpu(r, |g| g.tensor_active_percent)),
    nvml("DRAM\nbandw. %", |r| gpu(r, |g| g.dram_bandwidth_percent)),
];

/// True when the percentiles of any run rest on too few requests.
pub fn few_samples(result: &CellResult) -> bool {
    let mut all = result.runs.iter().map(|r| r.summary.e2el_ms.as_ref());
    all.any(|s| s.is_some_and(|s| s.n < Statistics::P95_SAMPLES))
}

pub fn short_window(result: &CellResult) -> bool {
    let mut all = result.runs.iter().map(|r| r.gpu.as_ref());
    all.any(|g| g.is_some_and(|g| g.gpu_window_short))
}

fn gpu(run: &RunResult, of: fn(&GpuUsage) -> Option<f64>) -> Option<f64> {
    run.gpu.as_ref().and_then(of)
}

fn memory_mib(run: &RunResult) -> Option<f64> {
    gpu(run, |g| {
        g.gpu_memory_used_bytes
            .map(|b| b as f64 / f64::from(1 << 20))
    })
}
