//! What a GPU did over a window of time.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{GpuReading, GpuSample};

/// Utilisation is an average of up to a second and the energy counter moves every 100 ms: a
/// shorter window says little.
pub const SHORTEST_WINDOW: Duration = Duration::from_secs(5);

/// Summary of one GPU over a window. `None` is "cannot be known", never zero.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct GpuUsage {
    /// Time-weighted means.
    pub gpu_utilization_percent: Option<f64>,
    pub sm_active_percent: Option<f64>,
    pub tensor_active_percent: Option<f64>,
    pub dram_bandwidth_percent: Option<f64>,
    pub gpu_power_w: Option<f64>,
    pub sm_clock_mhz: Option<f64>,
    pub memory_clock_mhz: Option<f64>,
    /// Largest values seen.
    pub gpu_power_max_w: Option<f64>,
    pub gpu_memory_used_bytes: Option<u64>,
    pub temperature_c: Option<u32>,
    /// The counter's difference, interpolated at both edges.
    pub energy_j: Option<f64>,
    /// Every reason seen, sorted.
    pub throttle_reasons: Option<Vec<String>>,
    /// Samples inside the window.
    pub gpu_samples: usize,
    /// The window is shorter than [`SHORTEST_WINDOW`]: take the values as rough.
    pub gpu_window_short: bool,
}

impl GpuUsage {
    /// Sums up `samples` (in order of time) between `from` and `to`. A sample outside, on either
    /// side, lets counters and means reach the edges.
    pub fn over(samples: &[GpuSample], from: Duration, to: Duration) -> Self {
        let window = Window { samples, from, to };
        let inside = || samples.iter().filter(|s| from <= s.at && s.at <= to);
        Self {
            gpu_utilization_percent: window.mean(|r| r.gpu_utilization_percent),
            sm_active_percent: window.mean(|r| r.sm_active_percent),
            tensor_active_percent: window.mean(|r| r.tensor_active_percent),
            dram_bandwidth_percent: window.mean(|r| r.dram_bandwidth_percent),
            gpu_power_w: window.mean(|r| r.gpu_power_w),
            sm_clock_mhz: window.mean(|r| r.sm_clock_mhz.map(f64::from)),
            memory_clock_mhz: window.mean(|r| r.memory_clock_mhz.map(f64::from)),
            gpu_power_max_w: inside()
                .filter_map(|s| s.reading.gpu_power_w)
                .reduce(f64::max),
            gpu_memory_used_bytes: inside()
                .filter_map(|s| s.reading.gpu_memory_used_bytes)
                .max(),
            temperature_c: inside().filter_map(|s| s.reading.temperature_c).max(),
            energy_j: window.energy(),
            throttle_reasons: inside()
                .filter_map(|s| s.reading.throttle_reasons.as_ref())
                .fold(None, |seen: Option<BTreeSet<&String>>, names| {
                    let mut seen = seen.unwrap_or_default();
                    seen.extend(names);
                    Some(seen)
                })
                .map(|seen| seen.into_iter().cloned().collect()),
            gpu_samples: inside().count(),
            gpu_window_short: to.saturating_sub(from) < SHORTEST_WINDOW,
        }
    }
}

struct Window<'a> {
    samples: &'a [GpuSample],
    from: Duration,
    to: Duration,
}

impl Window<'_> {
    fn series(&self, of: impl Fn(&GpuReading) -> Option<f64>) -> Vec<(Duration, f64)> {
        self.samples
            .iter()
            .filter_map(|s| Some((s.at, of(&s.reading)?)))
            .collect()
    }

    /// The driver averages over the time before a reading, so a value holds from the reading
    /// before it to its own.
    fn mean(&self, of: impl Fn(&GpuReading) -> Option<f64>) -> Option<f64> {
        let (mut sum, mut time) = (0.0, 0.0);
        let mut begin = Duration::ZERO;
        for (at, value) in self.series(of) {
            let held = at.min(self.to).saturating_sub(begin.max(self.from));
            sum += value * held.as_secs_f64();
            time += held.as_secs_f64();
            begin = at;
        }
        (time > 0.0).then(|| sum / time)
    }

    fn energy(&self) -> Option<f64> {
        let counter = self.series(|r| r.energy_counter_j);
        let joules = counter_at(&counter, self.to)? - counter_at(&counter, self.from)?;
        // The counter starts anew when the driver is reloaded.
        (joules >= 0.0).then_some(joules)
    }
}

