//! The table of kernels: every function is resolved once, when the runner opens.

use std::sync::Arc;

use cudarc::driver::CudaContext;
use cudarc::driver::sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
use cudarc::driver::sys::CUfunction_attribute_enum::{
    CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
    CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED,
};

use super::function::{Function, Modules, PerDtype, PerHalf, device_error, per_size};
use super::ops::attention_prefill_wgmma::Form;
use super::ops::{
    attention_prefill, attention_sublayer, head, linear_portable, linear_slim, linear_small,
    linear_tiled, linear_wide, sublayer,
};
use crate::runner::{Dtype, RunnerError};

/// D, the head widths that the attention kernels are compiled for.
pub const HEAD_DIMS: [usize; 4] = [32, 64, 80, 128];
/// Query heads that share a KV head in one decode block; a group is rounded up to one of these.
pub const GROUPS: [usize; 4] = [1, 2, 4, 8];
/// P, the smallest page: the attention kernels look a page up once for eight positions.
pub const MIN_PAGE_SIZE: usize = 8;
/// One function for each of [`HEAD_DIMS`].
pub(super) type PerHeadDim<F> = [F; HEAD_DIMS.len()];
/// One function for each of [`linear_small::ROWS`] and [`linear_small::COLUMNS`].
type PerRows<F> = [F; linear_small::ROWS.len()];
type PerColumns<F> = [F; linear_small::COLUMNS.len()];
/// One function for each of [`linear_portable::tiles`].
type PerTile<F> = [F; 2];
/// One function for each of [`GROUPS`].
pub(super) type PerGroup<F> = [F; GROUPS.len()];

