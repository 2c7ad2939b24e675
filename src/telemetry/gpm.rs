//! GPM counters (Hopper and newer): how much of the GPU was at work, where utilisation only says
//! that something ran.

use std::time::{Duration, Instant};

use nvml_wrapper::enums::gpm::GpmMetricId;
use nvml_wrapper::gpm::{GpmSample, gpm_metrics_get};
use nvml_wrapper::{Device, Nvml};

use super::GpuReading;

/// Two samples closer than this give zeros or noise.
const SHORTEST: Duration = Duration::from_millis(95);

pub(super) struct Gpm {
    nvml: &'static Nvml,
    device: Device<'static>,
    previous: Option<(Instant, GpmSample<'static>)>,
}

impl Gpm {
    /// None where the GPU has no such counters.
    pub fn open(nvml: &'static Nvml, device: Device<'static>) -> Option<Self> {
        device.gpm_support().is_ok_and(|yes| yes).then_some(Self {
            nvml,
            device,
            previous: None,
        })
    }

    /// Fills in the activity since the last call that did; leaves it unknown when that is too
    /// short a time ago.
    pub fn read(&mut self, reading: &mut GpuReading) {
        let now = Instant::now();
        if self
            .previous
            .as_ref()
            .is_some_and(|(at, _)| now - *at < SHORTEST)
        {
            return;
        }
        let Ok(sample) = self.device.gpm_sample() else {
            self.previous = None;
            return;
        };
        if let Some((_, previous)) = &self.previous {
            let ids = [
                GpmMetricId::SmUtil,
                GpmMetricId::AnyTensorUtil,
                GpmMetricId::DramBwUtil,
            ];
            if let Ok(results) = gpm_metrics_get(self.nvml, previous, &sample, &ids) {
                let mut values = results
                    .into_iter()
                    .map(|r| r.ok().map(|r| r.value).filter(|v| v.is_finite()));
                reading.sm_active_percent = values.next().flatten();
                reading.tensor_active_percent = values.next().flatten();
                reading.dram_bandwidth_percent = values.next().flatten();
            }
        }
        self.previous = Some((now, sample));
    }
}
