//! Matrix products through cuBLASLt, where it is found: one algorithm a shape, chosen once and kept.

use std::collections::HashMap;
use std::ffi::c_void;
use std::fmt::Display;
use std::ptr;

use cudarc::cublaslt::{result, sys};
use cudarc::driver::sys::CUdeviceptr;

use super::device::Device;
use crate::runner::{CublasLt, Dtype, RunnerError};

/// Scratch that algorithms which split K may use.
pub const WORKSPACE_BYTES: usize = 32 << 20;

/// What to multiply. Row-major, as the rest of the crate sees matrices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub op: Op,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Op {
    /// `Y[M, N] = X[M, K] · W[K, N]`, all of the compute type.
    Linear,
    /// `Y[M, N] = X[M, K] · E[N, K]ᵀ` with `Y` in f32: the tied head.
    Head,
}

/// Addresses of the three matrices.
#[derive(Debug, Clone, Copy)]
pub struct Operands {
    pub x: CUdeviceptr,
    pub w: CUdeviceptr,
    pub y: CUdeviceptr,
}

/// cuBLASLt's handle or why there is none, and the algorithms chosen so far.
pub struct Gemms {
    // Dropped before the handle.
    chosen: HashMap<Shape, Algorithm>,
    handle: Result<Handle, String>,
    dtype: Dtype,
    workspace: CUdeviceptr,
}

impl Gemms {
    /// Opens cuBLASLt where it is wanted and can be.
    pub fn open(dtype: Dtype, wanted: CublasLt) -> Self {
        let handle = match wanted {
            CublasLt::Off => Err("cuBLASLt turned off".into()),
            CublasLt::Auto if !is_found() => Err("cuBLASLt not found".into()),
            CublasLt::Auto => match result::create_handle() {
                Ok(handle) => Ok(Handle(handle)),
                Err(cause) => Err(format!(
                    "cuBLASLt found, but cublasLtCreate failed: {cause}"
                )),
            },
        };
        Self {
            chosen: HashMap::new(),
            handle,
            dtype,
            workspace: 0,
        }
    }

    /// Whether [`multiply`](Self::multiply) can run here.
    pub fn has_cublaslt(&self) -> bool {
        self.handle.is_ok()
    }

    /// For people: cuBLASLt's version, or why it is not used.
    pub fn describe(&self) -> String {
        match &self.handle {
            Ok(_) => format!("cuBLASLt {}", version()),
            Err(why) => why.clone(),
        }
    }

    /// Lends `WORKSPACE_BYTES` of device memory at `address`, which live as long as `self`.
    pub fn set_workspace(&mut self, address: CUdeviceptr) {
        self.workspace = address;
    }

    /// Puts the product on the stream. The first call of a shape asks cuBLASLt for an algorithm.
    ///
    /// # Errors
    /// Where [`has_cublaslt`](Self::has_cublaslt) is false, or cuBLASLt fails.
    pub fn multiply(
        &mut self,
        device: &Device,
        shape: Shape,
        operands: Operands,
    ) -> Result<(), RunnerError> {
        let handle = match &self.handle {
            Ok(handle) => handle,
            Err(why) => return Err(RunnerError::Unavailable(why.clone())),
        };
        if !self.chosen.contains_key(&shape) {
            let algorithm = Algorithm::choose(device, handle, self.dtype, shape)?;
            self.chosen.insert(shape, algorithm);
        }
        let algorithm = &self.chosen[&shape];
        let (one, zero) = (1f32, 0f32);
        // cuBLASLt is column-major: it sees Yᵀ = Wᵀ·Xᵀ, so W goes first.
        // SAFETY: descriptors, handle and workspace live in `self`; alpha and beta are read before
        // the call returns (host pointer mode); the matrices are the caller's, sized by `shape`.
        let launched = unsafe {
            result::matmul(
                handle.0,
                algorithm.product.0,
                ptr::from_ref(&one).cast(),
                ptr::from_ref(&zero).cast(),
                operands.w as *const c_void,
                algorithm.w.0,
                operands.x as *const c_void,
                algorithm.x.0,
                operands.y as *const c_void,
                algorithm.y.0,
                operands.y as *mut c_void,
                algorithm.y.0,
                &raw const algorithm.heuristic.algo,
                self.workspace as *mut c_void,
                WORKSPACE_BYTES,
                device.stream.cu_stream().cast(),
            )
        };
        check(device, "cublasLtMatmul", launched)
    }
}

/// Names the call that failed, and the way around it.
fn check<T>(
    device: &Device,
    call: &str,
    result: Result<T, impl Display>,
) -> Result<T, RunnerError> {
    let remedy = |cause| format!("{cause}; --cublaslt off multiplies without cuBLASLt");
    device.check(call, result.map_err(remedy))
}

/// Whether cuBLASLt is on this machine.
fn is_found() -> bool {
    // SAFETY: opens and closes the library by name, nothing else.
    unsafe { sys::is_culib_present() }
}

/// The version of cuBLASLt, which is there: 13.1.0 for instance.
fn version() -> String {
    // SAFETY: the library is there, and the call only returns a number.
    let version = unsafe { sys::cublasLtGetVersion() };
    format!(
        "{}.{}.{}",
        version / 10_000,
        version / 100 % 100,
        version % 100
    )
}

