//! A device's memory: how much there is, and how much of it a runner takes.

use batchlab::Error;
use batchlab::model::Model;
use batchlab::report::{MemoryInfo, PartInfo};
use batchlab::runner::{self, Chosen, DeviceChoice, Runner, RunnerOptions, choose, cuda};
use batchlab::telemetry::{GpuId, NvmlSource};

/// NVML's view of the GPU that was chosen. None on a CPU, and where NVML cannot be read.
pub fn nvml(chosen: &Chosen) -> Option<NvmlSource> {
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
