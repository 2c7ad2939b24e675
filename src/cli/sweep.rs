//! `batchlab sweep`: opens model, runner and results folder, measures every cell, reports.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use anyhow::Context;
use batchlab::Error;
use batchlab::clock::WallClock;
use batchlab::model::Model;
use batchlab::report::{
    Header, KvInfo, Machine, MemoryInfo, Progress, Report, ResultsFolder, Resumed, Status,
    default_folder, dry_run, tables,
};
use batchlab::runner::{Limits, Runner};
use batchlab::sweep::{
    CellResult, CellSpec, Grid, InProcess, Measure, MeasureOptions, Measured, Observer, Outcome,
    Prompts, Workload, all_cells, run as run_sweep,
};
use batchlab::telemetry::{GpuId, GpuInfo, GpuSample, NvmlSource, Sampler};
use serde_json::json;

use super::memory::open_measured;
use super::sweep_args::{Asked, SweepArgs};
use super::target_args::without_key;
use super::{print, report, sweep_target};

/// Times that Ctrl-C was pressed.
static STOPS: AtomicUsize = AtomicUsize::new(0);

pub fn run(args: &SweepArgs) -> anyhow::Result<()> {
    let asked = args.asked()?;
    args.measure_options(false)?;
    if args.results.dry_run {
        let cells = all_cells(&asked.grids);
        return print(&format!("{}\n{} cells", dry_run(&cells), cells.len()));
    }
    stop_on_ctrl_c()?;
    match &args.target.target {
        Some(address) => sweep_target::run(args, &asked, address),
        None => run_engine(args, &asked),
    }
}

fn run_engine(args: &SweepArgs, asked: &Asked) -> anyhow::Result<()> {
    let model = args.engine.model()?;
    let workloads = asked.workloads(&model.tokenizer)?;
    let budget = args.max_num_batched_tokens(&asked.grids);
    let limits = limits(asked, &model, &workloads, budget)?;
    let options = args.engine.runner_options(limits);
    let (mut runner, memory) = open_measured(args.engine.model.device, &model, &options)?;
    let options = args.measure_options(runner.pci_bus_id().is_some())?;
    let clock = WallClock::start();
    let (gpu, sampler) = watch_gpu(runner.pci_bus_id().map(GpuId::PciBusId), &clock);
    let layout = runner.kv_layout();
    let measured = Subject {
        gpu,
        runner: runner.describe(),
        kv: Some(KvInfo {
            kv_bytes_per_token: layout.bytes_per_token(),
            page_size: layout.page_size,
            pages: runner.kv_pages(),
            predicted_bytes: memory.kv.predicted_bytes,
            allocated_bytes: Some(memory.kv.allocated_bytes),
        }),
        memory: Some(memory),
        config: config(&model, runner.as_ref(), &asked.grids, &options),
        engine_options: args.engine.as_options(runner.as_ref()),
    };
    let mut service = InProcess {
        runner: runner.as_mut(),
        clock: &clock,
        options: &options,
        max_positions: model.spec.max_positions,
    };
    let mut measure = Measure {
        service: &mut service,
        clock: &clock,
        gpu: sampler.as_ref(),
        options: &options,
        workloads: &workloads,
        output_lens: &asked.output_lens,
        vocab: model.spec.vocab,
        eos_tokens: &model.spec.eos_tokens,
    };
    carry_out(args, asked, measured, &mut measure)
}

/// Measures every cell, keeps the results, and ends with the report.
pub fn carry_out(
    args: &SweepArgs,
    asked: &Asked,
    subject: Subject,
    measure: &mut Measure<'_>,
) -> anyhow::Result<()> {
    let cells = all_cells(&asked.grids);
    let Resumed {
        folder,
        cells: mut results,
        started_utc,
    } = open_folder(args, &subject.config)?;
    let mut header = header(args, asked, subject);
    if let Some(started_utc) = started_utc {
        header.started_utc = started_utc;
    }
    let mut keeper = Keeper {
        progress: Progress::start(cells.len(), results.len()),
        folder,
    };
    keeper.write(&header, Status::Running, &results)?;
    let outcome = run_sweep(&cells, &mut results, measure, &mut keeper);
    keeper.progress.finish();

    results.sort_by_key(|r| r.index);
    let status = match outcome {
        Ok(Outcome::Complete) => Status::Complete,
        _ => Status::Interrupted,
    };
    let written = keeper.write(&header, status, &results);
    // What was measured is shown even where it could not be written.
    let printed = print(&tables(&results));
    let outcome = outcome?;
    written?;
    printed?;
    if !results.is_empty() {
        report::conclude(keeper.folder.path(), &args.advice)?;
    }
    let path = keeper.folder.path().display();
    match outcome {
        Outcome::Complete => Ok(()),
        Outcome::Interrupted => Err(Error::Interrupted(format!(
            "{} of {} cells are kept; go on with --resume --output {path}",
            results.len(),
            cells.len()
        ))
        .into()),
    }
}

/// The first Ctrl-C lets the running cell end, the second one ends the process.
fn stop_on_ctrl_c() -> anyhow::Result<()> {
    ctrlc::set_handler(|| {
        if STOPS.fetch_add(1, Ordering::SeqCst) > 0 {
            std::process::exit(130);
        }
        eprintln!("stopping after this cell; Ctrl-C again stops at once");
    })
    .context("Ctrl-C cannot be watched")
}