/// The descriptors of one shape and the algorithm that runs it.
struct Algorithm {
    product: Product,
    w: Layout,
    x: Layout,
    y: Layout,
    heuristic: sys::cublasLtMatmulHeuristicResult_t,
}

impl Algorithm {
    fn choose(
        device: &Device,
        handle: &Handle,
        dtype: Dtype,
        shape: Shape,
    ) -> Result<Self, RunnerError> {
        let Shape { m, n, k, op } = shape;
        let element = match dtype {
            Dtype::F32 => sys::cudaDataType_t::CUDA_R_32F,
            Dtype::F16 => sys::cudaDataType_t::CUDA_R_16F,
            Dtype::BF16 => sys::cudaDataType_t::CUDA_R_16BF,
        };
        let product = Product::new(device)?;
        let x = Layout::new(device, element, k, m)?;
        let (w, y) = match op {
            Op::Linear => (
                Layout::new(device, element, n, k)?,
                Layout::new(device, element, n, m)?,
            ),
            Op::Head => {
                product.transpose_w(device)?;
                let logit = sys::cudaDataType_t::CUDA_R_32F;
                (
                    Layout::new(device, element, k, n)?,
                    Layout::new(device, logit, n, m)?,
                )
            }
        };
        let preference = Preference::new(device)?;
        // SAFETY: all descriptors were just made and are alive.
        let heuristic = unsafe {
            result::get_matmul_algo_heuristic(handle.0, product.0, w.0, x.0, y.0, y.0, preference.0)
        };
        let call = format!("cublasLtMatmulAlgoGetHeuristic for {shape:?} in {dtype}");
        Ok(Self {
            product,
            w,
            x,
            y,
            heuristic: check(device, &call, heuristic)?,
        })
    }
}

struct Handle(sys::cublasLtHandle_t);
struct Layout(sys::cublasLtMatrixLayout_t);
struct Product(sys::cublasLtMatmulDesc_t);
struct Preference(sys::cublasLtMatmulPreference_t);

impl Layout {
    /// Column-major and dense.
    fn new(
        device: &Device,
        element: sys::cudaDataType_t,
        rows: usize,
        columns: usize,
    ) -> Result<Self, RunnerError> {
        let layout =
            result::create_matrix_layout(element, rows as u64, columns as u64, rows as i64);
        Ok(Self(check(device, "cublasLtMatrixLayoutCreate", layout)?))
    }
}

impl Product {
    /// Sums in f32 with no TF32, whatever the element type.
    fn new(device: &Device) -> Result<Self, RunnerError> {
        let compute = sys::cublasComputeType_t::CUBLAS_COMPUTE_32F;
        let made = result::create_matmul_desc(compute, sys::cudaDataType_t::CUDA_R_32F);
        Ok(Self(check(device, "cublasLtMatmulDescCreate", made)?))
    }

    fn transpose_w(&self, device: &Device) -> Result<(), RunnerError> {
        // CUBLAS_OP_T.
        let transposed: i32 = 1;
        // SAFETY: the descriptor is alive, and the value is read before the call returns.
        let set = unsafe {
            result::set_matmul_desc_attribute(
                self.0,
                sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSA,
                ptr::from_ref(&transposed).cast(),
                size_of_val(&transposed),
            )
        };
        check(device, "cublasLtMatmulDescSetAttribute", set)
    }
}

impl Preference {
    fn new(device: &Device) -> Result<Self, RunnerError> {
        use sys::cublasLtMatmulPreferenceAttributes_t as Attribute;
        use sys::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;

        let made = result::create_matmul_pref();
        let preference = Self(check(device, "cublasLtMatmulPreferenceCreate", made)?);
        let bytes = WORKSPACE_BYTES as u64;
        // A split K may only be summed in f32 in the workspace, in a fixed order: bits repeat.
        let reduction = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32;
        let (bytes_value, reduction_value) = (ptr::from_ref(&bytes), ptr::from_ref(&reduction));
        for (attribute, value, size) in [
            (
                Attribute::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                bytes_value.cast::<c_void>(),
                size_of_val(&bytes),
            ),
            (
                Attribute::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                reduction_value.cast::<c_void>(),
                size_of_val(&reduction),
            ),
        ] {
            // SAFETY: the descriptor is alive, and the value is read before the call returns.
            let set =
                unsafe { result::set_matmul_pref_attribute(preference.0, attribute, value, size) };
            check(device, "cublasLtMatmulPreferenceSetAttribute", set)?;
        }
        Ok(preference)
    }
}

/// Frees a descriptor once; there is nobody to tell of a failure.
macro_rules! freed_by {
    ($($name:ident: $free:ident),+ $(,)?) => {$(
        impl Drop for $name {
            fn drop(&mut self) {
                // SAFETY: made by the matching create call, owned here alone.
                let _ = unsafe { result::$free(self.0) };
            }
        }
    )+};
}

freed_by! {
    Handle: destroy_handle,
    Layout: destroy_matrix_layout,
    Product: destroy_matmul_desc,
    Preference: destroy_matmul_pref,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn why_there_is_no_cublaslt_is_told() {
        let off = Gemms::open(Dtype::BF16, CublasLt::Off);
        assert!(!off.has_cublaslt());
        assert_eq!(off.describe(), "cuBLASLt turned off");
    }
}
