//! `batchlab gpu`: what a GPU is doing, live, and how NVML and nvidia-smi agree on it.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use batchlab::Error;
use batchlab::clock::{Clock, WallClock};
use batchlab::number::short;
use batchlab::report::{comparison, write_atomically};
use batchlab::runner::cuda::{self, Path, Paths};
use batchlab::runner::{self, DeviceChoice};
use batchlab::telemetry::{GpuId, GpuInfo, GpuReading, NvmlSource, Sampler, SmiReader, compare};
use serde_json::json;

use super::engine_args::EngineArgs;
use super::gpu_load::{decode_until, limits};
use super::print;

/// Show utilisation, memory, power, clocks and activity of a GPU, or compare NVML with nvidia-smi.
#[derive(Debug, clap::Args)]
pub struct GpuArgs {
    /// The GPU to show, as nvidia-smi numbers them
    #[arg(
        long,
        default_value_t = 0,
        value_name = "N",
        conflicts_with = "compare_nvidia_smi"
    )]
    gpu: u32,
    /// Show one reading and end
    #[arg(long)]
    once: bool,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
    /// Time between readings; the activity counters need at least 100
    #[arg(long, default_value_t = 500, value_name = "MS", value_parser = clap::value_parser!(u64).range(100..=60_000))]
    interval_ms: u64,
    /// Decode with a model, read NVML and nvidia-smi meanwhile, and print both
    #[arg(long, conflicts_with = "once")]
    compare_nvidia_smi: bool,
    /// Length of the comparison
    #[arg(long, default_value_t = 10.0, value_name = "S", requires = "compare_nvidia_smi", value_parser = seconds)]
    seconds: f64,
    /// Write the comparison to this JSON file
    #[arg(long, value_name = "FILE", requires = "compare_nvidia_smi")]
    output: Option<PathBuf>,
    #[command(flatten)]
    engine: EngineArgs,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(s) if (1.0..=3600.0).contains(&s) => Ok(s),
        _ => Err("give 1 to 3600 seconds".into()),
    }
}

pub fn run(args: &GpuArgs) -> anyhow::Result<()> {
    match args.compare_nvidia_smi {
        true => compare_readers(args),
        false => show(args),
    }
}

fn show(args: &GpuArgs) -> anyhow::Result<()> {
    let source = NvmlSource::open(&GpuId::Index(args.gpu)).map_err(Error::from)?;
    let info = source.info();
    if !args.json {
        print(&kernels(&info))?;
    }
    let name = info.name.unwrap_or_else(|| "GPU".into());
    let clock = WallClock::start();
    let interval = Duration::from_millis(args.interval_ms);
    let sampler = Sampler::start(source, interval, clock.started()).map_err(Error::from)?;
    let redraw = std::io::stdout().is_terminal() && !args.json && !args.once;
    let mut out = std::io::stdout().lock();
    let mut next = clock.now();
    loop {
        // The second reading is the first one with activity counters.
        next += interval;
        clock.sleep_until(next);
        let Some(sample) = sampler.latest() else {
            continue;
        };
        let line = match args.json {
            true => serde_json::to_string(&sample).context("a reading as JSON")?,
            false => format!("{name}: {}", one_line(&sample.reading)),
        };
        let end = if redraw { "\r" } else { "\n" };
        let start = if redraw { "\x1b[2K" } else { "" };
        write!(out, "{start}{line}{end}")
            .and_then(|()| out.flush())
            .context("stdout")?;
        if args.once {
            return Ok(());
        }
    }
}

/// Which kernels run on the GPU that NVML describes, or why none do.
fn kernels(gpu: &GpuInfo) -> String {
    // NVML writes the domain of a bus id with more digits, and in capitals.
    let bus_id = gpu.pci_bus_id.as_deref().unwrap_or("").to_lowercase();
    let is_it = |&n: &usize| cuda::pci_bus_id(n).is_ok_and(|id| bus_id.ends_with(&id));
    if let Err(why) = cuda::available(0) {
        return format!("kernels: {why}");
    }
    let mut ordinals = (0..).take_while(|&n| cuda::available(n).is_ok());
    match ordinals.find(is_it).map(cuda::paths) {
        Some(Ok(paths)) => in_lines(&paths),
        Some(Err(why)) => format!("kernels: {why}"),
        None => "kernels: none, CUDA does not see this GPU".into(),
    }
}

