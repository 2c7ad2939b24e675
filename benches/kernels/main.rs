//! One microbenchmark a kernel, bf16, on GPU 0: `cargo bench --bench kernels [-- FILTER --output FILE]`.
//!
//! Times are medians of CUDA graphs of many launches, so that the host's launch cost does not show.
//! Each launch uses other buffers than the one before, more of them than the L2 cache holds twice.
//! As in a step, a launch starts while the one before still runs (on Hopper): the time is the
//! distance from launch to launch, not from a launch's start to its end.
//! `of limit` compares with the nearer of the device's two rates, which the runner measures: of a
//! large copy, and of a large bf16 product for the kernels that compute.

mod attention;
mod cases;
mod device;

use std::path::PathBuf;

use anyhow::{Context, Result};
use batchlab::metrics::Ceilings;
use clap::Parser;
use comfy_table::Table;
use comfy_table::presets::NOTHING;
use serde_json::json;

use cases::Case;
use device::{Device, Timing};

/// Microbenchmarks of the CUDA kernels
#[derive(Parser)]
struct Args {
    /// Run only the kernels whose "name shape" contains this
    filter: Option<String>,
    /// Write the results as JSON
    #[arg(long)]
    output: Option<PathBuf>,
    /// What `cargo bench` passes to every bench
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let device = match Device::open()? {
        Ok(device) => device,
        Err(why) => {
            println!("skipped: {why}");
            return Ok(());
        }
    };
    println!(
        "{}: {} SMs, {:.0} MB L2, copy {:.0} GB/s, GEMM {:.0} TFLOP/s",
        device.name,
        device.sms,
        device.l2_bytes as f64 / 1e6,
        device.ceilings.copy_bytes_per_s / 1e9,
        device.ceilings.flop_per_s / 1e12,
    );
    let mut table = Table::new();
    table.load_style(NOTHING);
    table.set_header([
        "kernel",
        "shape",
        "µs",
        "p10–p90",
        "MB",
        "GB/s",
        "TFLOP/s",
        "of limit",
    ]);
    let mut results = Vec::new();
    for case in cases::all(device.sms) {
        let name = format!("{} {}", case.kernel, case.shape);
        if args
            .filter
            .as_ref()
            .is_some_and(|filter| !name.contains(filter.as_str()))
        {
            continue;
        }
        eprintln!("{name}");
        let timing = device.time(&case).with_context(|| name)?;
        table.add_row(row(&case, &timing, &device.ceilings));
        results.push(record(&case, &timing, &device.ceilings));
    }
    println!("{table}");
    if let Some(path) = args.output {
        let report = json!({
            "gpu": device.name,
            "sms": device.sms,
            "l2_bytes": device.l2_bytes,
            "copy_gb_per_s": device.ceilings.copy_bytes_per_s / 1e9,
            "gemm_tflop_per_s": device.ceilings.flop_per_s / 1e12,
            "dtype": "bf16",
            "version": env!("CARGO_PKG_VERSION"),
            "results": results,
        });
        let text = serde_json::to_string_pretty(&report)?;
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn gb_per_s(case: &Case, timing: &Timing) -> f64 {
    case.bytes / timing.median_us / 1e3
}

fn tflop_per_s(case: &Case, timing: &Timing) -> Option<f64> {
    case.flop.map(|flop| flop / timing.median_us / 1e6)
}

/// Of the rate of a copy, and of that of a product.
fn percents(case: &Case, timing: &Timing, ceilings: &Ceilings) -> (f64, Option<f64>) {
    let of_copy = 1e11 * gb_per_s(case, timing) / ceilings.copy_bytes_per_s;
    let of_gemm = tflop_per_s(case, timing).map(|rate| 1e14 * rate / ceilings.flop_per_s);
    (of_copy, of_gemm)
}

fn row(case: &Case, timing: &Timing, ceilings: &Ceilings) -> [String; 8] {
    let of_limit = match percents(case, timing, ceilings) {
        (of_copy, Some(of_gemm)) if of_gemm > of_copy => format!("{of_gemm:.0} % of GEMM"),
        (of_copy, _) => format!("{of_copy:.0} % of copy"),
    };
    [
        case.kernel.to_owned(),
        case.shape.clone(),
        format!("{:.2}", timing.median_us),
        format!("{:.2}–{:.2}", timing.p10_us, timing.p90_us),
        format!("{:.2}", case.bytes / 1e6),
        format!("{:.0}", gb_per_s(case, timing)),
        tflop_per_s(case, timing).map_or("–".to_owned(), |t| format!("{t:.1}")),
        of_limit,
    ]
}

fn record(case: &Case, timing: &Timing, ceilings: &Ceilings) -> serde_json::Value {
    let (of_copy, of_gemm) = percents(case, timing, ceilings);
    json!({
        "kernel": case.kernel,
        "shape": case.shape,
        "median_us": timing.median_us,
        "p10_us": timing.p10_us,
        "p90_us": timing.p90_us,
        "graph_replays": timing.samples,
        "launches_per_graph": timing.launches,
        "buffer_sets": timing.sets,
        "bytes": case.bytes,
        "flop": case.flop,
        "gb_per_s": gb_per_s(case, timing),
        "tflop_per_s": tflop_per_s(case, timing),
        "percent_of_copy": of_copy,
        "percent_of_gemm": of_gemm,
    })
}
