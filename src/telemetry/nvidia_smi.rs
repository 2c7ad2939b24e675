//! The same quantities read through the `nvidia-smi` program, to compare NVML's with.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::recording::Recording;
use super::{GpuId, GpuReading, GpuUsage, TelemetryError, throttle_names};

/// A quantity and its names, the newest driver's first.
struct Field {
    names: &'static [&'static str],
    put: fn(&mut GpuReading, &str),
}

const FIELDS: [Field; 7] = [
    Field {
        names: &["utilization.gpu"],
        put: |r, text| r.gpu_utilization_percent = text.parse().ok(),
    },
    Field {
        names: &["memory.used"],
        // MiB
        put: |r, text| r.gpu_memory_used_bytes = text.parse().ok().map(|mib: u64| mib << 20),
    },
    Field {
        names: &["power.draw"],
        put: |r, text| r.gpu_power_w = text.parse().ok(),
    },
    Field {
        names: &["clocks.sm"],
        put: |r, text| r.sm_clock_mhz = text.parse().ok(),
    },
    Field {
        names: &["clocks.mem"],
        put: |r, text| r.memory_clock_mhz = text.parse().ok(),
    },
    Field {
        names: &["temperature.gpu"],
        put: |r, text| r.temperature_c = text.parse().ok(),
    },
    Field {
        names: &[
            "clocks_event_reasons.active",
            "clocks_throttle_reasons.active",
        ],
        put: |r, text| {
            let bits = text
                .strip_prefix("0x")
                .map(|hex| u64::from_str_radix(hex, 16));
            r.throttle_reasons = bits.and_then(Result::ok).map(throttle_names);
        },
    },
];

/// A running `nvidia-smi`. Dropping it ends the process and joins the thread that reads it.
#[derive(Debug)]
pub struct SmiReader {
    recording: Arc<Recording>,
    child: Child,
    thread: Option<JoinHandle<()>>,
    interval: Duration,
}

impl SmiReader {
    pub const INTERVAL: Duration = Duration::from_millis(200);

    /// Times count from `clock_start`. Errors: no such program, or it knows no such GPU.
    pub fn start(
        gpu: &GpuId,
        interval: Duration,
        clock_start: Instant,
    ) -> Result<Self, TelemetryError> {
        Self::start_program(&|| Command::new("nvidia-smi"), gpu, interval, clock_start)
    }

    fn start_program(
        program: Program,
        gpu: &GpuId,
        interval: Duration,
        clock_start: Instant,
    ) -> Result<Self, TelemetryError> {
        let (names, puts) = known_fields(program, gpu)?;
        let mut child = query(program, gpu, &names)
            .arg(format!("-lms={}", interval.as_millis().max(1)))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(missing)?;
        let output = child.stdout.take();
        let recording = Arc::new(Recording::new(clock_start));
        let writer = Arc::clone(&recording);
        let thread = std::thread::Builder::new()
            .name("nvidia-smi reader".into())
            .spawn(move || {
                let lines = output.into_iter().flat_map(|o| BufReader::new(o).lines());
                for line in lines.map_while(Result::ok) {
                    writer.push(parse(&line, &puts));
                }
                writer.close();
            })?;
        Ok(Self {
            recording,
            child,
            thread: Some(thread),
            interval,
        })
    }

    /// What the GPU did between two moments of the clock, as nvidia-smi saw it.
    pub fn window(&self, from: Duration, to: Duration) -> GpuUsage {
        let samples = self.recording.around(from, to, 5 * self.interval);
        GpuUsage::over(&samples, from, to)
    }
}

