//! Tensor maps: what Hopper's copy engine (TMA) must know of a matrix to bring boxes of it to shared
//! memory, in rows of 128 bytes as kernels/wgmma.cuh reads them. kernels/tma.cuh starts the copies.

use std::ffi::c_void;

use cudarc::driver::sys;

use crate::runner::RunnerError;

/// Elements of 16 bits in a row of a box: 128 bytes.
const BOX_COLUMNS: u32 = 64;

/// A row-major matrix of 16-bit elements in device memory, and its boxes of 64 columns.
#[derive(Debug, Clone, Copy)]
pub struct BoxedMatrix {
    /// A multiple of 16 bytes.
    pub address: u64,
    pub rows: usize,
    /// A multiple of 8.
    pub columns: usize,
    /// Up to 256.
    pub box_rows: usize,
}

/// A kernel's parameter that describes a [`BoxedMatrix`] to the copy engine. What a box has outside
/// the matrix becomes zeros.
#[derive(Debug, Clone, Copy)]
#[repr(transparent)]
pub struct TensorMap(sys::CUtensorMap);

impl TensorMap {
    /// Only writes down the sizes: the matrix itself is not touched.
    ///
    /// # Errors
    /// [`RunnerError::Unavailable`] when the driver refuses the sizes.
    pub fn new(matrix: &BoxedMatrix) -> Result<Self, RunnerError> {
        let mut map = sys::CUtensorMap { opaque: [0; 16] };
        let sizes = [matrix.columns as u64, matrix.rows as u64];
        let row_bytes = [2 * matrix.columns as u64];
        let box_sizes = [BOX_COLUMNS, matrix.box_rows as u32];
        // SAFETY: the driver reads two sizes, one stride and two steps and writes the map; `address`
        // is only written down.
        let result = unsafe {
            sys::cuTensorMapEncodeTiled(
                &mut map,
                sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_UINT16,
                sizes.len() as u32,
                matrix.address as *mut c_void,
                sizes.as_ptr(),
                row_bytes.as_ptr(),
                box_sizes.as_ptr(),
                [1, 1].as_ptr(),
                sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
                sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
        };
        let refused = |e| RunnerError::Unavailable(format!("no tensor map for {matrix:?}: {e}"));
        result.result().map_err(refused)?;
        Ok(Self(map))
    }
}
