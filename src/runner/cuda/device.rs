//! The device: whether it can be used at all, and the one stream that everything runs on.

use std::fmt::Display;
use std::sync::Arc;

use cudarc::driver::sys::CUdevice_attribute::{
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT,
    CU_DEVICE_ATTRIBUTE_PCI_BUS_ID, CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID,
    CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID,
};
use cudarc::driver::{
    CudaContext, CudaEvent, CudaStream, DriverError, PinnedHostSlice, result, sys,
};

use super::fatbins;
use crate::runner::RunnerError;

/// Oldest driver interface that loads the kernels: they are compiled by a 13.x toolkit, and a
/// driver loads code of its own major version and older.
const DRIVER_NEEDED: i32 = 13_000;

/// Oldest GPU that the kernels are compiled for: Ampere, compute capability 8.
const CAPABILITY_NEEDED: i32 = 8;

/// Says why `cuda:{ordinal}` cannot be used, or nothing. Opens no context.
pub fn available(ordinal: usize) -> Result<(), RunnerError> {
    let unavailable = |cause: String| Err(RunnerError::Unavailable(cause));
    if let Err(why) = fatbins::all() {
        return unavailable(why.into());
    }
    // SAFETY: opens and closes the library by name, nothing else.
    if !unsafe { sys::is_culib_present() } {
        return unavailable(
            "no CUDA driver (libcuda.so.1) on this machine; install the NVIDIA driver or use --device cpu".into(),
        );
    }
    let version = driver_version()?;
    if version < DRIVER_NEEDED {
        return unavailable(format!(
            "the NVIDIA driver supports CUDA {}, the kernels need {}; update the driver or use --device cpu",
            dotted(version),
            dotted(DRIVER_NEEDED)
        ));
    }
    let count = match CudaContext::device_count() {
        Ok(count) => count as usize,
        Err(DriverError(sys::CUresult::CUDA_ERROR_NO_DEVICE)) => 0,
        Err(error) => {
            return unavailable(format!(
                "the CUDA driver does not start ({error}); see what nvidia-smi says or use --device cpu"
            ));
        }
    };
    if ordinal >= count {
        return unavailable(match count {
            0 => "the CUDA driver sees no GPU; see nvidia-smi and CUDA_VISIBLE_DEVICES, or use --device cpu".into(),
            1 => format!("there is no device cuda:{ordinal}; the only one is cuda:0"),
            _ => format!("there is no device cuda:{ordinal}; use cuda:0 to cuda:{}", count - 1),
        });
    }
    let capability = attribute(ordinal, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
    if capability < CAPABILITY_NEEDED {
        return unavailable(format!(
            "cuda:{ordinal} has compute capability {capability}, the kernels need {CAPABILITY_NEEDED} (Ampere) or newer; use --device cpu"
        ));
    }
    Ok(())
}

/// The streaming multiprocessors of `cuda:{ordinal}`, which must be [`available`]. Opens no context.
fn multiprocessors(ordinal: usize) -> Result<usize, RunnerError> {
    Ok(attribute(ordinal, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as usize)
}

/// `cuda:{ordinal}`, which must be [`available`], as NVML and nvidia-smi write it: `0000:65:00.0`.
pub fn pci_bus_id(ordinal: usize) -> Result<String, RunnerError> {
    let domain = attribute(ordinal, CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID)?;
    let bus = attribute(ordinal, CU_DEVICE_ATTRIBUTE_PCI_BUS_ID)?;
    let device = attribute(ordinal, CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID)?;
    Ok(format!("{domain:04x}:{bus:02x}:{device:02x}.0"))
}

fn attribute(ordinal: usize, attribute: sys::CUdevice_attribute) -> Result<i32, RunnerError> {
    let read = || {
        let device = result::device::get(ordinal as i32)?;
        // SAFETY: `device` is a valid device, since the driver just named it.
        unsafe { result::device::get_attribute(device, attribute) }
    };
    read().map_err(|e: DriverError| failed(&format!("cuda:{ordinal}"), "cuDeviceGetAttribute", e))
}

fn driver_version() -> Result<i32, RunnerError> {
    let mut version = 0;
    // SAFETY: writes one integer, and may be called before the driver is initialised.
    unsafe { sys::cuDriverGetVersion(&mut version) }
        .result()
        .map_err(|error| failed("the CUDA driver", "cuDriverGetVersion", error))?;
    Ok(version)
}

/// 13020 is written 13.2.
fn dotted(version: i32) -> String {
    format!("{}.{}", version / 1000, version % 1000 / 10)
}

fn failed(device: &str, call: &str, cause: impl Display) -> RunnerError {
    RunnerError::Device {
        device: device.into(),
        call: call.into(),
        cause: cause.to_string(),
    }
}

/// One GPU, its context and its stream.
pub struct Device {
    /// For people: name and ordinal.
    pub name: String,
    /// Streaming multiprocessors.
    pub sms: usize,
    pub context: Arc<CudaContext>,
    pub stream: Arc<CudaStream>,
}

impl Device {
    /// Opens `cuda:{ordinal}`, which must be [`available`].
    pub fn open(ordinal: usize) -> Result<Self, RunnerError> {
        let label = format!("cuda:{ordinal}");
        let name = |call: &'static str| {
            let label = label.clone();
            move |error: DriverError| failed(&label, call, error)
        };
        let context = CudaContext::new(ordinal).map_err(name("cuDevicePrimaryCtxRetain"))?;
        // SAFETY: all memory of a runner is used on its one stream, which orders every access.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream().map_err(name("cuStreamCreate"))?;
        let model = context.name().map_err(name("cuDeviceGetName"))?;
        Ok(Self {
            name: format!("{model} ({label})"),
            sms: multiprocessors(ordinal)?,
            context,
            stream,
        })
    }

    /// Names the call that failed and the device it failed on.
    pub fn check<T, E: Display>(&self, call: &str, result: Result<T, E>) -> Result<T, RunnerError> {
        result.map_err(|cause| failed(&self.name, call, cause))
    }

    /// Bytes of device memory that nobody uses.
    pub fn free_bytes(&self) -> Result<u64, RunnerError> {
        let (free, _total) = self.check("cuMemGetInfo", self.context.mem_get_info())?;
        Ok(free as u64)
    }

    /// Makes this device the one that the calling thread's driver calls mean.
    pub fn make_current(&self) -> Result<(), RunnerError> {
        self.check("cuCtxSetCurrent", self.context.bind_to_thread())
    }

    /// Zeroed device memory.
    pub fn allocate(&self, what: &str, bytes: u64) -> Result<Memory, RunnerError> {
        self.make_current()?;
        // The driver refuses an empty allocation.
        let bytes = bytes.max(1) as usize;
        let free_before = self.free_bytes()?;
        // SAFETY: zeroed below, before anything on the stream reads it.
        let address = match unsafe { result::malloc_sync(bytes) } {
            Err(DriverError(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => {
                return Err(RunnerError::OutOfMemory {
                    what: what.into(),
                    needed: bytes as u64,
                    available: self.free_bytes()?,
                    device: self.name.clone(),
                    remedy: "another program took memory meanwhile; try again".into(),
                });
            }
            other => self.check("cuMemAlloc", other)?,
        };
        let memory = Memory {
            address,
            given: free_before.saturating_sub(self.free_bytes()?),
            stream: self.stream.clone(),
        };
        // SAFETY: `bytes` were just allocated at `address`.
        let zeroed = unsafe { result::memset_d8_async(address, 0, bytes, self.stream.cu_stream()) };
        self.check("cuMemsetD8Async", zeroed)?;
        Ok(memory)
    }

    /// Zeroed page-locked host memory.
    pub fn allocate_pinned(&self, words: usize) -> Result<Pinned, RunnerError> {
        // SAFETY: zeroed below, before anyone reads it. Flags 0: cached, since the host reads it.
        let slice = unsafe { self.context.alloc_pinned_with_flags::<i32>(words, 0) };
        let mut slice = self.check("cuMemHostAlloc", slice)?;
        let start = self.check("cuEventSynchronize", slice.as_mut_ptr())?;
        // SAFETY: `words` elements were just allocated at `start`.
        unsafe { start.write_bytes(0, words) };
        Ok(Pinned { start, slice })
    }

    /// Copies `source` to `to` in stream order and waits for it.
    ///
    /// # Safety
    /// `to` is the address of at least `source.len()` bytes of this device.
    pub unsafe fn upload(&self, to: sys::CUdeviceptr, source: &[u8]) -> Result<(), RunnerError> {
        // SAFETY: the caller's promise; `source` outlives the copy, which is waited for.
        let copied = unsafe { result::memcpy_htod_async(to, source, self.stream.cu_stream()) };
        self.check("cuMemcpyHtoDAsync", copied)?;
        self.synchronize()
    }

    /// An event that costs as little as one can.
    pub fn event(&self) -> Result<CudaEvent, RunnerError> {
        self.check("cuEventCreate", self.context.new_event(None))
    }

    /// An event that keeps the time.
    pub fn timed_event(&self) -> Result<CudaEvent, RunnerError> {
        let flags = sys::CUevent_flags::CU_EVENT_DEFAULT;
        self.check("cuEventCreate", self.context.new_event(Some(flags)))
    }

    /// Puts `event` on the stream.
    pub fn record(&self, event: &CudaEvent) -> Result<(), RunnerError> {
        self.check("cuEventRecord", event.record(&self.stream))
    }

    /// Waits for everything on the stream.
    pub fn synchronize(&self) -> Result<(), RunnerError> {
        self.check("cuStreamSynchronize", self.stream.synchronize())
    }
}

/// Device memory, freed on drop.
pub struct Memory {
    pub address: sys::CUdeviceptr,
    /// Bytes by which the device's free memory fell. cuMemAlloc hands out blocks of 2 MiB, and parts
    /// of one already taken to what is small.
    pub given: u64,
    /// Everything that uses the memory is on this stream.
    stream: Arc<CudaStream>,
}

impl Drop for Memory {
    fn drop(&mut self) {
        let context = self.stream.context();
        context.record_err(self.stream.synchronize());
        // SAFETY: allocated once, owned here alone, and nothing on the stream uses it any more.
        context.record_err(unsafe { result::memory_free(self.address) });
    }
}

/// Page-locked host memory, freed on drop. The device reads and writes it while no borrow says so, so
/// its owner touches only what no step under way uses.
pub struct Pinned {
    start: *mut i32,
    // Its own accessors wait on an event, which must not happen during graph capture.
    slice: PinnedHostSlice<i32>,
}

impl Pinned {
    /// Its address, for the host and, since addressing is unified, for kernels.
    pub fn address(&self) -> sys::CUdeviceptr {
        self.start as sys::CUdeviceptr
    }

    pub fn words(&self) -> &[i32] {
        // SAFETY: `slice` owns `len` zeroed or written elements at `start`.
        unsafe { std::slice::from_raw_parts(self.start, self.slice.len()) }
    }

    pub fn words_mut(&mut self) -> &mut [i32] {
        // SAFETY: as above, and `&mut self` makes the borrow unique.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.slice.len()) }
    }

    /// Words of the first half, or of the second: the device may be using the other.
    pub fn half(&self, second: bool) -> &[i32] {
        let len = self.slice.len() / 2;
        // SAFETY: as above, and a half is a part.
        unsafe { std::slice::from_raw_parts(self.start.add(usize::from(second) * len), len) }
    }

    pub fn half_mut(&mut self, second: bool) -> &mut [i32] {
        let len = self.slice.len() / 2;
        // SAFETY: as above, and `&mut self` makes the borrow unique.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(usize::from(second) * len), len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_written_with_a_dot() {
        assert_eq!(dotted(13_000), "13.0");
        assert_eq!(dotted(12_040), "12.4");
    }
}
