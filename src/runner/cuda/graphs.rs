//! Decode steps as CUDA graphs: a step of a known shape is one launch.

use std::collections::HashMap;

use cudarc::driver::CudaGraph;
use cudarc::driver::sys::CUgraphInstantiate_flags;
use cudarc::driver::sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;

use super::device::Device;
use super::shape::StepShape;
use crate::runner::RunnerError;

/// The graphs captured so far, or why there are none.
#[derive(Default)]
pub struct Graphs {
    captured: HashMap<StepShape, CudaGraph>,
    off: Option<String>,
}

impl Graphs {
    /// Launches the graph of this shape. False when there is none.
    pub fn launch(&self, device: &Device, shape: &StepShape) -> Result<bool, RunnerError> {
        match self.captured.get(shape) {
            Some(graph) => {
                device.check("cuGraphLaunch", graph.launch())?;
                Ok(true)
            }
            None => Ok(false),
        }
    }

    /// Whether a step of this shape, which just ran plainly, is to be captured.
    pub fn wants(&self, shape: &StepShape) -> bool {
        // A step with penalties reads a buffer that may move.
        let is_fixed = shape.is_decode() && !shape.penalised;
        self.off.is_none() && is_fixed && !self.captured.contains_key(shape)
    }

    /// Records what `launches` puts on the stream; nothing of it runs. The same launches have run
    /// before, so that capture finds every function loaded and every algorithm chosen. A failure
    /// turns graphs off and steps run plainly from then on.
    pub fn capture(
        &mut self,
        device: &Device,
        shape: StepShape,
        launches: impl FnOnce() -> Result<(), RunnerError>,
    ) {
        match record(device, launches) {
            Ok(graph) => {
                self.captured.insert(shape, graph);
            }
            Err(cause) => self.turn_off(cause.to_string()),
        }
    }

    /// Drops all graphs and captures no more.
    pub fn turn_off(&mut self, why: String) {
        self.captured.clear();
        self.off = Some(why);
    }

    /// For people: how many there are, or why none.
    pub fn describe(&self) -> String {
        match &self.off {
            Some(why) => format!("no CUDA graphs: {why}"),
            None => format!("{} CUDA graphs", self.captured.len()),
        }
    }
}

fn record(
    device: &Device,
    launches: impl FnOnce() -> Result<(), RunnerError>,
) -> Result<CudaGraph, RunnerError> {
    // Thread-local: what other threads do with the device does not disturb the capture.
    let mode = CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    device.check("cuStreamBeginCapture", device.stream.begin_capture(mode))?;
    let launched = launches();
    // Also after a failure: the stream must leave capture mode.
    let graph = device.stream.end_capture(CUgraphInstantiate_flags(0));
    launched?;
    let graph = device.check("cuStreamEndCapture", graph)?;
    let graph = device.check("cuStreamEndCapture", graph.ok_or("no graph came back"))?;
    device.check("cuGraphUpload", graph.upload())?;
    Ok(graph)
}
