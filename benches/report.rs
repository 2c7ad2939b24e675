//! How long a report takes: reading the folder, concluding, drawing and writing.
//!
//!   cargo bench --bench report -- [--cells 100] [--requests 10000]

#[path = "../tests/analysis/made.rs"]
mod made;

use std::error::Error;
use std::time::{Duration, Instant};

use batchlab::analysis::{Analysis, Context};
use batchlab::report::{Report, ResultsFolder, SavedSweep, write_page};
use batchlab::sweep::{CellResult, CellSpec};
use batchlab::telemetry::{GpuReading, GpuSample};
use clap::Parser;

use made::{SHAPE, Shape, cell, closed, header, poisson};

#[derive(Parser)]
struct Args {
    #[arg(long, default_value_t = 100)]
    cells: usize,
    /// Of each cell.
    #[arg(long, default_value_t = 10_000)]
    requests: usize,
    /// What cargo gives every bench.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Batch sizes 1 to 8, windows, closed loops and open loads in turn.
fn spec(index: usize) -> CellSpec {
    let rows = 1 + index % 8;
    let mut spec = match index / 8 % 2 {
        0 => closed(rows),
        _ => poisson(rows, 10.0 + (index / 16 % 2) as f64),
    };
    spec.window_ms = Some((index / 32) as f64);
    spec
}

/// One of ten readings a second.
fn sample(index: u64) -> GpuSample {
    GpuSample {
        at: Duration::from_millis(1000 + 100 * index),
        reading: GpuReading {
            gpu_utilization_percent: Some((index % 100) as f64),
            gpu_power_w: Some(300.0 + index as f64),
            ..GpuReading::default()
        },
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    let dir = tempfile::tempdir()?;
    let folder = dir.path().join("results");
    let mut results = ResultsFolder::create(&folder)?;
    let mut cells: Vec<CellResult> = Vec::new();
    let samples: Vec<GpuSample> = (0..50).map(sample).collect();
    for index in 0..args.cells {
        let spec = spec(index);
        let shape = Shape {
            rows: spec.batch_size,
            service_ms: 100.0 + index as f64,
            batches: args.requests / spec.batch_size,
            rate: spec.load.is_open().then_some(10.0),
            ..SHAPE
        };
        let made = cell(index, spec, shape);
        results.append(&made, &samples)?;
        cells.push(made.result);
    }
    let header = header(cells.len(), "made data");
    results.write_report(&Report::of(header, &cells))?;

    let start = Instant::now();
    let saved = SavedSweep::open(&folder)?;
    let opened = start.elapsed();
    let context = Context {
        kv_pool_bytes: saved.header.kv.map_or(0, |kv| kv.predicted_bytes),
        samples: &|index| saved.samples(index),
        own: None,
    };
    let analysis = Analysis::of(&saved.cells, &context)?;
    let concluded = start.elapsed();
    let page = write_page(&saved, &analysis, None, &folder)?;
    let written = start.elapsed();
    println!(
        "{} cells × {} requests: read {:.2} s, concluded {:.2} s, drawn and written {:.2} s; in all {:.2} s; {:.2} MB of HTML",
        args.cells,
        args.requests,
        opened.as_secs_f64(),
        (concluded - opened).as_secs_f64(),
        (written - concluded).as_secs_f64(),
        written.as_secs_f64(),
        page.metadata()?.len() as f64 / 1e6
    );
    Ok(())
}
