//! Reads a GPU at a fixed interval on its own thread, for as long as the guard lives.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::recording::Recording;
use super::{GpuReading, GpuSample, GpuUsage, TelemetryError};

/// Something that can be read; a script in tests, NVML otherwise.
pub trait GpuSource {
    fn read(&mut self) -> GpuReading;
}

/// A running sampler. Dropping it stops and joins its thread.
#[derive(Debug)]
pub struct Sampler {
    recording: Arc<Recording>,
    thread: Option<JoinHandle<()>>,
    interval: Duration,
}

impl Sampler {
    /// GPM's counters are noise below 100 ms, and the energy counter moves every 100 ms.
    pub const INTERVAL: Duration = Duration::from_millis(100);

    /// Takes the first sample before it returns. Times count from `clock_start`.
    pub fn start(
        mut source: impl GpuSource + Send + 'static,
        interval: Duration,
        clock_start: Instant,
    ) -> Result<Self, TelemetryError> {
        let recording = Arc::new(Recording::new(clock_start));
        recording.push(source.read());
        let writer = Arc::clone(&recording);
        let thread = std::thread::Builder::new()
            .name("gpu sampler".into())
            .spawn(move || {
                let mut next = Instant::now() + interval;
                while writer.pause_until(next) {
                    writer.push(source.read());
                    // A slow reading skips beats; it does not let them pile up.
                    next = (next + interval).max(Instant::now());
                }
            })?;
        Ok(Self {
            recording,
            thread: Some(thread),
            interval,
        })
    }

    pub fn latest(&self) -> Option<GpuSample> {
        self.recording.latest()
    }

    /// The samples of a window and one neighbour on either side; waits up to three intervals for
    /// the one after `to`.
    pub fn samples(&self, from: Duration, to: Duration) -> Vec<GpuSample> {
        self.recording.around(from, to, 3 * self.interval)
    }

    /// What the GPU did between two moments of the clock.
    pub fn window(&self, from: Duration, to: Duration) -> GpuUsage {
        GpuUsage::over(&self.samples(from, to), from, to)
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.recording.close();
        if let Some(thread) = self.thread.take() {
            // A panic in the source has already been printed by its own thread.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Counts up by one joule a reading and reports when it is dropped.
    struct Scripted {
        reads: usize,
        dropped: Arc<AtomicUsize>,
    }

    impl GpuSource for Scripted {
        fn read(&mut self) -> GpuReading {
            self.reads += 1;
            GpuReading {
                energy_counter_j: Some(self.reads as f64),
                gpu_utilization_percent: Some(50.0),
                ..Default::default()
            }
        }
    }

    impl Drop for Scripted {
        fn drop(&mut self) {
            self.dropped.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn samples_until_dropped_and_leaves_no_thread() {
        let dropped = Arc::new(AtomicUsize::new(0));
        let source = Scripted {
            reads: 0,
            dropped: Arc::clone(&dropped),
        };
        let start = Instant::now();
        let sampler = Sampler::start(source, Duration::from_millis(1), start).unwrap();
        let from = start.elapsed();
        while sampler.latest().unwrap().reading.energy_counter_j.unwrap() < 5.0 {
            std::thread::yield_now();
        }
        // A window waits for the sample after it as long as three intervals, which a busy machine can miss.
        let mut windows = (0..1000).map(|_| sampler.window(from, start.elapsed()));
        let usage = windows.find(|usage| usage.energy_j.is_some()).unwrap();
        assert!(usage.energy_j.unwrap() > 0.0);
        assert!((usage.gpu_utilization_percent.unwrap() - 50.0).abs() < 1e-9);
        assert_eq!(usage.gpu_power_w, None);
        drop(sampler);
        // The thread owns the source: it is gone once the thread was joined.
        assert_eq!(dropped.load(Ordering::SeqCst), 1);
    }
}
