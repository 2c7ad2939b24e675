//! The table of kernels: every function is resolved once, when the runner opens.

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
use cudarc::driver::{
    CudaContext, CudaFunction, CudaModule, CudaStream, DriverError, LaunchConfig, result,
};
use cudarc::nvrtc::Ptx;

use super::fatbins;
use super::ops::DeviceParams;
use super::ops::attention_prefill;
use crate::runner::{Dtype, RunnerError};

pub use super::fatbins::built;

/// D, the head widths that the attention kernels are compiled for.
pub const HEAD_DIMS: [usize; 4] = [32, 64, 80, 128];
/// Query heads that share a KV head in one decode block; a group is rounded up to one of these.
pub const GROUPS: [usize; 4] = [1, 2, 4, 8];
/// P, the smallest page: the attention kernels look a page up once for eight positions.
pub const MIN_PAGE_SIZE: usize = 8;

/// Whether this machine has a CUDA driver. Without one, cudarc panics at its first call.
pub fn driver_present() -> bool {
    // SAFETY: opens and closes the library by name, nothing else.
    unsafe { cudarc::driver::sys::is_culib_present() }
}

/// One function for each compute type.
#[derive(Debug)]
pub(super) struct PerDtype<F> {
    f32: F,
    f16: F,
    bf16: F,
}

impl<F> PerDtype<F> {
    fn resolve(mut of: impl FnMut(&str) -> Result<F, RunnerError>) -> Result<Self, RunnerError> {
        Ok(Self {
            f32: of("f32")?,
            f16: of("f16")?,
            bf16: of("bf16")?,
        })
    }

    pub(super) fn get(&self, dtype: Dtype) -> &F {
        match dtype {
            Dtype::F32 => &self.f32,
            Dtype::F16 => &self.f16,
            Dtype::BF16 => &self.bf16,
        }
    }
}

/// One function for each of [`HEAD_DIMS`].
pub(super) type PerHeadDim<F> = [F; HEAD_DIMS.len()];
/// One function for each of [`GROUPS`].
pub(super) type PerGroup<F> = [F; GROUPS.len()];

/// Every kernel, ready to launch. The launch wrappers are in [`super::ops`], one file a kernel.
#[derive(Debug)]
pub struct Kernels {
    pub(super) embedding: PerDtype<CudaFunction>,
    pub(super) residual_layer_norm: PerDtype<CudaFunction>,
    pub(super) bias_activation: PerDtype<CudaFunction>,
    pub(super) kv_append: PerDtype<CudaFunction>,
    pub(super) attention_prefill: PerDtype<PerHeadDim<CudaFunction>>,
    pub(super) attention_decode: PerDtype<PerHeadDim<PerGroup<CudaFunction>>>,
    pub(super) attention_decode_combine: PerDtype<CudaFunction>,
    pub(super) argmax: CudaFunction,
    pub(super) sample: CudaFunction,
    pub(super) random_fill: PerDtype<CudaFunction>,
}

impl Kernels {
    /// Loads the embedded kernels into the device's context.
    ///
    /// # Errors
    /// [`RunnerError::Unavailable`] when the binary was built without kernels or has none for this
    /// GPU; [`RunnerError::Device`] when the driver fails.
    pub fn load(context: &Arc<CudaContext>) -> Result<Self, RunnerError> {
        let modules = Modules::load(context)?;
        let per_dtype = |stem: &str| {
            PerDtype::resolve(|dtype| modules.function(stem, &format!("{stem}_{dtype}")))
        };
        let kernels = Self {
            embedding: per_dtype("embedding")?,
            residual_layer_norm: per_dtype("residual_layer_norm")?,
            bias_activation: per_dtype("bias_activation")?,
            kv_append: per_dtype("kv_append")?,
            attention_prefill: PerDtype::resolve(|dtype| {
                per_size(HEAD_DIMS, |d| {
                    let stem = "attention_prefill";
                    modules.function(stem, &format!("{stem}_{dtype}_d{d}"))
                })
            })?,
            attention_decode: PerDtype::resolve(|dtype| {
                per_size(HEAD_DIMS, |d| {
                    per_size(GROUPS, |g| {
                        let stem = "attention_decode";
                        modules.function(stem, &format!("{stem}_{dtype}_d{d}_g{g}"))
                    })
                })
            })?,
            attention_decode_combine: PerDtype::resolve(|dtype| {
                let stem = "attention_decode";
                modules.function(stem, &format!("{stem}_combine_{dtype}"))
            })?,
            argmax: modules.function("argmax", "argmax_f32")?,
            sample: modules.function("sample", "sample_f32")?,
            random_fill: per_dtype("random_fill")?,
        };
        kernels.allow_shared_memory(context)?;
        Ok(kernels)
    }