/// Room for full batches of the longest request, and for a step of `budget` tokens.
fn limits(
    asked: &Asked,
    model: &Model,
    workloads: &[Workload],
    budget: Option<usize>,
) -> Result<Limits, Error> {
    let longest = |prompts: &Prompts| match prompts {
        Prompts::Lines(lines) => lines.iter().map(Vec::len).max().unwrap_or(0),
        Prompts::Random(mix) | Prompts::Fresh(mix) => mix.max(),
    };
    let input = workloads
        .iter()
        .map(|w| longest(&w.prompts))
        .max()
        .unwrap_or(0);
    let outputs = asked.output_lens.iter().map(|o| o.max());
    let output = outputs.max().unwrap_or(0);
    let context = model.spec.max_positions;
    if input.saturating_add(output) > context {
        return Err(Error::Usage(format!(
            "the longest prompt has {input} tokens and the longest output {output}, together more \
             than the context of {} ({context} tokens); shorten the prompt or --output-len",
            model.spec.name
        )));
    }
    let sizes = asked.grids.iter().flat_map(|g| &g.batch_sizes);
    let max_rows = sizes.copied().max().unwrap_or(1);
    let max_kv_len = input + output;
    // A step never has more than everything that is known of its rows.
    let budget = budget.map_or(0, |budget| budget.min(max_rows * max_kv_len));
    Ok(Limits {
        max_rows,
        max_tokens: budget.max(max_rows * input),
        max_kv_len,
    })
}

/// Without telemetry the sweep goes on, with dashes.
pub fn watch_gpu(id: Option<GpuId>, clock: &WallClock) -> (Option<GpuInfo>, Option<Sampler>) {
    let Some(id) = id else {
        return (None, None);
    };
    let opened = NvmlSource::open(&id).and_then(|source| {
        let info = source.info();
        let sampler = Sampler::start(source, Sampler::INTERVAL, clock.started())?;
        Ok((info, sampler))
    });
    match opened {
        Ok((info, sampler)) => (Some(info), Some(sampler)),
        Err(error) => {
            eprintln!("GPU columns stay empty: {error}");
            (None, None)
        }
    }
}

fn config(
    model: &Model,
    runner: &dyn Runner,
    grids: &[Grid],
    options: &MeasureOptions,
) -> serde_json::Value {
    json!({
        "model": model.spec.name,
        "runner": runner.describe(),
        "kv_block_size": runner.kv_layout().page_size,
        "grids": grids,
        "measure": options,
    })
}

fn open_folder(args: &SweepArgs, config: &serde_json::Value) -> Result<Resumed, Error> {
    let path: PathBuf = args.results.output.clone().unwrap_or_else(default_folder);
    match args.results.resume {
        true => ResultsFolder::resume(&path, config),
        false => Ok(Resumed {
            folder: ResultsFolder::create(&path)?,
            cells: Vec::new(),
            started_utc: None,
        }),
    }
}

/// What is measured, as the report describes it.
pub struct Subject {
    pub gpu: Option<GpuInfo>,
    pub runner: String,
    pub kv: Option<KvInfo>,
    pub memory: Option<MemoryInfo>,
    /// Everything that must be the same for two results to belong to one sweep.
    pub config: serde_json::Value,
    /// Options that ask for the same again.
    pub engine_options: Vec<String>,
}

fn header(args: &SweepArgs, asked: &Asked, subject: Subject) -> Header {
    let prompt_options = asked.texts.iter();
    Header {
        format: Header::FORMAT,
        batchlab_version: env!("CARGO_PKG_VERSION").into(),
        status: Status::Running,
        started_utc: now_utc(),
        written_utc: now_utc(),
        command: without_key(std::env::args()),
        machine: Machine::this(),
        gpu: subject.gpu,
        runner: subject.runner,
        kv: subject.kv,
        memory: subject.memory,
        config: subject.config,
        cells_total: all_cells(&asked.grids).len(),
        engine_options: subject.engine_options,
        prompt_options: prompt_options
            .map(|t| (t.label.clone(), t.option.clone()))
            .collect(),
        measure_options: args.measure_as_options(),
    }
}

fn now_utc() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string()
}

/// Shows the progress and keeps the results.
struct Keeper {
    progress: Progress,
    folder: ResultsFolder,
}

impl Keeper {
    fn write(&self, header: &Header, status: Status, cells: &[CellResult]) -> Result<(), Error> {
        let header = Header {
            status,
            written_utc: now_utc(),
            ..header.clone()
        };
        self.folder.write_report(&Report::of(header, cells))
    }
}

impl Observer for Keeper {
    fn cell_started(&mut self, index: usize, cell: &CellSpec) {
        self.progress.cell_started(index, cell);
    }

    fn cell_progressed(&mut self, share: f64, output_throughput: f64) {
        self.progress.cell_progressed(share, output_throughput);
    }

    fn cell_finished(&mut self, measured: &Measured, samples: &[GpuSample]) -> Result<(), Error> {
        self.progress.cell_finished(&measured.result);
        self.folder.append(measured, samples)
    }

    fn stop_requested(&self) -> bool {
        STOPS.load(Ordering::SeqCst) > 0
    }
}
