//! What NVML read while a cell ran.

use super::super::figure::{Figure, NumberTable};
use super::failed;
use crate::Error;
use crate::number::short;
use crate::report::SavedSweep;
use crate::report::chart::{Panel, PanelLine, Panels, Scale};
use crate::sweep::Measured;
use crate::telemetry::{GpuReading, GpuSample};

type Reading = fn(&GpuReading) -> Option<f64>;

struct Quantities {
    title: &'static str,
    range: Option<(f64, f64)>,
    lines: &'static [(&'static str, Reading)],
}

const QUANTITIES: [Quantities; 4] = [
    Quantities {
        title: "GPU utilisation [%]: any kernel ran",
        range: Some((0.0, 100.0)),
        lines: &[("utilisation", |r| r.gpu_utilization_percent)],
    },
    Quantities {
        title: "activity [%]",
        range: Some((0.0, 100.0)),
        lines: &[
            ("SM", |r| r.sm_active_percent),
            ("tensor", |r| r.tensor_active_percent),
            ("DRAM bandwidth", |r| r.dram_bandwidth_percent),
        ],
    },
    Quantities {
        title: "power [W]",
        range: None,
        lines: &[("power", |r| r.gpu_power_w)],
    },
    Quantities {
        title: "SM clock [MHz]",
        range: None,
        lines: &[("SM clock", |r| r.sm_clock_mhz.map(f64::from))],
    },
];

pub fn draw(saved: &SavedSweep, cells: &[&Measured]) -> Result<Vec<Figure>, Error> {
    let mut figures = Vec::new();
    for cell in cells {
        let samples = saved.samples(cell.result.index)?;
        if !samples.is_empty() {
            figures.push(figure(cell, &samples)?);
        }
    }
    Ok(figures)
}

fn figure(cell: &Measured, samples: &[GpuSample]) -> Result<Figure, Error> {
    let arrivals = cell.requests.iter().map(|r| r.arrival_ms / 1e3);
    let begin = arrivals.fold(f64::INFINITY, f64::min);
    let begin = if begin.is_finite() {
        begin
    } else {
        samples[0].at.as_secs_f64()
    };
    let at = |s: &GpuSample| s.at.as_secs_f64() - begin;
    let panels = QUANTITIES.iter().map(|q| Panel {
        title: q.title.into(),
        scale: match q.range {
            Some(_) => Scale::FromZero,
            None => Scale::Fitted,
        },
        range: q.range,
        lines: q
            .lines
            .iter()
            .map(|(name, of)| PanelLine {
                name: (*name).into(),
                points: samples.iter().map(|s| (at(s), of(&s.reading))).collect(),
            })
            .collect(),
    });
    let chart = Panels {
        title: cell.result.cell.to_string(),
        x_title: "time since the first request [s]".into(),
        panels: panels.collect(),
    };
    let readings = || QUANTITIES.iter().flat_map(|q| q.lines);
    let mut header = vec!["time s".to_string()];
    header.extend(readings().map(|(name, _)| (*name).to_string()));
    let rows = samples.iter().map(|s| {
        let values = readings().map(|(_, of)| short(of(&s.reading)));
        std::iter::once(short(Some(at(s)))).chain(values).collect()
    });
    Ok(Figure {
        name: format!("gpu-cell-{:04}", cell.result.index),
        caption: "Before 0 s the cell warms up.".into(),
        picture: chart.picture().map_err(failed)?,
        table: NumberTable {
            header,
            rows: rows.collect(),
        },
    })
}
