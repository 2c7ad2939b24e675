//! The GPU: buffers with random contents, and timing.

use std::sync::Arc;

use anyhow::{Context, Result};
use batchlab::metrics::Ceilings;
use batchlab::model::Model;
use batchlab::runner::cuda::kernels::Kernels;
use batchlab::runner::cuda::ops::RandomFillParams;
use batchlab::runner::cuda::{self, CudaRunner};
use batchlab::runner::{CublasLt, Dtype, KvBudget, Limits, Runner, RunnerError, RunnerOptions};
use cudarc::driver::sys::CUdevice_attribute::{
    CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT,
};
use cudarc::driver::sys::CUevent_flags::CU_EVENT_DEFAULT;
use cudarc::driver::sys::CUgraphInstantiate_flags;
use cudarc::driver::sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
use cudarc::driver::{CudaContext, CudaSlice, CudaStream, DevicePtr};

use crate::cases::{Case, Launch};

const WARM_UPS: usize = 3;
const SAMPLES: usize = 21;
const FEWEST_LAUNCHES: usize = 20;
const MOST_SETS: usize = 1024;

pub struct Device {
    pub stream: Arc<CudaStream>,
    pub kernels: Kernels,
    pub name: String,
    pub sms: usize,
    pub l2_bytes: usize,
    pub ceilings: Ceilings,
}

/// Microseconds of one launch.
pub struct Timing {
    pub median_us: f64,
    pub p10_us: f64,
    pub p90_us: f64,
    pub samples: usize,
    pub launches: usize,
    pub sets: usize,
}

/// Device memory. cudarc is asked for its address once: it orders streams at every such call, which
/// a graph capture does not allow.
pub struct Buffer {
    _memory: CudaSlice<u8>,
    address: u64,
}

impl Buffer {
    fn new(device: &Device, memory: CudaSlice<u8>) -> Self {
        let address = memory.device_ptr(&device.stream).0;
        Self {
            _memory: memory,
            address,
        }
    }

    /// A method and no public field: a closure that names a field captures a copy of that field
    /// alone, and the memory would be freed before its first launch.
    pub fn ptr(&self) -> u64 {
        self.address
    }
}

impl Device {
    /// GPU 0, or why there is none.
    pub fn open() -> Result<Result<Self, RunnerError>> {
        if let Err(why) = cuda::available(0) {
            return Ok(Err(why));
        }
        // First: the model that it opens is gone when the buffers are made.
        let ceilings = measure_ceilings()?;
        let context = CudaContext::new(0).context("GPU 0 does not open")?;
        Ok(Ok(Self {
            kernels: Kernels::load(&context)?,
            name: context.name()?,
            sms: context.attribute(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as usize,
            l2_bytes: context.attribute(CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)? as usize,
            stream: context.new_stream()?,
            ceilings,
        }))
    }

    /// `count` values of this type, uniform in ±`spread`.
    pub fn random(&self, dtype: Dtype, count: usize, spread: f32) -> Result<Buffer> {
        let size = if dtype == Dtype::F32 { 4 } else { 2 };
        let buffer = Buffer::new(self, self.stream.alloc_zeros(count * size)?);
        let params = RandomFillParams {
            out: buffer.ptr(),
            seed: 1,
            count: count as u64,
            mean: 0.0,
            spread,
        };
        self.kernels.random_fill(&self.stream, dtype, &params)?;
        Ok(buffer)
    }

    pub fn ints(&self, values: &[i32]) -> Result<Buffer> {
        self.raw(bytemuck::cast_slice(values))
    }

    pub fn floats(&self, values: &[f32]) -> Result<Buffer> {
        self.raw(bytemuck::cast_slice(values))
    }

    pub fn raw(&self, bytes: &[u8]) -> Result<Buffer> {
        Ok(Buffer::new(self, self.stream.clone_htod(bytes)?))
    }

    /// Times one launch of the case.
    pub fn time(&self, case: &Case) -> Result<Timing> {
        // Enough sets that each finds none of its data in L2; a case of a few kB, whose time is the
        // launch itself, stops at MOST_SETS.
        let sets = (2.0 * self.l2_bytes as f64 / case.bytes).ceil() as usize;
        let sets = if sets <= 1 {
            1
        } else {
            (sets + 1).min(MOST_SETS)
        };
        let launches: Vec<Launch> = (0..sets)
            .map(|set| (case.prepare)(self, set))
            .collect::<Result<_>>()?;
        let count = sets * FEWEST_LAUNCHES.div_ceil(sets);
        self.stream.synchronize()?;

        self.stream.begin_capture(CU_STREAM_CAPTURE_MODE_RELAXED)?;
        for launch in launches.iter().cycle().take(count) {
            launch(self)?;
        }
        let graph = self
            .stream
            .end_capture(CUgraphInstantiate_flags(0))?
            .context("an empty graph")?;
        let us = self.samples(|| Ok(graph.launch()?))?;
        let at = |share: f64| us[((us.len() - 1) as f64 * share).round() as usize] / count as f64;
        Ok(Timing {
            median_us: at(0.5),
            p10_us: at(0.1),
            p90_us: at(0.9),
            samples: us.len(),
            launches: count,
            sets,
        })
    }

    /// Microseconds of each run between two CUDA events, after warm-ups, in ascending order.
    fn samples(&self, mut run: impl FnMut() -> Result<()>) -> Result<Vec<f64>> {
        let mut us = Vec::with_capacity(SAMPLES);
        for i in 0..WARM_UPS + SAMPLES {
            let start = self.stream.record_event(Some(CU_EVENT_DEFAULT))?;
            run()?;
            let end = self.stream.record_event(Some(CU_EVENT_DEFAULT))?;
            let ms = start.elapsed_ms(&end)?;
            if i >= WARM_UPS {
                us.push(f64::from(ms) * 1e3);
            }
        }
        us.sort_by(f64::total_cmp);
        Ok(us)
    }
}

/// What the runner measures for itself: a large copy, and a large product through cuBLASLt in bf16.
fn measure_ceilings() -> Result<Ceilings> {
    let model = Model::open(Some("dummy:distilgpt2"))?;
    let options = RunnerOptions {
        dtype: Some(Dtype::BF16),
        page_size: 64,
        kv: KvBudget::Utilization(0.5),
        limits: Limits {
            max_rows: 1,
            max_tokens: 1,
            max_kv_len: 64,
        },
        cublaslt: CublasLt::Auto,
    };
    Ok(CudaRunner::open(0, &model, &options)?.measure_ceilings()?)
}
