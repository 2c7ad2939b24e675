//! Picking a device and opening its runner.

use std::fmt;
use std::str::FromStr;

use super::cpu::CpuRunner;
use super::cuda::{self, CudaRunner};
use super::{Limits, Runner, RunnerError};
use crate::model::Model;

/// What `--device` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceChoice {
    Auto,
    Cpu,
    Cuda { ordinal: usize },
}

/// The type of a runner's weights: on CUDA of all that it computes in, on a CPU beside f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dtype {
    F32,
    F16,
    BF16,
}

impl Dtype {
    /// Bytes of one element.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
        }
    }
}

/// How large the KV slab is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum KvBudget {
    /// `--kv-cache-memory`
    Bytes(u64),
    /// `--gpu-memory-utilization`: the share of the device's free memory that weights, scratch and
    /// KV slab may take together. The slab is never larger than `Limits` can use; on a CPU it is
    /// exactly that large.
    Utilization(f64),
}

/// Whether cuBLASLt may multiply on a GPU: `--cublaslt`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CublasLt {
    /// Where it is found and faster than the kernels of this crate.
    #[default]
    Auto,
    Off,
}

/// How a runner is opened.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RunnerOptions {
    /// None: [`Target::usual_dtype`](super::Target::usual_dtype).
    pub dtype: Option<Dtype>,
    /// P, positions in a KV page; a power of two.
    pub page_size: usize,
    pub kv: KvBudget,
    pub limits: Limits,
    pub cublaslt: CublasLt,
}

/// The device that a choice means on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// `cuda:N`; none is the CPU.
    pub cuda: Option<usize>,
    pub why: String,
}

/// Decides between CPU and CUDA, without opening either.
pub fn choose(choice: DeviceChoice) -> Chosen {
    let asked = |cuda| Chosen {
        cuda,
        why: "asked for".into(),
    };
    match choice {
        DeviceChoice::Cpu => asked(None),
        DeviceChoice::Cuda { ordinal } => asked(Some(ordinal)),
        DeviceChoice::Auto => match cuda::available(0) {
            Ok(()) => Chosen {
                cuda: Some(0),
                why: "a GPU, its driver and the kernels are there".into(),
            },
            Err(missing) => Chosen {
                cuda: None,
                why: missing.to_string(),
            },
        },
    }
}

/// Opens the runner that `choice` asks for. The line says which device it is and why.
pub fn open(
    choice: DeviceChoice,
    model: &Model,
    options: &RunnerOptions,
) -> Result<(Box<dyn Runner>, String), RunnerError> {
    let Chosen { cuda, why } = choose(choice);
    let runner: Box<dyn Runner> = match cuda {
        Some(ordinal) => Box::new(CudaRunner::open(ordinal, model, options)?),
        None => {
            if options.dtype == Some(Dtype::F16) {
                return Err(RunnerError::Options(format!(
                    "the CPU runner has weights in f32 or bf16, not f16 (CPU: {why}); use --dtype bf16 or --device cuda"
                )));
            }
            Box::new(CpuRunner::new(model, options)?)
        }
    };
    let line = format!("device: {} ({why})", runner.describe());
    Ok((runner, line))
}

/// An option's value that names nothing known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown {what} '{value}'; use {known}")]
pub struct ParseOptionError {
    what: &'static str,
    value: String,
    known: &'static str,
}

impl FromStr for DeviceChoice {
    type Err = ParseOptionError;

    fn from_str(value: &str) -> Result<Self, ParseOptionError> {
        let ordinal = match value {
            "auto" => return Ok(Self::Auto),
            "cpu" => return Ok(Self::Cpu),
            "cuda" => Some(0),
            _ => value.strip_prefix("cuda:").and_then(|n| n.parse().ok()),
        };
        ordinal
            .map(|ordinal| Self::Cuda { ordinal })
            .ok_or_else(|| ParseOptionError {
                what: "device",
                value: value.into(),
                known: "auto, cpu, cuda or cuda:N",
            })
    }
}

impl FromStr for Dtype {
    type Err = ParseOptionError;

    fn from_str(value: &str) -> Result<Self, ParseOptionError> {
        match value {
            "f32" | "float32" => Ok(Self::F32),
            "f16" | "float16" => Ok(Self::F16),
            "bf16" | "bfloat16" => Ok(Self::BF16),
            _ => Err(ParseOptionError {
                what: "dtype",
                value: value.into(),
                known: "f32, f16 or bf16",
            }),
        }
    }
}

impl FromStr for CublasLt {
    type Err = ParseOptionError;

    fn from_str(value: &str) -> Result<Self, ParseOptionError> {
        match value {
            "auto" => Ok(Self::Auto),
            "off" => Ok(Self::Off),
            _ => Err(ParseOptionError {
                what: "use of cuBLASLt",
                value: value.into(),
                known: "auto or off",
            }),
        }
    }
}

impl fmt::Display for CublasLt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Off => "off",
        })
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_named_as_users_write_them() {
        let cuda = |ordinal| Ok(DeviceChoice::Cuda { ordinal });
        assert_eq!("auto".parse(), Ok(DeviceChoice::Auto));
        assert_eq!("cpu".parse(), Ok(DeviceChoice::Cpu));
        assert_eq!("cuda".parse(), cuda(0));
        assert_eq!("cuda:3".parse(), cuda(3));
        for bad in ["", "gpu", "cuda:", "cuda:-1", "cuda:x", "CUDA", "cpu:0"] {
            let error = bad.parse::<DeviceChoice>().unwrap_err().to_string();
            assert!(error.contains("auto, cpu, cuda or cuda:N"), "{error}");
        }
    }

    #[test]
    fn dtypes_have_one_short_name_and_accept_torch_names() {
        for (name, long, dtype) in [
            ("f32", "float32", Dtype::F32),
            ("f16", "float16", Dtype::F16),
            ("bf16", "bfloat16", Dtype::BF16),
        ] {
            assert_eq!(name.parse(), Ok(dtype));
            assert_eq!(long.parse(), Ok(dtype));
            assert_eq!(dtype.to_string(), name);
        }
        assert!("int8".parse::<Dtype>().is_err());
    }

    #[test]
    fn cublaslt_is_used_or_not() {
        for (name, choice) in [("auto", CublasLt::Auto), ("off", CublasLt::Off)] {
            assert_eq!(name.parse(), Ok(choice));
            assert_eq!(choice.to_string(), name);
        }
        assert!("on".parse::<CublasLt>().is_err());
    }
}