fn in_lines(paths: &Paths) -> String {
    let mut lines = vec![format!(
        "kernels on {}, bf16: {} code, {}",
        paths.device, paths.code, paths.cublaslt
    )];
    let line = |path: &Path| format!("  {:<28} {}", path.operation, path.kernel);
    lines.extend(paths.paths.iter().map(line));
    lines.join("\n")
}

fn one_line(r: &GpuReading) -> String {
    let mib = r
        .gpu_memory_used_bytes
        .map(|b| b as f64 / f64::from(1 << 20));
    let throttled = match &r.throttle_reasons {
        None => "–".into(),
        Some(names) if names.is_empty() => "none".into(),
        Some(names) => names.join("+"),
    };
    format!(
        "util {} % · SM {} % · tensor {} % · DRAM {} % · {} MiB · {} W · {}/{} MHz · {} °C · throttle {}",
        short(r.gpu_utilization_percent),
        short(r.sm_active_percent),
        short(r.tensor_active_percent),
        short(r.dram_bandwidth_percent),
        short(mib),
        short(r.gpu_power_w),
        short(r.sm_clock_mhz.map(f64::from)),
        short(r.memory_clock_mhz.map(f64::from)),
        short(r.temperature_c.map(f64::from)),
        throttled,
    )
}

fn compare_readers(args: &GpuArgs) -> anyhow::Result<()> {
    let device = match args.engine.model.device {
        DeviceChoice::Cuda { ordinal } => DeviceChoice::Cuda { ordinal },
        DeviceChoice::Auto => DeviceChoice::Cuda { ordinal: 0 },
        DeviceChoice::Cpu => {
            return Err(
                Error::Usage("the comparison needs a GPU; leave --device cpu out".into()).into(),
            );
        }
    };
    let model = args.engine.model()?;
    let options = args.engine.runner_options(limits(&model));
    let (mut runner, line) = runner::open(device, &model, &options)?;
    eprintln!("{line}");
    let Some(gpu) = runner.pci_bus_id().map(GpuId::PciBusId) else {
        return Err(Error::Usage(
            "the GPU's PCI bus id cannot be read, so NVML cannot find it".into(),
        )
        .into());
    };
    let clock = WallClock::start();
    let source = NvmlSource::open(&gpu).map_err(Error::from)?;
    let info = source.info();
    let nvml = Sampler::start(source, Sampler::INTERVAL, clock.started()).map_err(Error::from)?;
    let smi = SmiReader::start(&gpu, SmiReader::INTERVAL, clock.started()).map_err(Error::from)?;

    // Both readers average over about a second: let the load fill it before the window begins.
    let begin = clock.now() + Duration::from_secs(2);
    decode_until(runner.as_mut(), &model, &clock, begin)?;
    let from = clock.now();
    let end = from + Duration::from_secs_f64(args.seconds);
    let tokens = decode_until(runner.as_mut(), &model, &clock, end)?;
    let to = clock.now();

    let (nvml, smi) = (nvml.window(from, to), smi.window(from, to));
    let rows = compare(&nvml, &smi, to - from);
    let window_s = (to - from).as_secs_f64();
    print(&format!(
        "{}\n{} samples of NVML, {} of nvidia-smi in {window_s:.1} s; load: {} tok/s with {}",
        comparison(&rows),
        nvml.gpu_samples,
        smi.gpu_samples,
        short(Some(tokens as f64 / window_s)),
        model.spec.name,
    ))?;
    let json = json!({
        "batchlab_version": env!("CARGO_PKG_VERSION"),
        "command": std::env::args().collect::<Vec<_>>(),
        "gpu": info,
        "model": model.spec.name,
        "runner": runner.describe(),
        "window_s": window_s,
        "output_tokens": tokens,
        "quantities": rows,
        "nvml": nvml,
        "nvidia_smi": smi,
    });
    if let Some(path) = &args.output {
        let text = serde_json::to_string_pretty(&json).context("the comparison as JSON")? + "\n";
        write_atomically(path, text.as_bytes())?;
        eprintln!("written: {}", path.display());
    } else if args.json {
        print(&serde_json::to_string(&json).context("the comparison as JSON")?)?;
    }
    Ok(())
}
