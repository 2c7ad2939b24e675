//! The machine that measured, as far as the operating system tells.

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    pub os: String,
    pub arch: String,
    pub kernel: Option<String>,
    pub cpu: Option<String>,
    /// Cores this process may use.
    pub cores: Option<usize>,
    pub memory_bytes: Option<u64>,
}

impl Machine {
    pub fn this() -> Self {
        Self {
            os: std::env::consts::OS.into(),
            arch: std::env::consts::ARCH.into(),
            kernel: read("/proc/sys/kernel/osrelease").map(|s| s.trim().into()),
            cpu: read("/proc/cpuinfo").and_then(|s| value(&s, "model name")),
            cores: std::thread::available_parallelism().ok().map(usize::from),
            memory_bytes: read("/proc/meminfo").and_then(|s| {
                let kib = value(&s, "MemTotal")?;
                let kib: u64 = kib.strip_suffix(" kB")?.trim().parse().ok()?;
                Some(kib * 1024)
            }),
        }
    }
}

fn read(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

/// The value of the first `name : value` line.
fn value(text: &str, name: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim().to_string())
    })
}
