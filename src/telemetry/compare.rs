//! NVML's readings beside nvidia-smi's, over the same window.

use std::time::Duration;

use serde::Serialize;

use super::GpuUsage;

/// One quantity as both readers saw it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ComparedQuantity {
    pub quantity: &'static str,
    pub unit: &'static str,
    pub nvml: Option<f64>,
    pub nvidia_smi: Option<f64>,
    /// nvidia-smi − NVML, where both are known.
    pub difference: Option<f64>,
}

/// Every numeric quantity of two summaries of one `window`. nvidia-smi has no energy counter:
/// its energy is its mean power times the window.
pub fn compare(nvml: &GpuUsage, smi: &GpuUsage, window: Duration) -> Vec<ComparedQuantity> {
    let smi_energy = smi.gpu_power_w.map(|w| w * window.as_secs_f64());
    let mib = |bytes: Option<u64>| bytes.map(|b| b as f64 / f64::from(1 << 20));
    let row = |quantity, unit, nvml: Option<f64>, nvidia_smi: Option<f64>| ComparedQuantity {
        quantity,
        unit,
        nvml,
        nvidia_smi,
        difference: nvml.zip(nvidia_smi).map(|(a, b)| b - a),
    };
    vec![
        row(
            "gpu_utilization (mean)",
            "%",
            nvml.gpu_utilization_percent,
            smi.gpu_utilization_percent,
        ),
        row(
            "gpu_memory_used (peak)",
            "MiB",
            mib(nvml.gpu_memory_used_bytes),
            mib(smi.gpu_memory_used_bytes),
        ),
        row("gpu_power (mean)", "W", nvml.gpu_power_w, smi.gpu_power_w),
        row(
            "gpu_power (max)",
            "W",
            nvml.gpu_power_max_w,
            smi.gpu_power_max_w,
        ),
        row(
            "energy (nvidia-smi: mean power × time)",
            "J",
            nvml.energy_j,
            smi_energy,
        ),
        row(
            "sm_clock (mean)",
            "MHz",
            nvml.sm_clock_mhz,
            smi.sm_clock_mhz,
        ),
        row(
            "memory_clock (mean)",
            "MHz",
            nvml.memory_clock_mhz,
            smi.memory_clock_mhz,
        ),
        row(
            "temperature (max)",
            "°C",
            nvml.temperature_c.map(f64::from),
            smi.temperature_c.map(f64::from),
        ),
        row(
            "sm_active (GPM, mean)",
            "%",
            nvml.sm_active_percent,
            smi.sm_active_percent,
        ),
        row(
            "tensor_active (GPM, mean)",
            "%",
            nvml.tensor_active_percent,
            smi.tensor_active_percent,
        ),
        row(
            "dram_bandwidth (GPM, mean)",
            "%",
            nvml.dram_bandwidth_percent,
            smi.dram_bandwidth_percent,
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn energy_is_compared_with_power_times_time() {
        let nvml = GpuUsage {
            energy_j: Some(1000.0),
            ..Default::default()
        };
        let smi = GpuUsage {
            gpu_power_w: Some(98.0),
            ..Default::default()
        };
        let rows = compare(&nvml, &smi, Duration::from_secs(10));
        let of = |name: &str| rows.iter().find(|r| r.quantity.starts_with(name)).unwrap();
        assert_eq!(of("energy").difference, Some(-20.0));
        assert_eq!(of("gpu_power (mean)").nvml, None);
        assert_eq!(of("gpu_power (mean)").difference, None);
    }
}
