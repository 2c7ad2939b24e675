//! The quantities of a cell, once, for the tables and for summary.csv.

use crate::metrics::{ClientCost, Executed, Statistics, Summary};
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
pub const NUMBERS: [(&str, RunMetric); 32] = [
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
    ("row_steps", |r| executed(r, |e| e.row_steps)),
    ("idle_row_steps", |r| executed(r, |e| e.idle_row_steps)),
    ("preemptions_total", |r| {
        executed(r, |e| e.preemptions_total)
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
    ("batches", |r| executed(r, |e| e.batches)),
    ("steps", |r| executed(r, |e| e.steps)),
    ("decode_step_ms_mean", |r| {
        r.summary.decode_step_ms.as_ref().map(|s| s.mean)
    }),
    ("client_cpu_s", |r| client(r, |c| Some(c.cpu_s))),
    ("client_busiest_thread_percent", |r| {
        client(r, |c| Some(c.busiest_thread_percent))
    }),
    ("client_late_send_ms_p99", |r| client(r, late_p99)),
    ("client_loop_lag_ms_p99", |r| client(r, lag_p99)),
    ("client_tokens_per_chunk", |r| {
        client(r, |c| c.tokens_per_chunk)
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

/// What the client of a server cost itself.
pub const CLIENT: [Column; 6] = [
    plain("busiest\nthread %", |r| {
        client(r, |c| Some(c.busiest_thread_percent))
    }),
    plain("CPU\nµs/token", |r| {
        let tokens = Some(r.summary.output_tokens as f64).filter(|n| *n > 0.0)?;
        client(r, |c| Some(c.cpu_s)).map(|cpu_s| cpu_s * 1e6 / tokens)
    }),
    plain("sent late\nP99 ms", |r| client(r, late_p99)),
    plain("loop lag\nP99 ms", |r| client(r, lag_p99)),
    plain("tokens\n/chunk", |r| client(r, |c| c.tokens_per_chunk)),
    plain("ended\nearly", |r| {
        client(r, |c| Some(c.ended_early as f64))
    }),
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

fn executed(run: &RunResult, of: fn(&Executed) -> usize) -> Option<f64> {
    run.summary.executed.as_ref().map(|e| of(e) as f64)
}

fn client(run: &RunResult, of: fn(&ClientCost) -> Option<f64>) -> Option<f64> {
    run.client.as_ref().and_then(of)
}

fn late_p99(client: &ClientCost) -> Option<f64> {
    client.late_send_ms.as_ref().map(|s| s.p99)
}

fn lag_p99(client: &ClientCost) -> Option<f64> {
    client.loop_lag_ms.as_ref().map(|s| s.p99)
}

fn memory_mib(run: &RunResult) -> Option<f64> {
    gpu(run, |g| {
        g.gpu_memory_used_bytes
            .map(|b| b as f64 / f64::from(1 << 20))
    })
}
