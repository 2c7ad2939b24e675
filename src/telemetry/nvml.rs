//! Reading a GPU through NVML, the library behind nvidia-smi.

use std::sync::OnceLock;

use nvml_wrapper::enum_wrappers::device::{Clock, TemperatureSensor};
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};
use serde::{Deserialize, Serialize};

use super::gpm::Gpm;
use super::{GpuReading, GpuSource, TelemetryError, throttle_names};

/// Which GPU. CUDA's ordinals follow CUDA_VISIBLE_DEVICES and CUDA_DEVICE_ORDER and NVML's do
/// not: a GPU that CUDA uses is named by its PCI bus id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GpuId {
    /// As `cuDeviceGetPCIBusId` writes it: `0000:65:00.0`.
    PciBusId(String),
    /// As nvidia-smi numbers them.
    Index(u32),
}

/// What a GPU is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GpuInfo {
    pub name: Option<String>,
    pub uuid: Option<String>,
    pub pci_bus_id: Option<String>,
    pub memory_total_bytes: Option<u64>,
    pub driver_version: Option<String>,
    /// The newest CUDA that the driver runs.
    pub driver_cuda_version: Option<String>,
}

/// Bytes of a GPU's memory, of all processes; what the driver reserves for itself is in none but
/// the total.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GpuMemory {
    pub total: u64,
    pub free: u64,
    pub used: u64,
}

/// An open GPU.
pub struct NvmlSource {
    nvml: &'static Nvml,
    device: Device<'static>,
    gpm: Option<Gpm>,
}

impl NvmlSource {
    /// Errors: no NVML library, no driver, or no such GPU.
    pub fn open(id: &GpuId) -> Result<Self, TelemetryError> {
        let nvml = library()?;
        let find = || match id {
            GpuId::PciBusId(bus) => nvml.device_by_pci_bus_id(bus.as_str()),
            GpuId::Index(index) => nvml.device_by_index(*index),
        };
        let none = |e: NvmlError| TelemetryError::NoGpu {
            cause: match id {
                GpuId::PciBusId(bus) => format!("no GPU at PCI bus id {bus} ({e})"),
                GpuId::Index(index) => format!("no GPU with index {index} ({e})"),
            },
            remedy: "`nvidia-smi -L` lists the GPUs of this machine".into(),
        };
        let device = find().map_err(none)?;
        let gpm = Gpm::open(nvml, find().map_err(none)?);
        Ok(Self { nvml, device, gpm })
    }

    /// None where the driver does not tell.
    pub fn memory(&self) -> Option<GpuMemory> {
        let memory = self.device.memory_info().ok()?;
        Some(GpuMemory {
            total: memory.total,
            free: memory.free,
            used: memory.used,
        })
    }

    pub fn info(&self) -> GpuInfo {
        GpuInfo {
            name: self.device.name().ok(),
            uuid: self.device.uuid().ok(),
            pci_bus_id: self.device.pci_info().ok().map(|pci| pci.bus_id),
            memory_total_bytes: self.memory().map(|m| m.total),
            driver_version: self.nvml.sys_driver_version().ok(),
            driver_cuda_version: self
                .nvml
                .sys_cuda_driver_version()
                .ok()
                .map(|v| format!("{}.{}", v / 1000, v % 1000 / 10)),
        }
    }
}

impl GpuSource for NvmlSource {
    fn read(&mut self) -> GpuReading {
        let device = &self.device;
        let mut reading = GpuReading {
            gpu_utilization_percent: device.utilization_rates().ok().map(|u| f64::from(u.gpu)),
            gpu_memory_used_bytes: self.memory().map(|m| m.used),
            gpu_power_w: device.power_usage().ok().map(|mw| f64::from(mw) / 1e3),
            energy_counter_j: device
                .total_energy_consumption()
                .ok()
                .map(|mj| mj as f64 / 1e3),
            sm_clock_mhz: device.clock_info(Clock::SM).ok(),
            memory_clock_mhz: device.clock_info(Clock::Memory).ok(),
            temperature_c: device.temperature(TemperatureSensor::Gpu).ok(),
            throttle_reasons: device
                .current_throttle_reasons()
                .ok()
                .map(|reasons| throttle_names(reasons.bits())),
            ..GpuReading::default()
        };
        if let Some(gpm) = &mut self.gpm {
            gpm.read(&mut reading);
        }
        reading
    }
}

/// NVML, opened once and kept until the process ends, so that devices may outlive any scope.
fn library() -> Result<&'static Nvml, TelemetryError> {
    static NVML: OnceLock<Result<Nvml, String>> = OnceLock::new();
    NVML.get_or_init(|| Nvml::init().map_err(|e| reason(&e)))
        .as_ref()
        .map_err(|cause| TelemetryError::NoGpu {
            cause: cause.clone(),
            remedy: "install the NVIDIA driver, or run where a GPU is visible".into(),
        })
}

fn reason(error: &NvmlError) -> String {
    match error {
        NvmlError::LibloadingError(_) | NvmlError::LibraryNotFound => {
            "the NVML library (libnvidia-ml.so) is not there".into()
        }
        NvmlError::DriverNotLoaded => "the NVIDIA driver is not loaded".into(),
        other => format!("NVML does not start ({other})"),
    }
}
