//! Which kernel does what on a GPU.

use super::device::{Device, available};
use super::gemm::Gemms;
use super::head::HeadBy;
use super::kernels::Kernels;
use super::linear::Means;
use crate::runner::{CublasLt, Dtype, RunnerError};

/// The kernels that steps in bf16 take on one GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// For people: name and ordinal.
    pub device: String,
    /// The architecture whose code runs: `sm_90` for instance. A newer GPU runs that of an older one.
    pub code: String,
    /// For people: cuBLASLt's version, or why it is not used.
    pub cublaslt: String,
    pub paths: Vec<Path>,
}

/// One operation and the kernel that does it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    pub operation: String,
    pub kernel: &'static str,
}

/// A weight of a small model and one of a large, K and N.
const SMALL_WEIGHT: [usize; 2] = [768, 3072];
const LARGE_WEIGHT: [usize; 2] = [4096, 12_288];

/// Opens `cuda:{ordinal}` and asks the rules that steps ask.
///
/// # Errors
/// [`RunnerError::Unavailable`] without a GPU, driver or kernels; [`RunnerError::Device`] when the
/// driver fails.
pub fn paths(ordinal: usize) -> Result<Paths, RunnerError> {
    available(ordinal)?;
    let dtype = Dtype::BF16;
    let device = Device::open(ordinal)?;
    let kernels = Kernels::load(&device.context)?;
    let gemms = Gemms::open(dtype, CublasLt::Auto);
    let means = Means::of(dtype, &kernels, &gemms);

    let mut paths = Vec::new();
    let mut path = |operation: &str, kernel| {
        paths.push(Path {
            operation: operation.into(),
            kernel,
        });
    };
    for rows in [1, 64, 4096] {
        for [k, n] in [SMALL_WEIGHT, LARGE_WEIGHT] {
            let operation = format!("{rows} rows · weight {k}×{n}");
            path(&operation, means.choose(rows, k, n).name(dtype));
        }
    }
    for rows in [1, 512] {
        let by = HeadBy::choose(dtype, &kernels, &gemms, rows);
        path(&format!("{rows} rows · logits"), by.name(dtype));
    }
    let greedy = match kernels.has_head(dtype) {
        true => HeadBy::Head.name(dtype),
        false => "argmax of the logits",
    };
    path("greedy tokens", greedy);
    let prompts = match kernels.has_attention_prefill_wgmma(dtype, 64) {
        true => "attention_prefill_wgmma (wgmma; short prompts: mma.sync)",
        false => "attention_prefill (mma.sync)",
    };
    path("attention of prompts", prompts);
    path(
        "attention of one token",
        "attention_decode (CUDA cores; groups: mma.sync)",
    );
    Ok(Paths {
        device: device.name.clone(),
        code: format!("sm_{}", kernels.architecture()),
        cublaslt: gemms.describe(),
        paths,
    })
}