impl Drop for SmiReader {
    fn drop(&mut self) {
        // It may have ended on its own; the pipe then ends the thread all the same.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Makes the command to which the options are added; a script in tests.
type Program<'a> = &'a dyn Fn() -> Command;

type Put = fn(&mut GpuReading, &str);

/// Asks once, leaving out what this driver does not know, until it answers.
fn known_fields(
    program: Program,
    gpu: &GpuId,
) -> Result<(Vec<&'static str>, Vec<Put>), TelemetryError> {
    let mut wanted: Vec<(&[&'static str], Put)> = FIELDS.iter().map(|f| (f.names, f.put)).collect();
    loop {
        let names: Vec<&str> = wanted.iter().map(|(names, _)| names[0]).collect();
        let answer = query(program, gpu, &names).output().map_err(missing)?;
        if answer.status.success() {
            return Ok((names, wanted.into_iter().map(|(_, put)| put).collect()));
        }
        let text =
            String::from_utf8_lossy(&answer.stdout) + String::from_utf8_lossy(&answer.stderr);
        let refused = names
            .iter()
            .position(|name| text.contains(&format!("\"{name}\" is not a valid field")));
        let Some(index) = refused else {
            return Err(TelemetryError::NvidiaSmi {
                cause: text.lines().next().unwrap_or("it failed silently").into(),
                remedy: "run `nvidia-smi` to see what is wrong".into(),
            });
        };
        match wanted[index].0 {
            [_, older @ ..] if !older.is_empty() => wanted[index].0 = older,
            _ => drop(wanted.remove(index)),
        }
        if wanted.is_empty() {
            return Err(TelemetryError::NvidiaSmi {
                cause: "it knows none of the quantities".into(),
                remedy: "update the NVIDIA driver".into(),
            });
        }
    }
}

fn query(program: Program, gpu: &GpuId, names: &[&str]) -> Command {
    let mut command = program();
    let id = match gpu {
        GpuId::PciBusId(bus) => bus.clone(),
        GpuId::Index(index) => index.to_string(),
    };
    command
        .arg(format!("--id={id}"))
        .arg(format!("--query-gpu={}", names.join(",")))
        .arg("--format=csv,noheader,nounits")
        .stdin(Stdio::null());
    command
}

fn missing(error: std::io::Error) -> TelemetryError {
    TelemetryError::NvidiaSmi {
        cause: error.to_string(),
        remedy: "it comes with the NVIDIA driver; put it on PATH".into(),
    }
}

/// One line of values. `[N/A]`, `[Not Supported]` and the like stay unknown.
fn parse(line: &str, puts: &[Put]) -> GpuReading {
    let mut reading = GpuReading::default();
    for (text, put) in line.split(',').zip(puts) {
        put(&mut reading, text.trim());
    }
    reading
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<Put> {
        FIELDS.iter().map(|f| f.put).collect()
    }

    #[test]
    fn values_are_read_and_what_is_not_available_is_unknown() {
        let reading = parse(
            "87, 1024, 312.45, 1980, 2619, 41, 0x0000000000000004",
            &all(),
        );
        assert_eq!(reading.gpu_utilization_percent, Some(87.0));
        assert_eq!(reading.gpu_memory_used_bytes, Some(1 << 30));
        assert_eq!(reading.gpu_power_w, Some(312.45));
        assert_eq!(reading.sm_clock_mhz, Some(1980));
        assert_eq!(reading.memory_clock_mhz, Some(2619));
        assert_eq!(reading.temperature_c, Some(41));
        assert_eq!(reading.throttle_reasons.unwrap(), ["sw_power_cap"]);
        let blind = "[N/A], [Not Supported], [Unknown Error], N/A, , [N/A], [N/A]";
        assert_eq!(parse(blind, &all()), GpuReading::default());
        assert_eq!(
            parse("Unable to determine the device", &all()),
            GpuReading::default()
        );
    }

    fn fake(script: &'static str) -> impl Fn() -> Command {
        move || {
            let mut shell = Command::new("sh");
            shell.args(["-c", script, "nvidia-smi"]);
            shell
        }
    }

    #[test]
    fn an_older_driver_is_asked_by_the_older_name() {
        let program = fake(
            r#"case "$*" in
                *clocks_event_reasons*) echo 'Field "clocks_event_reasons.active" is not a valid field to query.'; exit 2;;
                *-lms*) while :; do echo '50, 8, 100.0, 1000, 2000, 30, 0x4'; sleep 0.01; done;;
            esac"#,
        );
        let start = Instant::now();
        let ms = Duration::from_millis;
        let reader = SmiReader::start_program(&program, &GpuId::Index(0), ms(10), start).unwrap();
        let from = start.elapsed();
        let usage = loop {
            let usage = reader.window(from, start.elapsed());
            if usage.gpu_samples > 1 {
                break usage;
            }
        };
        assert!((usage.gpu_power_w.unwrap() - 100.0).abs() < 1e-9);
        assert_eq!(usage.throttle_reasons.unwrap(), ["sw_power_cap"]);
    }

    #[test]
    fn a_missing_program_and_a_missing_gpu_say_so() {
        let (ms, start) = (Duration::from_millis(10), Instant::now());
        let none = || Command::new("/nowhere/nvidia-smi");
        let error = SmiReader::start_program(&none, &GpuId::Index(0), ms, start).unwrap_err();
        assert!(error.to_string().contains("put it on PATH"), "{error}");
        let program = fake("echo 'No devices were found'; exit 6");
        let error = SmiReader::start_program(&program, &GpuId::Index(9), ms, start).unwrap_err();
        assert!(
            error.to_string().contains("No devices were found"),
            "{error}"
        );
    }
}
