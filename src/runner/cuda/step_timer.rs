//! How long steps run by the device's own clock, and how long it idles between two.
//!
//! The clock is read where the stream comes to an event. A step that was submitted ahead starts right
//! behind the one before it, and the time that the device takes to begin with its first kernel counts as
//! busy.

use std::time::Duration;

use cudarc::driver::CudaEvent;

use super::device::Device;
use super::inputs::HALVES;
use crate::plan::DeviceTime;
use crate::runner::RunnerError;

/// Start and end of the steps under way and of the last one collected.
pub struct StepTimer {
    steps: [(CudaEvent, CudaEvent); HALVES + 1],
    /// Steps launched and read.
    launched: usize,
    read: usize,
}

impl StepTimer {
    /// For the steps from now on; none is under way.
    pub fn new(device: &Device) -> Result<Self, RunnerError> {
        let step = || Ok::<_, RunnerError>((device.timed_event()?, device.timed_event()?));
        Ok(Self {
            steps: [step()?, step()?, step()?],
            launched: 0,
            read: 0,
        })
    }

    /// The next step is about to be launched.
    pub fn start(&self, device: &Device) -> Result<(), RunnerError> {
        device.record(&self.of(self.launched + 1).0)
    }

    /// All of it is on the stream.
    pub fn end(&self, device: &Device) -> Result<(), RunnerError> {
        device.record(&self.of(self.launched + 1).1)
    }

    /// No part of its launch failed: it counts.
    pub fn launched(&mut self) {
        self.launched += 1;
    }

    /// The oldest step that was not read; it has ended.
    pub fn read(&mut self, device: &Device) -> Result<DeviceTime, RunnerError> {
        let before = (self.read > 0).then(|| self.of(self.read));
        let (start, end) = self.of(self.read + 1);
        let between = |from: &CudaEvent, to: &CudaEvent| {
            let ms = device.check("cuEventElapsedTime", from.elapsed_ms(to))?;
            Ok::<_, RunnerError>(Duration::from_secs_f64(f64::from(ms.max(0.0)) / 1e3))
        };
        let time = DeviceTime {
            busy: between(start, end)?,
            idle: before.map(|(_, end)| between(end, start)).transpose()?,
        };
        self.read += 1;
        Ok(time)
    }

    /// Step `n`, counted from 1.
    fn of(&self, n: usize) -> &(CudaEvent, CudaEvent) {
        &self.steps[n % self.steps.len()]
    }
}
