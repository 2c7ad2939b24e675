//! Launches: a kernel, its grid, and what Hopper adds to it.

use std::ffi::c_void;
use std::ptr;

use cudarc::driver::sys::{
    CUlaunchAttribute, CUlaunchAttributeID, CUlaunchAttributeValue,
    CUlaunchAttributeValue_union__bindgen_ty_1, CUlaunchConfig,
};
use cudarc::driver::{CudaStream, sys};

use super::function::{Function, device_error};
use super::ops::DeviceParams;
use crate::runner::RunnerError;

/// A kernel and its grid.
pub struct Launch<'a> {
    pub function: &'a Function,
    pub grid: (u32, u32, u32),
    /// Threads in a block.
    pub threads: u32,
    /// Dynamic shared memory of a block.
    pub shared_bytes: u32,
}

impl Launch<'_> {
    /// Puts the kernel on the stream. An empty grid is nothing to do.
    pub fn on<P: DeviceParams>(&self, stream: &CudaStream, params: &P) -> Result<(), RunnerError> {
        self.with(stream, params, &mut [])
    }

    /// The same, but its blocks may start before the previous kernel on the stream has ended: it
    /// must wait for that itself (`follow_previous_kernel`, kernels/launch.cuh).
    pub fn behind<P: DeviceParams>(
        &self,
        stream: &CudaStream,
        params: &P,
    ) -> Result<(), RunnerError> {
        match self.function.is_hopper() {
            true => self.with(stream, params, &mut [overlap()]),
            false => self.on(stream, params),
        }
    }

    /// The same, with all blocks of equal y and z in one cluster. On older GPUs, the grid must be
    /// one block wide.
    pub fn behind_in_clusters<P: DeviceParams>(
        &self,
        stream: &CudaStream,
        params: &P,
    ) -> Result<(), RunnerError> {
        match self.function.is_hopper() {
            true => self.with(stream, params, &mut [overlap(), clusters(self.grid.0)]),
            false => self.on(stream, params),
        }
    }

    fn with<P: DeviceParams>(
        &self,
        stream: &CudaStream,
        params: &P,
        attributes: &mut [CUlaunchAttribute],
    ) -> Result<(), RunnerError> {
        let (x, y, z) = self.grid;
        if x == 0 || y == 0 || z == 0 {
            return Ok(());
        }
        let context = stream.context();
        let config = CUlaunchConfig {
            gridDimX: x,
            gridDimY: y,
            gridDimZ: z,
            blockDimX: self.threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: self.shared_bytes,
            hStream: stream.cu_stream(),
            attrs: attributes.as_mut_ptr(),
            numAttrs: attributes.len() as u32,
        };
        let function = self.function.function.cu_function();
        let mut arguments = [ptr::from_ref(params).cast_mut().cast::<c_void>()];
        context
            .bind_to_thread()
            // SAFETY: the kernel takes exactly one `P` by value (`DeviceParams`), and the driver
            // copies it and the attributes before this call returns. What `P` points to is the
            // caller's contract.
            .and_then(|()| unsafe {
                sys::cuLaunchKernelEx(&config, function, arguments.as_mut_ptr(), ptr::null_mut())
                    .result()
            })
            .map_err(|e| device_error(context, "cuLaunchKernelEx", e))
    }
}

fn attribute(
    id: CUlaunchAttributeID,
    fill: impl FnOnce(&mut CUlaunchAttributeValue),
) -> CUlaunchAttribute {
    let mut value = CUlaunchAttributeValue { pad: [0; 64] };
    fill(&mut value);
    CUlaunchAttribute {
        id,
        pad: [0; 4],
        value,
    }
}

/// The kernel may start before the one before it has ended.
fn overlap() -> CUlaunchAttribute {
    let id = CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
    attribute(id, |value| value.programmaticStreamSerializationAllowed = 1)
}

/// `width` neighbouring blocks form a cluster.
fn clusters(width: u32) -> CUlaunchAttribute {
    let id = CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
    attribute(id, |value| {
        value.clusterDim = CUlaunchAttributeValue_union__bindgen_ty_1 {
            x: width,
            y: 1,
            z: 1,
        };
    })
}
