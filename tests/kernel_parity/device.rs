//! The GPU of the tests, device buffers of any compute type, and seeded inputs.

use std::sync::{Arc, OnceLock};

use batchlab::runner::Dtype;
use batchlab::runner::cuda;
use batchlab::runner::cuda::kernels::Kernels;
use cudarc::driver::{CudaContext, CudaSlice, CudaStream, DevicePtr};
use half::{bf16, f16};
use rand::{RngExt, SeedableRng};
use rand_distr::{Distribution, StandardNormal};
use rand_pcg::Pcg64;

pub const DTYPES: [Dtype; 3] = [Dtype::F32, Dtype::F16, Dtype::BF16];

pub struct Gpu {
    pub stream: Arc<CudaStream>,
    pub kernels: Kernels,
}

/// The first GPU, or `None` after saying why the test is skipped.
pub fn gpu() -> Option<&'static Gpu> {
    static GPU: OnceLock<Result<Gpu, String>> = OnceLock::new();
    match GPU.get_or_init(open) {
        Ok(gpu) => Some(gpu),
        Err(why) if std::env::var_os("BATCHLAB_REQUIRE_GPU").is_some() => {
            panic!("BATCHLAB_REQUIRE_GPU is set, but {why}")
        }
        Err(why) => {
            println!("skipped: {why}");
            None
        }
    }
}

fn open() -> Result<Gpu, String> {
    cuda::available(0).map_err(|e| e.to_string())?;
    let context = CudaContext::new(0).map_err(|e| format!("GPU 0 does not open: {e}"))?;
    let kernels = Kernels::load(&context).map_err(|e| e.to_string())?;
    let stream = context.default_stream();
    Ok(Gpu { stream, kernels })
}

/// Fewer repetitions, for compute-sanitizer, under which a test may take a hundred times as long:
/// `BATCHLAB_QUICK_TESTS=1`.
pub fn quick() -> bool {
    std::env::var("BATCHLAB_QUICK_TESTS").is_ok_and(|value| value == "1")
}

/// Device memory of one element type.
pub struct Buffer {
    bytes: CudaSlice<u8>,
    dtype: Dtype,
}

impl Buffer {
    pub fn ptr(&self, gpu: &Gpu) -> u64 {
        self.bytes.device_ptr(&gpu.stream).0
    }
}

impl Gpu {
    pub fn floats(&self, dtype: Dtype, values: &[f32]) -> Buffer {
        let bytes = self.stream.clone_htod(&encode(dtype, values)).unwrap();
        Buffer { bytes, dtype }
    }

    /// `count` NaNs: an output, or memory that must not be used.
    pub fn poison(&self, dtype: Dtype, count: usize) -> Buffer {
        self.floats(dtype, &vec![f32::NAN; count])
    }

    pub fn ints(&self, values: &[i32]) -> Buffer {
        self.words(bytemuck::cast_slice(values))
    }

    pub fn longs(&self, values: &[u64]) -> Buffer {
        self.words(bytemuck::cast_slice(values))
    }

    fn words(&self, bytes: &[u8]) -> Buffer {
        let bytes = self.stream.clone_htod(bytes).unwrap();
        Buffer {
            bytes,
            dtype: Dtype::F32,
        }
    }

    pub fn read(&self, buffer: &Buffer) -> Vec<f32> {
        decode(buffer.dtype, &self.read_bytes(buffer))
    }

    pub fn read_ints(&self, buffer: &Buffer) -> Vec<i32> {
        words(&self.read_bytes(buffer))
            .map(i32::from_le_bytes)
            .collect()
    }

    pub fn read_bytes(&self, buffer: &Buffer) -> Vec<u8> {
        self.stream.clone_dtoh(&buffer.bytes).unwrap()
    }
}

fn encode(dtype: Dtype, values: &[f32]) -> Vec<u8> {
    match dtype {
        Dtype::F32 => bytemuck::cast_slice(values).to_vec(),
        Dtype::F16 => values
            .iter()
            .flat_map(|&v| f16::from_f32(v).to_le_bytes())
            .collect(),
        Dtype::BF16 => values
            .iter()
            .flat_map(|&v| bf16::from_f32(v).to_le_bytes())
            .collect(),
    }
}

fn decode(dtype: Dtype, bytes: &[u8]) -> Vec<f32> {
    let halves = bytes.chunks_exact(2).map(|b| [b[0], b[1]]);
    match dtype {
        Dtype::F32 => words(bytes).map(f32::from_le_bytes).collect(),
        Dtype::F16 => halves.map(|b| f16::from_le_bytes(b).to_f32()).collect(),
        Dtype::BF16 => halves.map(|b| bf16::from_le_bytes(b).to_f32()).collect(),
    }
}

fn words(bytes: &[u8]) -> impl Iterator<Item = [u8; 4]> {
    bytes.chunks_exact(4).map(|b| [b[0], b[1], b[2], b[3]])
}

/// Values as the device holds them: what the reference must start from.
pub fn rounded(dtype: Dtype, values: &[f32]) -> Vec<f32> {
    decode(dtype, &encode(dtype, values))
}

/// Seeded inputs. The seed is printed, and shown when the test fails.
pub struct Inputs(pub Pcg64);

impl Inputs {
    pub fn fresh() -> Self {
        let seed = match std::env::var("BATCHLAB_TEST_SEED") {
            Ok(seed) => seed.parse().expect("BATCHLAB_TEST_SEED is a number"),
            Err(_) => std::time::SystemTime::UNIX_EPOCH
                .elapsed()
                .unwrap()
                .as_nanos() as u64,
        };
        println!("BATCHLAB_TEST_SEED={seed}");
        Self(Pcg64::seed_from_u64(seed))
    }

    /// Normal values with this standard deviation, as `dtype` holds them.
    pub fn normal(&mut self, dtype: Dtype, count: usize, deviation: f32) -> Vec<f32> {
        let values: Vec<f32> = (0..count)
            .map(|_| {
                deviation
                    * <StandardNormal as Distribution<f32>>::sample(&StandardNormal, &mut self.0)
            })
            .collect();
        rounded(dtype, &values)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        self.0.random_range(0..bound)
    }
}