/// Every kernel, ready to launch. The launch wrappers are in [`super::ops`], one file a kernel.
#[derive(Debug)]
pub struct Kernels {
    pub(super) embedding: PerDtype<Function>,
    pub(super) advance_rows: Function,
    pub(super) residual_norm: PerDtype<Function>,
    pub(super) bias_activation: PerDtype<Function>,
    pub(super) linear_small: PerHalf<PerRows<PerColumns<Function>>>,
    pub(super) linear_slim: PerHalf<[Function; linear_slim::ROWS.len()]>,
    pub(super) linear_tiled: PerHalf<Function>,
    pub(super) linear_wide: PerHalf<[Function; linear_wide::TILES.len()]>,
    pub(super) head: PerHalf<[Function; head::TILES.len()]>,
    pub(super) linear_portable: PerDtype<PerTile<Function>>,
    pub(super) head_portable: PerDtype<PerTile<Function>>,
    pub(super) attention_sublayer: PerHalf<[Function; attention_sublayer::VARIANTS.len()]>,
    pub(super) mlp_sublayer: PerHalf<Function>,
    pub(super) kv_append: PerDtype<Function>,
    pub(super) attention_prefill: PerDtype<PerHeadDim<Function>>,
    /// One function for each of [`Form::ALL`].
    pub(super) attention_prefill_wgmma: PerHalf<[Function; Form::ALL.len()]>,
    pub(super) attention_decode: PerDtype<PerHeadDim<PerGroup<Function>>>,
    pub(super) penalise: Function,
    pub(super) argmax: Function,
    pub(super) sample: Function,
    pub(super) random_fill: PerDtype<Function>,
    /// Streaming multiprocessors.
    pub(super) sms: usize,
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
        let linear_small = |dtype: Dtype| {
            per_size(linear_small::ROWS, |m| {
                per_size(linear_small::COLUMNS, |n| {
                    let stem = "linear_small";
                    modules.function(stem, &format!("{stem}_{dtype}_m{m}_n{n}"))
                })
            })
        };
        let per_half =
            |stem: &str, dtype: Dtype| modules.function(stem, &format!("{stem}_{dtype}"));
        let attention_sublayer = |dtype: Dtype| {
            per_size(attention_sublayer::VARIANTS, |variant| {
                let attention_sublayer::Variant { head_dim, blocks } = variant;
                let stem = "attention_sublayer";
                modules.function(stem, &format!("{stem}_{dtype}_d{head_dim}_b{blocks}"))
            })
        };
        let linear_slim = |dtype: Dtype| {
            per_size(linear_slim::ROWS, |m| {
                modules.function("linear_slim", &format!("linear_slim_{dtype}_m{m}"))
            })
        };
        let linear_wide = |dtype: Dtype| {
            per_size(linear_wide::TILES, |tile| {
                let linear_wide::Tile { rows, columns, .. } = tile;
                let stem = "linear_wide";
                modules.function(stem, &format!("{stem}_{dtype}_m{rows}_n{columns}"))
            })
        };
        let head = |dtype: Dtype| {
            per_size(head::TILES.map(|tile| tile.rows), |m| {
                modules.function("head", &format!("head_{dtype}_m{m}"))
            })
        };
        let per_tile = |stem: &str| {
            let of = |dtype: Dtype| {
                let tiles = linear_portable::tiles(dtype).map(|tile| tile.name);
                per_size(tiles, |tile| {
                    modules.function(stem, &format!("{stem}_{dtype}_{tile}"))
                })
            };
            Ok::<_, RunnerError>(PerDtype {
                f32: of(Dtype::F32)?,
                f16: of(Dtype::F16)?,
                bf16: of(Dtype::BF16)?,
            })
        };
        let attention_prefill_wgmma = |dtype: Dtype| {
            per_size(Form::ALL, |form| {
                let (d, g) = (form.head_dim, form.groups);
                let stem = "attention_prefill_wgmma";
                modules.function(stem, &format!("{stem}_{dtype}_d{d}_g{g}"))
            })
        };
        let sms = context
            .attribute(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)
            .map_err(|e| device_error(context, "cuDeviceGetAttribute", e))?;
        let kernels = Self {
            embedding: per_dtype("embedding")?,
            advance_rows: modules.function("advance_rows", "advance_rows_i32")?,
            residual_norm: per_dtype("residual_norm")?,
            bias_activation: per_dtype("bias_activation")?,
            linear_small: PerHalf {
                f16: linear_small(Dtype::F16)?,
                bf16: linear_small(Dtype::BF16)?,
            },
            linear_slim: PerHalf {
                f16: linear_slim(Dtype::F16)?,
                bf16: linear_slim(Dtype::BF16)?,
            },
            linear_tiled: PerHalf {
                f16: per_half("linear_tiled", Dtype::F16)?,
                bf16: per_half("linear_tiled", Dtype::BF16)?,
            },
            attention_sublayer: PerHalf {
                f16: attention_sublayer(Dtype::F16)?,
                bf16: attention_sublayer(Dtype::BF16)?,
            },
            mlp_sublayer: PerHalf {
                f16: per_half("mlp_sublayer", Dtype::F16)?,
                bf16: per_half("mlp_sublayer", Dtype::BF16)?,
            },
            linear_wide: PerHalf {
                f16: linear_wide(Dtype::F16)?,
                bf16: linear_wide(Dtype::BF16)?,
            },
            head: PerHalf {
                f16: head(Dtype::F16)?,
                bf16: head(Dtype::BF16)?,
            },
            linear_portable: per_tile("linear_portable")?,
            head_portable: per_tile("head_portable")?,
            kv_append: per_dtype("kv_append")?,
            attention_prefill: PerDtype::resolve(|dtype| {
                per_size(HEAD_DIMS, |d| {
                    let stem = "attention_prefill";
                    modules.function(stem, &format!("{stem}_{dtype}_d{d}"))
                })
            })?,
            attention_prefill_wgmma: PerHalf {
                f16: attention_prefill_wgmma(Dtype::F16)?,
                bf16: attention_prefill_wgmma(Dtype::BF16)?,
            },
            attention_decode: PerDtype::resolve(|dtype| {
                per_size(HEAD_DIMS, |d| {
                    per_size(GROUPS, |g| {
                        let stem = "attention_decode";
                        modules.function(stem, &format!("{stem}_{dtype}_d{d}_g{g}"))
                    })
                })
            })?,
            penalise: modules.function("penalise", "penalise_f32")?,
            argmax: modules.function("argmax", "argmax_f32")?,
            sample: modules.function("sample", "sample_f32")?,
            random_fill: per_dtype("random_fill")?,
            sms: sms as usize,
        };
        kernels.allow_shared_memory(context)?;
        kernels.allow_wide_clusters(context)?;
        Ok(kernels)
    }

    /// The architecture that their code was compiled for: 90 for Hopper's.
    pub fn architecture(&self) -> i32 {
        self.argmax.compiled_for
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

    /// Decode attention forms clusters of more than the portable 8 blocks.
    fn allow_wide_clusters(&self, context: &Arc<CudaContext>) -> Result<(), RunnerError> {
        for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16] {
            let functions = self.attention_decode.get(dtype).iter().flatten();
            for function in functions.filter(|f| f.is_hopper()) {
                let attribute = CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED;
                let allowed = function.function.set_attribute(attribute, 1);
                allowed.map_err(|e| device_error(context, "cuFuncSetAttribute", e))?;
            }
        }
        Ok(())
    }

    /// Tile kernels take more than the 48 KiB of shared memory that a launch gets unasked.
    fn allow_shared_memory(&self, context: &Arc<CudaContext>) -> Result<(), RunnerError> {
        let allow = |function: &Function, bytes: u32| {
            let attribute = CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            let allowed = function.function.set_attribute(attribute, bytes as i32);
            allowed.map_err(|e| device_error(context, "cuFuncSetAttribute", e))
        };
        for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16] {
            for functions in [&self.linear_portable, &self.head_portable] {
                let tiles = linear_portable::tiles(dtype);
                for (function, tile) in functions.get(dtype).iter().zip(tiles) {
                    allow(function, tile.shared_bytes(dtype))?;
                }
            }
        }
        for dtype in [Dtype::F16, Dtype::BF16] {
            for (function, d) in self.attention_prefill.get(dtype).iter().zip(HEAD_DIMS) {
                allow(function, attention_prefill::shared_bytes(d))?;
            }
            let prefill = &self.attention_prefill_wgmma;
            let prefill = prefill.get(dtype).into_iter().flatten().zip(Form::ALL);
            // Other GPUs' SMs have less shared memory than this.
            for (function, form) in prefill.filter(|(function, _)| function.has_wgmma()) {
                allow(function, form.shared_bytes())?;
            }
            let linear_small = self.linear_small.get(dtype).into_iter().flatten();
            for (functions, rows) in linear_small.zip(linear_small::ROWS) {
                for (function, columns) in functions.iter().zip(linear_small::COLUMNS) {
                    let most = linear_small::most_shared_bytes(function, rows, columns);
                    allow(function, most)?;
                }
            }
            let head = self.head.get(dtype).into_iter().flatten();
            for (function, tile) in head.zip(&head::TILES) {
                allow(function, tile.shared_bytes())?;
            }
            let linear_slim = self.linear_slim.get(dtype).into_iter().flatten();
            for (function, rows) in linear_slim.zip(linear_slim::ROWS) {
                allow(function, linear_slim::most_shared_bytes(rows))?;
            }
            if let Some(function) = self.linear_tiled.get(dtype) {
                allow(function, linear_tiled::SHARED_BYTES)?;
            }
            let linear_wide = self.linear_wide.get(dtype).into_iter().flatten();
            for (function, tile) in linear_wide.zip(linear_wide::TILES) {
                allow(function, tile.shared_bytes())?;
            }
            let attention_sublayer = self.attention_sublayer.get(dtype).into_iter();
            let sublayers = attention_sublayer.flatten();
            let sublayers = sublayers.chain(self.mlp_sublayer.get(dtype));
            for function in sublayers.filter(|function| function.is_hopper()) {
                allow(function, sublayer::MAX_SHARED_BYTES as u32)?;
            }
        }
        Ok(())
    }
}
