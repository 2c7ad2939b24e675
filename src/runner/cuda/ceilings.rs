//! What this GPU reaches: a large copy in its memory, and a large product.

use cudarc::driver::result;
use cudarc::driver::sys::CUevent_flags::CU_EVENT_DEFAULT;

use super::device::{Device, Memory};
use super::forward::Network;
use super::gemm::{Op, Operands, Shape};
use super::linear::{By, Means};
use super::ops::{LinearParams, RandomFillParams};
use crate::metrics::{Ceilings, Statistics};
use crate::runner::RunnerError;

/// Bytes of each of the two buffers, where so much is free: far beyond the L2 cache ...
const MOST: u64 = 512 << 20;
/// ... and below this a copy no longer is.
const LEAST: u64 = 128 << 20;
/// Side of the square matrices, where they fit.
const LARGEST_SIDE: usize = 8192;
const WARM_UPS: usize = 3;
const ROUNDS: usize = 11;

/// Medians by CUDA events. The matrices hold random numbers: a product of zeros draws less power
/// and so runs at higher clocks.
pub fn measure(device: &Device, network: &mut Network) -> Result<Ceilings, RunnerError> {
    let free = device.free_bytes()?;
    let bytes = MOST.min(free / 3).next_multiple_of(256);
    if bytes < LEAST {
        return Err(RunnerError::OutOfMemory {
            what: "measuring what the device reaches".into(),
            needed: 3 * LEAST,
            available: free,
            device: device.name.clone(),
            remedy: "lower --gpu-memory-utilization or --kv-cache-memory, or free GPU memory"
                .into(),
        });
    }
    let from = random(device, network, bytes)?;
    let to = random(device, network, bytes)?;
    let (flop_per_s, product_by) = product(device, network, &from, &to, bytes)?;
    Ok(Ceilings {
        copy_bytes_per_s: copy(device, &from, &to, bytes)?,
        flop_per_s,
        product_by,
    })
}

fn random(device: &Device, network: &Network, bytes: u64) -> Result<Memory, RunnerError> {
    let memory = device.allocate("a buffer to measure with", bytes)?;
    let fill = RandomFillParams {
        out: memory.address,
        seed: 1,
        count: bytes / network.dtype.bytes() as u64,
        mean: 0.0,
        spread: 1.0,
    };
    let kernels = &network.kernels;
    kernels.random_fill(&device.stream, network.dtype, &fill)?;
    Ok(memory)
}

/// Bytes read plus bytes written per second.
fn copy(device: &Device, from: &Memory, to: &Memory, bytes: u64) -> Result<f64, RunnerError> {
    let stream = device.stream.cu_stream();
    let seconds = median(device, || {
        // SAFETY: both buffers have `bytes` bytes and are freed only once the stream is idle.
        let copied =
            unsafe { result::memcpy_dtod_async(to.address, from.address, bytes as usize, stream) };
        device.check("cuMemcpyDtoDAsync", copied)
    })?;
    Ok(2.0 * bytes as f64 / seconds)
}

/// Two factors in `from`, their product in `to`: by the fastest kernel and, where it is found, by
/// cuBLASLt. The better rate, and whose it is.
fn product(
    device: &Device,
    network: &mut Network,
    from: &Memory,
    to: &Memory,
    bytes: u64,
) -> Result<(f64, &'static str), RunnerError> {
    let element = network.dtype.bytes() as u64;
    let side = ((bytes / 2 / element).isqrt() as usize / 256 * 256).min(LARGEST_SIDE);
    let shape = Shape {
        m: side,
        n: side,
        k: side,
        op: Op::Linear,
    };
    let operands = Operands {
        x: from.address,
        w: from.address + (side * side) as u64 * element,
        y: to.address,
    };
    let flop = 2.0 * (side as f64).powi(3);

    let (kernels, dtype, gemms) = (&network.kernels, network.dtype, &mut network.gemms);
    let means = Means::of(dtype, kernels, gemms);
    let kernel = means.kernel(side, side, side);
    let p = LinearParams {
        y: operands.y,
        ..LinearParams::plain(operands.x, operands.w, [side; 3])
    };
    let launch = || kernel.launch(kernels, &device.stream, dtype, &p).map(drop);
    let own = (flop / median(device, launch)?, kernel.name(dtype));
    if !means.has_cublaslt {
        return Ok(own);
    }
    let seconds = median(device, || gemms.multiply(device, shape, operands))?;
    let library = (flop / seconds, By::CublasLt.name(dtype));
    Ok(if own.0 > library.0 { own } else { library })
}

/// Seconds of one launch.
fn median(
    device: &Device,
    mut launch: impl FnMut() -> Result<(), RunnerError>,
) -> Result<f64, RunnerError> {
    let event = || {
        let recorded = device.stream.record_event(Some(CU_EVENT_DEFAULT));
        device.check("cuEventRecord", recorded)
    };
    for _ in 0..WARM_UPS {
        launch()?;
    }
    let mut seconds = Vec::new();
    for _ in 0..ROUNDS {
        let start = event()?;
        launch()?;
        let end = event()?;
        let ms = device.check("cuEventElapsedTime", start.elapsed_ms(&end))?;
        seconds.push(f64::from(ms) / 1e3);
    }
    Ok(Statistics::of(seconds, &[]).map_or(f64::NAN, |s| s.p50))
}
