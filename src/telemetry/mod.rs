//! What the GPU did meanwhile: readings of one GPU on their own thread, and their summary over a
//! window of time.
//!
//! A GPU, driver or counter that is missing is a normal case: the quantity is `None`, never zero.

mod compare;
mod gpm;
mod nvidia_smi;
mod nvml;
mod recording;
mod sample;
mod sampler;
mod usage;

pub use compare::{ComparedQuantity, compare};
pub use nvidia_smi::SmiReader;
pub use nvml::{GpuId, GpuInfo, GpuMemory, NvmlSource};
pub use sample::{GpuReading, GpuSample, throttle_names};
pub use sampler::{GpuSource, Sampler};
pub use usage::{GpuUsage, SHORTEST_WINDOW};

/// Why no GPU can be read, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    #[error("no NVIDIA GPU can be read: {cause}; {remedy}")]
    NoGpu { cause: String, remedy: String },
    #[error("nvidia-smi cannot be read: {cause}; {remedy}")]
    NvidiaSmi { cause: String, remedy: String },
    #[error("the GPU sampler's thread could not be started: {0}")]
    Thread(#[from] std::io::Error),
}
