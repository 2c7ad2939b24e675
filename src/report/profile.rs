//! One generation taken apart, on the terminal and as JSON.

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::table::{aligned, empty};
use crate::metrics::{Bound, Ceilings, Pace, Phase, Profile, confidence_interval};
use crate::number::{short, whole};

/// The runs of one generation.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct ProfileReport<'a> {
    pub model: &'a str,
    /// Device and compute type.
    pub runner: &'a str,
    pub ceilings: Ceilings,
    /// At least one.
    pub runs: &'a [Profile],
}

type Metric = fn(&Profile) -> Option<f64>;

/// What gets a mean over the runs, and with two or more a confidence interval.
const METRICS: [(&str, Metric); 14] = [
    ("e2el_ms", |p| Some(p.e2el_ms)),
    ("output_throughput", |p| Some(p.output_throughput)),
    ("prefill_ms", |p| Some(p.prefill?.ms)),
    ("prefill_tokens_per_s", |p| Some(p.prefill?.tokens_per_s)),
    ("decode_ms", |p| Some(p.decode?.ms)),
    ("decode_ms_per_step", |p| Some(p.decode?.ms_per_step)),
    ("decode_tokens_per_s", |p| Some(p.decode?.tokens_per_s)),
    ("prefill_ms_per_step", |p| Some(p.prefill?.ms_per_step)),
    ("memory_bound_percent", |p| Some(p.memory_bound_percent)),
    ("compute_bound_percent", |p| Some(p.compute_bound_percent)),
    ("neither_percent", |p| Some(p.neither_percent)),
    ("host_us_per_step", |p| {
        Some(p.pace.as_ref()?.host_us_per_step.mean)
    }),
    ("gpu_busy_ms_per_step", |p| {
        Some(p.pace.as_ref()?.device?.gpu_busy_ms_per_step)
    }),
    ("gpu_idle_between_steps_percent", |p| {
        Some(p.pace.as_ref()?.device?.gpu_idle_between_steps_percent)
    }),
];

impl ProfileReport<'_> {
    fn mean(&self, of: impl Fn(&Profile) -> Option<f64>) -> Option<f64> {
        let values: Vec<f64> = self.runs.iter().map(of).collect::<Option<_>>()?;
        Some(values.iter().sum::<f64>() / values.len() as f64)
    }

    /// Half the width of the 95 % interval.
    fn half_width(&self, of: Metric) -> Option<f64> {
        let values: Vec<f64> = self.runs.iter().map(of).collect::<Option<_>>()?;
        Some(confidence_interval(&values, 0.95)?.half_width)
    }

    /// `12.3 ±0.4`; `name` is one of [`METRICS`].
    fn text(&self, name: &str) -> String {
        let Some(&(_, of)) = METRICS.iter().find(|(n, _)| *n == name) else {
            return short(None);
        };
        let mean = short(self.mean(of));
        match self.half_width(of) {
            Some(half_width) => format!("{mean} ±{}", short(Some(half_width))),
            None => mean,
        }
    }

    fn phase(&self, name: &str, tokens: usize, of: fn(&Profile) -> Option<Phase>) -> Vec<String> {
        let Some(first) = self.runs.first().and_then(of) else {
            return vec![name.into()];
        };
        let mean = |value: fn(&Phase) -> f64| short(self.mean(|p| Some(value(&of(p)?))));
        // The steps are the same in every run, so one interval tells of all three times.
        vec![
            name.into(),
            whole(tokens as u64),
            whole(first.steps as u64),
            mean(|p| p.ms),
            self.text(&format!("{name}_ms_per_step")),
            mean(|p| p.tokens_per_s),
            mean(|p| p.work.flop / 1e9),
            mean(|p| p.work.bytes / 1e6),
            mean(|p| p.compute_limit_ms),
            mean(|p| p.memory_limit_ms),
            mean(|p| p.mfu_percent),
            mean(|p| p.mbu_percent),
            bound(first.bound_by).into(),
        ]
    }
}

fn bound(by: Bound) -> &'static str {
    match by {
        Bound::Memory => "memory",
        Bound::Compute => "compute",
    }
}

const ABOVE_THE_COPY: &str =
    "MBU above 100 %: reading alone, or from a cache, is faster than the copy it is compared with";

/// `pace` is the first run's.
fn pace_line(report: &ProfileReport<'_>, pace: &Pace) -> String {
    let host = &pace.host_us_per_step;
    let host = format!(
        "host's work in a decode step: mean {} µs, median {}, p95 {} in the first run",
        report.text("host_us_per_step"),
        short(Some(host.p50)),
        short(Some(host.p95))
    );
    match pace.device {
        None => host,
        Some(_) => format!(
            "{host}\nby the GPU's clock it takes {} ms, and {} % of the time between two ends nothing runs",
            report.text("gpu_busy_ms_per_step"),
            report.text("gpu_idle_between_steps_percent")
        ),
    }
}

