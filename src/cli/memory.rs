//! A device's memory: how much there is, and how much of it a runner takes.

use batchlab::Error;
use batchlab::model::Model;
use batchlab::report::{MemoryInfo, PartInfo};
use batchlab::runner::{
    self, Chosen, DeviceChoice, Runner, RunnerOptions, Target, choose, cpu, cuda,
};
use batchlab::sizing::Memory;
use batchlab::telemetry::{GpuId, NvmlSource};

/// NVML's view of the GPU that was chosen. None on a CPU, and where NVML cannot be read.
fn nvml(chosen: &Chosen) -> Option<NvmlSource> {
    let ordinal = chosen.cuda.filter(|&n| cuda::available(n).is_ok())?;
    let bus_id = cuda::pci_bus_id(ordinal).ok()?;
    NvmlSource::open(&GpuId::PciBusId(bus_id)).ok()
}

/// Opens the runner, says on stderr which device it is and why, and reads what it took.
pub fn open_measured(
    device: DeviceChoice,
    model: &Model,
    options: &RunnerOptions,
) -> Result<(Box<dyn Runner>, MemoryInfo), Error> {
    let nvml = nvml(&choose(device));
    let used = || Some(nvml.as_ref()?.memory()?.used);
    let before = used();
    let (runner, line) = runner::open(device, model, options)?;
    eprintln!("{line}");
    let memory = runner.memory();
    let part = |predicted_bytes, allocated_bytes| PartInfo {
        predicted_bytes,
        allocated_bytes,
    };
    let info = MemoryInfo {
        weights: part(memory.asked.weights, memory.given.weights),
        scratch: part(memory.asked.scratch, memory.given.scratch),
        kv: part(memory.asked.kv, memory.given.kv),
        device_allocated_bytes: memory.device,
        gpu_memory_used_before_bytes: before,
        gpu_memory_used_after_bytes: used(),
    };
    Ok((runner, info))
}

/// Where a planned model is to run.
pub struct Place {
    pub target: Target,
    pub memory: Option<Memory>,
    /// Why there is no memory to fit into.
    pub no_memory: Option<String>,
}

/// What is asked of a [`Place`].
pub struct Wanted {
    pub device: DeviceChoice,
    /// The CPU is meant where there is no GPU, and not a GPU that is elsewhere.
    pub here: bool,
    /// Free memory to count with in place of the device's own.
    pub free_bytes: Option<u64>,
    /// `--gpu-memory-utilization`
    pub share: f64,
}

impl Place {
    /// Sizes are a GPU's, unless a CPU is meant.
    pub fn find(wanted: &Wanted) -> Result<Self, Error> {
        let chosen = choose(wanted.device);
        let cpu_meant = wanted.here || wanted.device == DeviceChoice::Cpu;
        let (target, found) = match chosen.cuda {
            Some(ordinal) => {
                cuda::available(ordinal)?;
                (Target::Cuda, gpu_memory(&chosen, wanted.share))
            }
            None if cpu_meant => (Target::Cpu, cpu_memory()),
            None => (Target::Cuda, None),
        };
        let given = wanted.free_bytes.map(|free_bytes| Memory {
            name: "--gpu-memory".into(),
            total_bytes: None,
            free_bytes,
            share: wanted.share,
        });
        let memory = given.or(found);
        let why = match (chosen.cuda, target) {
            (Some(_), _) => "NVML does not tell how much memory the GPU has".into(),
            (None, Target::Cpu) => "the system does not tell how much memory is free".into(),
            (None, Target::Cuda) => format!("no GPU: {}", chosen.why),
        };
        Ok(Self {
            target,
            no_memory: memory.is_none().then_some(why),
            memory,
        })
    }
}

fn gpu_memory(chosen: &Chosen, share: f64) -> Option<Memory> {
    let nvml = nvml(chosen)?;
    let memory = nvml.memory()?;
    Some(Memory {
        name: nvml.info().name.unwrap_or_else(|| "the GPU".into()),
        total_bytes: Some(memory.total),
        free_bytes: memory.free,
        share,
    })
}

/// The CPU runner takes what it needs of what is free.
fn cpu_memory() -> Option<Memory> {
    Some(Memory {
        name: "the CPU".into(),
        total_bytes: None,
        free_bytes: cpu::available_memory()?,
        share: 1.0,
    })
}
