//! Refusing what does not fit, before any of it is allocated.

use crate::runner::{Footprint, RunnerError};

/// What a runner asks of memory.
#[derive(Debug, Clone, Copy)]
pub struct Demand(pub Footprint);

impl Demand {
    /// An error with the numbers when the system says that so much is not free. Where it does not
    /// say (no /proc/meminfo), the allocation itself decides.
    pub fn check(&self) -> Result<(), RunnerError> {
        match available() {
            Some(free) if self.0.total() > free => Err(self.refused(free)),
            _ => Ok(()),
        }
    }

    /// `count` zeros; the pages are taken from the system when they are first written.
    pub fn zeros(&self, count: u64) -> Result<Box<[f32]>, RunnerError> {
        usize::try_from(count)
            .ok()
            .and_then(|count| bytemuck::allocation::try_zeroed_slice_box(count).ok())
            .ok_or_else(|| self.refused(available().unwrap_or(0)))
    }

    fn refused(&self, available: u64) -> RunnerError {
        RunnerError::OutOfMemory {
            what: format!(
                "the model (weights {}, KV cache {}, scratch {} bytes)",
                self.0.weights, self.0.kv, self.0.scratch
            ),
            needed: self.0.total(),
            available,
            device: "the CPU".into(),
            remedy: "use a smaller model, a smaller batch or a smaller --kv-cache-memory".into(),
        }
    }
}

/// Bytes that can be allocated without swapping, where the system says.
pub fn available() -> Option<u64> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = meminfo
        .lines()
        .find_map(|l| l.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}