/// The table and what it says in a sentence.
pub fn profile(report: &ProfileReport<'_>) -> String {
    let header = [
        "phase",
        "tokens",
        "steps",
        "ms",
        "ms/step",
        "tok/s",
        "GFLOP",
        "MB",
        "at FLOP\nlimit ms",
        "at copy\nlimit ms",
        "MFU\n%",
        "MBU\n%",
        "bound by",
    ];
    let mut table = empty(header.into());
    let Some(first) = report.runs.first() else {
        return table.to_string();
    };
    let (prompt, output) = (first.prompt_tokens, first.output_tokens);
    let decode_tokens = first
        .decode
        .map_or(0, |d| (d.tokens_per_s * d.ms / 1e3).round() as usize);
    table.add_row(report.phase("prefill", prompt, |p| p.prefill));
    table.add_row(report.phase("decode", decode_tokens, |p| p.decode));
    let Ceilings {
        copy_bytes_per_s,
        flop_per_s,
        product_by,
    } = report.ceilings;
    let mut lines = vec![
        format!("{} on {}", report.model, report.runner),
        format!(
            "measured limits: copy {} GB/s, matrix product {} GFLOP/s by {product_by}",
            short(Some(copy_bytes_per_s / 1e9)),
            short(Some(flop_per_s / 1e9))
        ),
        aligned(table).to_string(),
        format!(
            "whole request: {} prompt tokens in, {} out in {} ms: {} output tok/s",
            whole(prompt as u64),
            whole(output as u64),
            report.text("e2el_ms"),
            report.text("output_throughput")
        ),
        format!(
            "of this time {} % is bound by memory, {} % by compute, {} % by neither: launches, host, small work",
            report.text("memory_bound_percent"),
            report.text("compute_bound_percent"),
            report.text("neither_percent")
        ),
    ];
    lines.extend(first.pace.as_ref().map(|pace| pace_line(report, pace)));
    let mut phases = report.runs.iter().flat_map(|r| [r.prefill, r.decode]);
    if phases.any(|phase| phase.is_some_and(|p| p.mbu_percent > 100.0)) {
        lines.push(ABOVE_THE_COPY.into());
    }
    lines.push(match report.runs.len() {
        1 => "1 run after one that is not counted; --num-runs 5 gives intervals".into(),
        n => format!("mean ± half width of the 95 % Student-t interval over {n} runs, after one that is not counted"),
    });
    lines.join("\n")
}

/// Every run, and the means with half the width of their 95 % intervals. `outputs` are the texts.
pub fn profile_json(report: &ProfileReport<'_>, outputs: &[String]) -> Value {
    let mean = METRICS.map(|(name, of)| {
        let value = json!({"mean": report.mean(of), "half_width": report.half_width(of)});
        (name.to_string(), value)
    });
    json!({
        "batchlab_version": env!("CARGO_PKG_VERSION"),
        "profile": report,
        "over_runs": Map::from_iter(mean),
        "outputs": outputs,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{DevicePace, Statistics, Work};

    fn run(ms: f64) -> Profile {
        let phase = |steps: usize, ms: f64, tokens: f64| Phase {
            steps,
            ms,
            ms_per_step: ms / steps as f64,
            tokens_per_s: tokens / ms * 1e3,
            work: Work {
                flop: 2e9,
                bytes: 3e8,
            },
            memory_limit_ms: 12_345.678,
            compute_limit_ms: 12_345.678,
            mbu_percent: 123.4,
            mfu_percent: 56.7,
            bound_by: Bound::Memory,
        };
        Profile {
            prompt_tokens: 13,
            output_tokens: 32,
            e2el_ms: ms,
            output_throughput: 32e3 / ms,
            prefill: Some(phase(1, 12_345.6 + ms, 13.0)),
            decode: Some(phase(31, 12_345.6 + ms, 31.0)),
            pace: Some(Pace {
                host_us_per_step: Statistics::of(vec![9.0, 11.0], &[]).unwrap(),
                device: Some(DevicePace {
                    gpu_busy_ms_per_step: ms / 40.0,
                    gpu_idle_between_steps_percent: 12.3,
                }),
            }),
            memory_bound_percent: 61.0,
            compute_bound_percent: 10.0,
            neither_percent: 29.0,
        }
    }

    #[test]
    fn a_table_of_at_most_120_columns_with_intervals() {
        let runs = [run(400.0), run(410.0)];
        let report = ProfileReport {
            model: "m",
            runner: "CPU",
            ceilings: Ceilings {
                copy_bytes_per_s: 2e10,
                flop_per_s: 1e11,
                product_by: "gemm",
            },
            runs: &runs,
        };
        let text = profile(&report);
        for line in text.lines() {
            assert!(line.chars().count() <= 120, "{line}");
        }
        // t(0.975, 1) = 12.706; the deviation of 400 and 410 is 7.071, over √2.
        for part in [
            "405.0 ±63.53",
            "copy 20.00 GB/s",
            "MBU above 100 %",
            "over 2 runs",
            "12751 ±",
            "mean 10.00 ±0 µs, median 10.00, p95 10.90",
            "it takes 10.12 ±1.59 ms, and 12.30 ±0 %",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        let json = profile_json(&report, &["text".into()]);
        assert_eq!(json["over_runs"]["e2el_ms"]["mean"], 405.0);
        assert_eq!(json["profile"]["runs"][0]["decode"]["bound_by"], "memory");
        assert_eq!(json["profile"]["runs"][0]["prefill"]["flop"], 2e9);
        let pace = &json["profile"]["runs"][0]["pace"];
        assert_eq!(pace["gpu_idle_between_steps_percent"], 12.3);
        assert_eq!(json["over_runs"]["host_us_per_step"]["mean"], 10.0);
    }

    #[test]
    fn one_token_has_no_decode_and_one_run_no_interval() {
        let mut only = run(400.0);
        only.decode = None;
        only.pace = None;
        let report = ProfileReport {
            model: "m",
            runner: "CPU",
            ceilings: Ceilings {
                copy_bytes_per_s: 2e10,
                flop_per_s: 1e11,
                product_by: "gemm",
            },
            runs: &[only],
        };
        assert!(!profile(&report).contains('±'), "{}", profile(&report));
        let json = profile_json(&report, &[]);
        assert!(json["over_runs"]["decode_ms"]["mean"].is_null());
        assert!(json["over_runs"]["e2el_ms"]["half_width"].is_null());
    }
}
