//! Functions of the embedded modules, for the element types and sizes that they are compiled for.

use std::sync::Arc;

use cudarc::driver::sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_PTX_VERSION;
use cudarc::driver::{CudaContext, CudaFunction, CudaModule, DriverError};
use cudarc::nvrtc::Ptx;

use super::fatbins;
use crate::runner::{Dtype, RunnerError};

/// Of the architecture that code was compiled for: compute capability 9.0.
const HOPPER: i32 = 90;

/// A kernel on the device.
#[derive(Debug)]
pub struct Function {
    pub function: CudaFunction,
    /// The architecture that its code was compiled for.
    pub compiled_for: i32,
}

impl Function {
    /// Whether its code was compiled for Hopper or newer and has what kernels/launch.cuh adds there.
    /// A newer GPU may run code compiled for an older one, so the GPU's own number does not tell.
    pub fn is_hopper(&self) -> bool {
        self.compiled_for >= HOPPER
    }

    /// Itself, for a kernel that has no code elsewhere.
    pub fn on_hopper(&self, kernel: &str) -> Result<&Self, RunnerError> {
        match self.is_hopper() {
            true => Ok(self),
            false => Err(RunnerError::Unavailable(format!(
                "the CUDA kernel {kernel} needs a GPU of compute capability 9.0"
            ))),
        }
    }

    /// Whether it may use kernels/wgmma.cuh: Hopper has these instructions, and no GPU after it.
    pub fn has_wgmma(&self) -> bool {
        self.compiled_for == HOPPER
    }
}

/// As the only one of its kernel.
impl AsRef<[Function]> for Function {
    fn as_ref(&self) -> &[Function] {
        std::slice::from_ref(self)
    }
}

/// One function for each compute type.
#[derive(Debug)]
pub struct PerDtype<F> {
    pub f32: F,
    pub f16: F,
    pub bf16: F,
}

impl<F> PerDtype<F> {
    pub fn resolve(
        mut of: impl FnMut(&str) -> Result<F, RunnerError>,
    ) -> Result<Self, RunnerError> {
        Ok(Self {
            f32: of("f32")?,
            f16: of("f16")?,
            bf16: of("bf16")?,
        })
    }

    pub fn get(&self, dtype: Dtype) -> &F {
        match dtype {
            Dtype::F32 => &self.f32,
            Dtype::F16 => &self.f16,
            Dtype::BF16 => &self.bf16,
        }
    }
}

/// One function for each compute type of 16 bits.
#[derive(Debug)]
pub struct PerHalf<F> {
    pub f16: F,
    pub bf16: F,
}

impl<F> PerHalf<F> {
    pub fn get(&self, dtype: Dtype) -> Option<&F> {
        match dtype {
            Dtype::F32 => None,
            Dtype::F16 => Some(&self.f16),
            Dtype::BF16 => Some(&self.bf16),
        }
    }
}

impl<F: AsRef<[Function]>> PerHalf<F> {
    /// Those of a kernel that is built on kernels/wgmma.cuh, where the GPU has that.
    pub fn with_wgmma(&self, dtype: Dtype) -> Option<&F> {
        let functions = self.get(dtype);
        functions.filter(|functions| functions.as_ref().iter().all(Function::has_wgmma))
    }

    /// The same for its launch, which must not be tried elsewhere.
    pub fn on_wgmma(&self, kernel: &str, dtype: Dtype) -> Result<&F, RunnerError> {
        self.with_wgmma(dtype).ok_or_else(|| {
            RunnerError::Unavailable(format!(
                "the CUDA kernel {kernel} is for f16 and bf16 on Hopper, not for {dtype} here"
            ))
        })
    }
}

/// The loaded modules by stem.
pub struct Modules<'a> {
    context: &'a Arc<CudaContext>,
    loaded: Vec<(&'static str, Arc<CudaModule>)>,
}

impl<'a> Modules<'a> {
    pub fn load(context: &'a Arc<CudaContext>) -> Result<Self, RunnerError> {
        let fatbins = fatbins::all().map_err(|why| RunnerError::Unavailable(why.to_owned()))?;
        let load = |fatbin: &fatbins::Fatbin| {
            let module = context
                .load_module(Ptx::from_binary(fatbin.image.to_vec()))
                .map_err(|e| {
                    device_error(context, &format!("loading kernels/{}.cu", fatbin.stem), e)
                })?;
            Ok::<_, RunnerError>((fatbin.stem, module))
        };
        let loaded = fatbins.iter().map(load).collect::<Result<_, _>>()?;
        Ok(Self { context, loaded })
    }

    pub fn function(&self, stem: &str, symbol: &str) -> Result<Function, RunnerError> {
        let module = self.loaded.iter().find(|(name, _)| *name == stem);
        let (_, module) = module.ok_or_else(|| {
            RunnerError::Unavailable(format!("this binary was built without kernels/{stem}.cu"))
        })?;
        let failed = |e| device_error(self.context, &format!("finding kernel {symbol}"), e);
        let function = module.load_function(symbol).map_err(failed)?;
        let compiled_for = function.get_attribute(CU_FUNC_ATTRIBUTE_PTX_VERSION);
        Ok(Function {
            compiled_for: compiled_for.map_err(failed)?,
            function,
        })
    }
}

/// One of each size.
pub fn per_size<S, F, const N: usize>(
    sizes: [S; N],
    of: impl FnMut(S) -> Result<F, RunnerError>,
) -> Result<[F; N], RunnerError> {
    let all: Vec<F> = sizes.into_iter().map(of).collect::<Result<_, _>>()?;
    all.try_into()
        .map_err(|_| RunnerError::Unavailable("a kernel variant is missing".to_owned()))
}

pub fn device_error(context: &CudaContext, call: &str, cause: DriverError) -> RunnerError {
    RunnerError::Device {
        device: format!("cuda:{}", context.ordinal()),
        call: call.to_owned(),
        cause: cause.to_string(),
    }
}