/// The counter at a moment, between the readings on either side of it.
fn counter_at(series: &[(Duration, f64)], at: Duration) -> Option<f64> {
    let after = series.iter().position(|&(t, _)| t >= at)?;
    let (t1, v1) = series[after];
    if t1 == at {
        return Some(v1);
    }
    let (t0, v0) = series[after.checked_sub(1)?];
    let share = (at - t0).as_secs_f64() / (t1 - t0).as_secs_f64();
    Some(v0 + share * (v1 - v0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(at_ms: u64, reading: GpuReading) -> GpuSample {
        GpuSample {
            at: Duration::from_millis(at_ms),
            reading,
        }
    }

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn means_are_weighted_by_time_and_clipped_to_the_window() {
        let busy = |at, percent| {
            sample(
                at,
                GpuReading {
                    gpu_utilization_percent: Some(percent),
                    ..Default::default()
                },
            )
        };
        let samples = [
            busy(0, 7.0),
            busy(100, 10.0),
            busy(400, 50.0),
            busy(600, 90.0),
        ];
        // 50..100 at 10, 100..400 at 50, 400..500 at 90.
        let usage = GpuUsage::over(&samples, ms(50), ms(500));
        let wanted = (50.0 * 10.0 + 300.0 * 50.0 + 100.0 * 90.0) / 450.0;
        assert!((usage.gpu_utilization_percent.unwrap() - wanted).abs() < 1e-9);
        assert_eq!(usage.gpu_samples, 2);
        assert!(usage.gpu_window_short);
    }

    #[test]
    fn energy_is_the_difference_of_the_counter_at_the_edges() {
        let counter = |at, joules| {
            sample(
                at,
                GpuReading {
                    energy_counter_j: Some(joules),
                    ..Default::default()
                },
            )
        };
        let samples = [
            counter(0, 1000.0),
            counter(100, 1010.0),
            counter(6100, 1610.0),
        ];
        let usage = GpuUsage::over(&samples, ms(50), ms(6100));
        assert!((usage.energy_j.unwrap() - 605.0).abs() < 1e-9);
        assert!(!usage.gpu_window_short);
        // Unknown before the first and after the last reading, and when the counter went back.
        assert_eq!(GpuUsage::over(&samples, ms(0), ms(6200)).energy_j, None);
        assert_eq!(
            GpuUsage::over(&samples[1..], ms(50), ms(6100)).energy_j,
            None
        );
        let reset = [counter(0, 1000.0), counter(100, 3.0)];
        assert_eq!(GpuUsage::over(&reset, ms(0), ms(100)).energy_j, None);
    }

    #[test]
    fn peaks_and_reasons_come_from_inside_the_window() {
        let hot = |at, power, memory, reason: &str| {
            sample(
                at,
                GpuReading {
                    gpu_power_w: Some(power),
                    gpu_memory_used_bytes: Some(memory),
                    throttle_reasons: Some(vec![reason.into()]),
                    ..Default::default()
                },
            )
        };
        let samples = [
            hot(0, 900.0, 99, "gpu_idle"),
            hot(100, 300.0, 10, "sw_power_cap"),
            hot(200, 200.0, 30, "hw_slowdown"),
            hot(300, 800.0, 88, "gpu_idle"),
        ];
        let usage = GpuUsage::over(&samples, ms(50), ms(250));
        assert_eq!(usage.gpu_power_max_w, Some(300.0));
        assert_eq!(usage.gpu_memory_used_bytes, Some(30));
        assert_eq!(
            usage.throttle_reasons.unwrap(),
            ["hw_slowdown", "sw_power_cap"]
        );
    }

    #[test]
    fn nothing_known_is_none_everywhere() {
        let blind = [
            sample(0, GpuReading::default()),
            sample(100, GpuReading::default()),
        ];
        let usage = GpuUsage::over(&blind, ms(0), ms(100));
        let wanted = GpuUsage {
            gpu_samples: 2,
            gpu_window_short: true,
            ..Default::default()
        };
        assert_eq!(usage, wanted);
        assert_eq!(GpuUsage::over(&[], ms(0), ms(100)).gpu_samples, 0);
    }
}
