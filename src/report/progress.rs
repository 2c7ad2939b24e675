//! The progress of a sweep on stderr: a bar on a terminal, else one line a cell.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::number::short;
use crate::sweep::{CellResult, CellSpec};

/// Bar positions per cell.
const STEPS: u64 = 1000;

#[derive(Debug)]
pub struct Progress {
    /// None where stderr is not a terminal.
    bar: Option<ProgressBar>,
    total: usize,
    current: usize,
    name: String,
}

impl Progress {
    /// `done` cells of `total` are there already.
    pub fn start(total: usize, done: usize) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(
                Some((total - done) as u64 * STEPS),
                ProgressDrawTarget::stderr(),
            );
            let template = "{bar:16} {percent:>3} % · {eta} left · {wide_msg}";
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(500));
            bar
        });
        Self {
            bar,
            total,
            current: 0,
            name: String::new(),
        }
    }

    pub fn cell_started(&mut self, index: usize, cell: &CellSpec) {
        self.name = format!("cell {}/{}: {cell}", index + 1, self.total);
        if let Some(bar) = &self.bar {
            bar.set_message(self.name.clone());
        }
    }

    pub fn cell_progressed(&self, share: f64, output_throughput: f64) {
        if let Some(bar) = &self.bar {
            let within = (share.clamp(0.0, 1.0) * STEPS as f64) as u64;
            bar.set_position(self.current as u64 * STEPS + within);
            let speed = short(Some(output_throughput));
            // The name last: a narrow terminal cuts the end.
            bar.set_message(format!("{speed} tok/s · {}", self.name));
        }
    }

    pub fn cell_finished(&mut self, result: &CellResult) {
        self.current += 1;
        match &self.bar {
            Some(bar) => bar.set_position(self.current as u64 * STEPS),
            None => {
                let latency = result.mean(|r| r.summary.e2el_ms.as_ref().map(|s| s.mean));
                let speed = result.mean(|r| Some(r.summary.output_throughput));
                let (latency, speed) = (short(latency), short(speed));
                eprintln!("{}: {latency} ms, {speed} tok/s", self.name);
            }
        }
    }

    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
