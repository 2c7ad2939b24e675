//! summary.csv, one line a cell, and a cell's requests, one line each. Units are in the column names;
//! empty is unknown.

use super::columns::{NUMBERS, STATISTICS, few_samples, short_window};
use crate::Error;
use crate::metrics::{RequestTrace, Statistics};
use crate::sweep::{CellResult, LoadSpec, PolicyKind, WITH_CONFIDENCE};

type Statistic = fn(&Statistics) -> f64;

const OF_EACH: [(&str, Statistic); 7] = [
    ("mean", |s| s.mean),
    ("std", |s| s.std),
    ("p50", |s| s.p50),
    ("p90", |s| s.p90),
    ("p95", |s| s.p95),
    ("p99", |s| s.p99),
    ("max", |s| s.max),
];

/// The values of several runs are their means; counts are sums.
pub fn summary(results: &[CellResult]) -> Result<Vec<u8>, Error> {
    let failed = |e: csv::Error| Error::Results(format!("summary.csv: {e}"));
    let mut writer = csv::Writer::from_writer(Vec::new());
    let percentiles = extra_percentiles(results);
    writer.write_record(header(&percentiles)).map_err(failed)?;
    for result in results {
        writer
            .write_record(line(result, &percentiles))
            .map_err(failed)?;
    }
    let bytes = writer.into_inner();
    bytes.map_err(|e| Error::Results(format!("summary.csv: {e}")))
}

/// The requests of one cell.
pub fn requests(requests: &[RequestTrace]) -> Result<Vec<u8>, Error> {
    let failed = |e: &dyn std::fmt::Display| Error::Results(format!("requests: {e}"));
    let mut writer = csv::Writer::from_writer(Vec::new());
    for request in requests {
        writer.serialize(request).map_err(|e| failed(&e))?;
    }
    writer.into_inner().map_err(|e| failed(&e))
}

/// Of `--metric-percentiles`: the same in every cell.
fn extra_percentiles(results: &[CellResult]) -> Vec<f64> {
    let runs = results.iter().flat_map(|r| &r.runs);
    runs.filter_map(|r| r.summary.e2el_ms.as_ref())
        .map(|s| s.extra.iter().map(|&(p, _)| p).collect())
        .next()
        .unwrap_or_default()
}

fn header(percentiles: &[f64]) -> Vec<String> {
    let mut names: Vec<String> = [
        "policy",
        "max_batch_size",
        "max_queue_delay_ms",
        "padding",
        "prompts",
        "output_len",
        "load",
        "max_concurrency",
        "request_rate",
        "num_runs",
        "requests",
        "completed",
        "failed",
        "n_per_run_below_200",
        "gpu_window_short",
    ]
    .map(String::from)
    .into();
    names.extend(NUMBERS.map(|(name, _)| name.into()));
    for (metric, _) in STATISTICS {
        names.extend(OF_EACH.map(|(statistic, _)| format!("{metric}_{statistic}")));
        names.extend(percentiles.iter().map(|p| format!("{metric}_p{p}")));
    }
    names.extend(WITH_CONFIDENCE.map(|(name, _)| format!("{name}_ci95_half_width")));
    names
}

fn line(result: &CellResult, percentiles: &[f64]) -> Vec<String> {
    let cell = &result.cell;
    let number = |v: Option<f64>| v.map_or(String::new(), |v| v.to_string());
    let sum = |of: fn(&crate::metrics::Summary) -> usize| {
        result
            .runs
            .iter()
            .map(|r| of(&r.summary))
            .sum::<usize>()
            .to_string()
    };
    let (load, clients) = match cell.load {
        LoadSpec::Closed { concurrency } => ("closed", concurrency.to_string()),
        LoadSpec::Poisson { .. } => ("poisson", String::new()),
        LoadSpec::Share { .. } => ("poisson_share_of_closed", String::new()),
        LoadSpec::Offline => ("offline", String::new()),
    };
    let mut fields = vec![
        cell.policy.to_string(),
        match cell.policy {
            PolicyKind::Server => String::new(),
            _ => cell.batch_size.to_string(),
        },
        number(cell.window_ms),
        cell.padding.to_string(),
        cell.prompts.clone(),
        cell.output_len.clone(),
        load.into(),
        clients,
        number(result.request_rate),
        result.runs.len().to_string(),
        sum(|s| s.requests),
        sum(|s| s.completed),
        sum(|s| s.failed),
        few_samples(result).to_string(),
        short_window(result).to_string(),
    ];
    fields.extend(NUMBERS.iter().map(|(_, of)| number(result.mean(of))));
    for (_, metric) in STATISTICS {
        for (_, statistic) in OF_EACH {
            fields.push(number(result.mean(|r| metric(&r.summary).map(statistic))));
        }
        for &percentile in percentiles {
            fields.push(number(result.mean(|r| {
                let extra = &metric(&r.summary)?.extra;
                extra
                    .iter()
                    .find(|(p, _)| *p == percentile)
                    .map(|(_, v)| *v)
            })));
        }
    }
    let interval = |name| result.confidence.get(name).map(|i| i.half_width);
    fields.extend(
        WITH_CONFIDENCE
            .iter()
            .map(|(name, _)| number(interval(*name))),
    );
    fields
}
