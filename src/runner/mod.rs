//! Executing steps. One trait, one whole step a call, so that a runner may fuse as it likes.

mod bounds;
pub mod cpu;
pub mod cuda;
mod footprint;
mod select;

use crate::kv::KvLayout;
use crate::metrics::Ceilings;
use crate::plan::{StepOutput, StepPlan};

pub use bounds::Bounds;
pub use footprint::{Footprint, MemoryUse, Target};
pub use select::{
    Chosen, CublasLt, DeviceChoice, Dtype, KvBudget, ParseOptionError, RunnerOptions, choose, open,
};

/// How a runner was sized when it was opened. Every plan must stay within these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// B, rows in a step.
    pub max_rows: usize,
    /// T, tokens in a step, padding included.
    pub max_tokens: usize,
    /// S, KV length of a row, padding included.
    pub max_kv_len: usize,
}

impl Limits {
    /// The largest value of each: sizes are 32-bit integers on a device.
    pub const MOST: usize = 1 << 24;
}

/// Executes steps of one model on one device.
pub trait Runner {
    /// One line for people: device and compute type.
    fn describe(&self) -> String;
    /// The GPU it runs on, by a name that does not depend on which GPUs CUDA may see; none on a
    /// CPU.
    fn pci_bus_id(&self) -> Option<String> {
        None
    }
    /// Of the weights.
    fn dtype(&self) -> Dtype;
    fn limits(&self) -> Limits;
    fn kv_layout(&self) -> KvLayout;
    /// Pages in the KV slab.
    fn kv_pages(&self) -> usize;
    /// What its weights, scratch and KV slab take.
    fn memory(&self) -> MemoryUse;
    /// What this device reaches with nothing to wait for: the rate of a large copy in its memory,
    /// and of a large matrix product in the runner's type. Takes about a second and needs room
    /// beside the model; call it between steps.
    fn measure_ceilings(&mut self) -> Result<Ceilings, RunnerError>;
    /// Steps that may be under way: submitted and not collected.
    fn depth(&self) -> usize {
        1
    }
    /// Starts a step behind those that are under way, which an error leaves as they are.
    fn submit(&mut self, plan: &StepPlan) -> Result<(), RunnerError>;
    /// Waits for the oldest step under way and returns the next token of every row. With an error,
    /// too, it is under way no more.
    fn collect(&mut self) -> Result<StepOutput, RunnerError>;
    /// One step with nothing else under way.
    fn execute(&mut self, plan: &StepPlan) -> Result<StepOutput, RunnerError> {
        self.submit(plan)?;
        self.collect()
    }
    /// Whether to give every step's [`DeviceTime`](crate::plan::DeviceTime) from now on, where there
    /// is a device; refused there while a step is under way. It costs a little time.
    fn time_steps(&mut self, _on: bool) -> Result<(), RunnerError> {
        Ok(())
    }
    /// The logits of the last step submitted, `[B, V]` row-major (V without head padding). For tests
    /// and comparisons: on a GPU it computes them if the step did without, waits, and copies
    /// them to the host.
    fn logits(&mut self) -> Result<Vec<f32>, RunnerError>;
}

/// Why a runner could not be opened or a step failed.
#[derive(Debug, thiserror::Error)]
pub enum RunnerError {
    #[error("{0}")]
    Unavailable(String),
    /// The runner cannot be opened as asked.
    #[error("{0}")]
    Options(String),
    /// A plan outside the runner's bounds, one too many or too few, or timing that does not begin between
    /// two: a bug of the caller.
    #[error("step plan refused: {0}")]
    Plan(String),
    #[error("{what} needs {needed} bytes, but {device} has {available} bytes free; {remedy}")]
    OutOfMemory {
        what: String,
        needed: u64,
        available: u64,
        device: String,
        remedy: String,
    },
    #[error("{device}: {call} failed: {cause}")]
    Device {
        device: String,
        call: String,
        cause: String,
    },
    #[error(transparent)]
    Model(#[from] crate::model::ModelError),
}

impl RunnerError {
    fn too_many() -> Self {
        Self::Plan("as many steps are under way as may be".into())
    }

    fn none_under_way() -> Self {
        Self::Plan("no step is under way".into())
    }

    fn timing_under_way() -> Self {
        Self::Plan("a step is under way; timing starts and ends between steps".into())
    }
}