    /// Whether the attention kernels exist for this head width and page size.
    ///
    /// # Errors
    /// [`RunnerError::Unavailable`] with the sizes that they exist for.
    pub fn supports(head_dim: usize, page_size: usize) -> Result<(), RunnerError> {
        if !HEAD_DIMS.contains(&head_dim) {
            return Err(RunnerError::Unavailable(format!(
                "the CUDA kernels know head widths {HEAD_DIMS:?}, but the model's is {head_dim}; use --device cpu"
            )));
        }
        if !page_size.is_power_of_two() || page_size < MIN_PAGE_SIZE {
            return Err(RunnerError::Unavailable(format!(
                "the CUDA kernels need a KV page of a power of two from {MIN_PAGE_SIZE} positions, not {page_size}; change --kv-block-size"
            )));
        }
        Ok(())
    }

    /// Tile kernels take more than the 48 KiB of shared memory that a launch gets unasked.
    fn allow_shared_memory(&self, context: &Arc<CudaContext>) -> Result<(), RunnerError> {
        for dtype in [Dtype::F16, Dtype::BF16] {
            for (function, d) in self.attention_prefill.get(dtype).iter().zip(HEAD_DIMS) {
                function
                    .set_attribute(
                        CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                        attention_prefill::shared_bytes(d) as i32,
                    )
                    .map_err(|e| device_error(context, "cuFuncSetAttribute", e))?;
            }
        }
        Ok(())
    }
}

/// A kernel and its grid.
pub(super) struct Launch<'a> {
    pub function: &'a CudaFunction,
    pub grid: (u32, u32, u32),
    /// Threads in a block.
    pub threads: u32,
    /// Dynamic shared memory of a block.
    pub shared_bytes: u32,
}

impl Launch<'_> {
    /// Puts the kernel on the stream. An empty grid is nothing to do.
    pub fn on<P: DeviceParams>(&self, stream: &CudaStream, params: &P) -> Result<(), RunnerError> {
        let (x, y, z) = self.grid;
        if x == 0 || y == 0 || z == 0 {
            return Ok(());
        }
        let context = stream.context();
        let config = LaunchConfig {
            grid_dim: self.grid,
            block_dim: (self.threads, 1, 1),
            shared_mem_bytes: self.shared_bytes,
        };
        let argument: *const P = params;
        context
            .bind_to_thread()
            // SAFETY: the kernel takes exactly one `P` by value (`DeviceParams`), and the driver
            // copies it before this call returns. What `P` points to is the caller's contract.
            .and_then(|()| unsafe {
                result::launch_kernel(
                    self.function.cu_function(),
                    config.grid_dim,
                    config.block_dim,
                    config.shared_mem_bytes,
                    stream.cu_stream(),
                    &mut [argument.cast_mut().cast::<c_void>()],
                )
            })
            .map_err(|e| device_error(context, "cuLaunchKernel", e))
    }
}

/// The loaded modules by stem.
struct Modules<'a> {
    context: &'a Arc<CudaContext>,
    loaded: Vec<(&'static str, Arc<CudaModule>)>,
}

impl<'a> Modules<'a> {
    fn load(context: &'a Arc<CudaContext>) -> Result<Self, RunnerError> {
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

    fn function(&self, stem: &str, symbol: &str) -> Result<CudaFunction, RunnerError> {
        let module = self.loaded.iter().find(|(name, _)| *name == stem);
        let (_, module) = module.ok_or_else(|| {
            RunnerError::Unavailable(format!("this binary was built without kernels/{stem}.cu"))
        })?;
        module
            .load_function(symbol)
            .map_err(|e| device_error(self.context, &format!("finding kernel {symbol}"), e))
    }
}

fn per_size<F, const N: usize>(
    sizes: [usize; N],
    of: impl FnMut(usize) -> Result<F, RunnerError>,
) -> Result<[F; N], RunnerError> {
    let all: Vec<F> = sizes.into_iter().map(of).collect::<Result<_, _>>()?;
    all.try_into()
        .map_err(|_| RunnerError::Unavailable("a kernel variant is missing".to_owned()))
}

fn device_error(context: &CudaContext, call: &str, cause: DriverError) -> RunnerError {
    RunnerError::Device {
        device: format!("cuda:{}", context.ordinal()),
        call: call.to_owned(),
        cause: cause.to_string(),
    }
}
