//! Whether steps follow one another without a pause: the host's work, and the device's own clock.

use std::time::Duration;

use serde::Serialize;

use super::{Statistics, StepRecord};

/// Of steps that only decode.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Pace {
    /// The host's own work in a step.
    pub host_us_per_step: Statistics,
    /// None where there is no device, or nobody asked its clock.
    #[serde(flatten)]
    pub device: Option<DevicePace>,
}

/// By the device's clock.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct DevicePace {
    /// Mean of a step.
    pub gpu_busy_ms_per_step: f64,
    /// From the end of a step to the start of the next, of the time from end to end.
    pub gpu_idle_between_steps_percent: f64,
}

impl Pace {
    /// None where no step only decodes.
    pub fn of(steps: &[StepRecord]) -> Option<Self> {
        let decodes = || steps.iter().filter(|step| !step.shape.prefills());
        let host_us = decodes().map(|step| step.host.as_secs_f64() * 1e6);
        let (mut count, mut busy, mut idle) = (0, Duration::ZERO, Duration::ZERO);
        for time in decodes().filter_map(|step| step.device) {
            count += 1;
            busy += time.busy;
            idle += time.idle.unwrap_or_default();
        }
        Some(Self {
            host_us_per_step: Statistics::of(host_us.collect(), &[])?,
            device: (count > 0).then(|| DevicePace {
                gpu_busy_ms_per_step: busy.as_secs_f64() * 1e3 / f64::from(count),
                gpu_idle_between_steps_percent: 100.0 * idle.as_secs_f64()
                    / (busy + idle).as_secs_f64().max(1e-9),
            }),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::DeviceTime;
    use crate::scheduler::StepShape;

    fn step(prefills: bool, host_us: u64, device_us: Option<(u64, u64)>) -> StepRecord {
        StepRecord {
            host: Duration::from_micros(host_us),
            device: device_us.map(|(busy, idle)| DeviceTime {
                busy: Duration::from_micros(busy),
                idle: Some(Duration::from_micros(idle)),
            }),
            shape: StepShape {
                rows: 1,
                decode_rows: usize::from(!prefills),
                ..StepShape::default()
            },
            ..StepRecord::default()
        }
    }

    #[test]
    fn pauses_are_a_share_of_the_time_from_end_to_end() {
        let steps = [
            step(true, 900, Some((5000, 700))),
            step(false, 10, Some((190, 10))),
            step(false, 30, Some((170, 30))),
        ];
        let pace = Pace::of(&steps).unwrap();
        assert_eq!(pace.host_us_per_step.mean, 20.0);
        let device = pace.device.unwrap();
        assert!((device.gpu_busy_ms_per_step - 0.18).abs() < 1e-9);
        assert!((device.gpu_idle_between_steps_percent - 10.0).abs() < 1e-9);
    }

    #[test]
    fn no_clock_no_device_and_no_decoding_no_pace() {
        assert_eq!(Pace::of(&[step(true, 1, None)]), None);
        assert_eq!(Pace::of(&[step(false, 1, None)]).unwrap().device, None);
    }
}
