//! One reading of one GPU. Units are in the names; `None` is "cannot be known here".

use std::time::Duration;

use nvml_wrapper::bitmasks::device::ThrottleReasons;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The quantities of one GPU at one moment.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct GpuReading {
    /// Share of the last 1/6 to 1 s in which any kernel ran: not how full the GPU was.
    pub gpu_utilization_percent: Option<f64>,
    /// GPM (Hopper and newer), since the reading before: share of the SMs that were busy.
    pub sm_active_percent: Option<f64>,
    /// GPM: tensor cores at work, of any type.
    pub tensor_active_percent: Option<f64>,
    /// GPM: of the peak DRAM bandwidth.
    pub dram_bandwidth_percent: Option<f64>,
    /// In use by all processes, without what the driver reserves for itself.
    pub gpu_memory_used_bytes: Option<u64>,
    /// Mean of about the last second.
    pub gpu_power_w: Option<f64>,
    /// Counter since the driver was loaded; it moves about every 100 ms.
    pub energy_counter_j: Option<f64>,
    pub sm_clock_mhz: Option<u32>,
    pub memory_clock_mhz: Option<u32>,
    pub temperature_c: Option<u32>,
    /// Names as in [`throttle_names`]; an empty list says that nothing holds the clocks back.
    pub throttle_reasons: Option<Vec<String>>,
}

/// A reading and when it was taken, since the start of the clock given to the sampler.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GpuSample {
    #[serde(
        rename = "at_s",
        serialize_with = "seconds",
        deserialize_with = "from_seconds"
    )]
    pub at: Duration,
    #[serde(flatten)]
    pub reading: GpuReading,
}

fn seconds<S: Serializer>(at: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(at.as_secs_f64())
}

fn from_seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let seconds = f64::deserialize(deserializer)?;
    Duration::try_from_secs_f64(seconds).map_err(serde::de::Error::custom)
}

/// The names of NVML's throttle (clocks event) reasons in a bit mask, such as `sw_power_cap`.
pub fn throttle_names(mask: u64) -> Vec<String> {
    let mut names: Vec<String> = ThrottleReasons::from_bits_truncate(mask)
        .iter_names()
        .map(|(name, _)| name.to_lowercase())
        .collect();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn throttle_bits_have_names() {
        assert!(throttle_names(0).is_empty());
        assert_eq!(throttle_names(0x4), ["sw_power_cap"]);
        assert_eq!(throttle_names(0x41), ["gpu_idle", "hw_thermal_slowdown"]);
    }

    #[test]
    fn unknown_is_null_and_never_zero() {
        let sample = GpuSample {
            at: Duration::from_millis(1500),
            reading: GpuReading {
                gpu_power_w: Some(71.5),
                ..Default::default()
            },
        };
        let json = serde_json::to_value(&sample).unwrap();
        assert_eq!(json["at_s"], 1.5);
        assert_eq!(json["gpu_power_w"], 71.5);
        assert!(json["energy_counter_j"].is_null());
        assert_eq!(serde_json::from_value::<GpuSample>(json).unwrap(), sample);
    }
}
