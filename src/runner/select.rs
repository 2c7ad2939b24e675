//! Picking a device and opening its runner.

use super::Limits;

/// What `--device` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceChoice {
    Auto,
    Cpu,
    Cuda { ordinal: usize },
}

/// The type a runner computes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dtype {
    F32,
    F16,
    BF16,
}

/// How large the KV slab is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum KvBudget {
    /// `--kv-cache-memory`
    Bytes(u64),
    /// `--gpu-memory-utilization`: share of the memory that is free once weights and scratch are
    /// placed. On a CPU the slab is only as large as `Limits` can use.
    Utilization(f64),
}

/// How a runner is opened.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RunnerOptions {
    /// None: bf16 on CUDA, f32 on a CPU.
    pub dtype: Option<Dtype>,
    /// P, positions in a KV page; a power of two.
    pub page_size: usize,
    pub kv: KvBudget,
    pub limits: Limits,
}
