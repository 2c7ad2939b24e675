//! The kernels' own curve, from what `cargo bench --bench kernels` wrote (day2 §1.3).

use std::path::Path;

use serde::Deserialize;

use super::super::figure::{Drawn, Figure, NumberTable};
use super::MOST_SERIES;
use crate::Error;
use crate::number::short;
use crate::report::chart::{Axis, Lines, Reference, Scale, Series, SeriesPoint};

/// Curves of one kernel in the picture; all are in the table.
const MOST_OF_KERNEL: usize = 2;

/// A `kernels.json`.
#[derive(Debug, Deserialize)]
pub struct KernelTimes {
    gpu: String,
    results: Vec<KernelTime>,
}

#[derive(Debug, Deserialize)]
struct KernelTime {
    kernel: String,
    /// Such as `B=8 S=512 Hq=12 Hkv=12 D=64`.
    shape: String,
    median_us: f64,
}

impl KernelTimes {
    pub fn read(path: &Path) -> Result<Self, Error> {
        let wrong = |cause: String| {
            Error::Results(format!(
                "{}: {cause}; give a file that `cargo bench --bench kernels -- --output FILE` wrote",
                path.display()
            ))
        };
        let text = std::fs::read(path).map_err(|e| wrong(e.to_string()))?;
        serde_json::from_slice(&text).map_err(|e| wrong(e.to_string()))
    }

    /// Kernels that were timed with one row and with more, everything else equal.
    pub(super) fn draw(&self) -> Drawn {
        let mut curves: Vec<Curve> = Vec::new();
        for time in &self.results {
            let Some((rows, shape)) = rows(&time.shape) else {
                continue;
            };
            let same = |c: &Curve| c.kernel == time.kernel && c.shape == shape;
            let at = curves.iter().position(same).unwrap_or_else(|| {
                curves.push(Curve {
                    kernel: time.kernel.clone(),
                    shape,
                    points: Vec::new(),
                });
                curves.len() - 1
            });
            curves[at].points.push((rows, time.median_us));
        }
        for curve in &mut curves {
            curve.points.sort_by_key(|(rows, _)| *rows);
        }
        curves.retain(|c| c.points.len() > 1 && c.points[0].0 == 1);
        if curves.is_empty() {
            return Ok(Vec::new());
        }
        let mut drawn: Vec<&Curve> = Vec::new();
        for curve in &curves {
            let of_kernel = drawn.iter().filter(|c| c.kernel == curve.kernel).count();
            if of_kernel < MOST_OF_KERNEL && drawn.len() < MOST_SERIES {
                drawn.push(curve);
            }
        }
        let series = drawn.iter().map(|curve| Series {
            name: format!("{} {}", curve.kernel, curve.shape),
            points: curve
                .ratios()
                .map(|(rows, _, ratio)| SeriesPoint {
                    x: rows as f64,
                    y: ratio,
                    half: None,
                })
                .collect(),
        });
        let most = drawn.iter().filter_map(|c| c.points.last());
        let most = most.map(|(rows, _)| *rows).max().unwrap_or(1);
        let chart = Lines {
            title: "Time of a kernel, in times of one row".into(),
            x: Axis {
                title: "rows".into(),
                scale: Scale::Log2,
            },
            y: Axis {
                title: "time(B) / time(1)".into(),
                scale: Scale::Log,
            },
            series: series.collect(),
            references: vec![Reference {
                name: "the work: B times as much".into(),
                points: vec![(1.0, 1.0), (most as f64, most as f64)],
            }],
        };
        let rows = curves.iter().flat_map(|curve| {
            let name = format!("{} {}", curve.kernel, curve.shape);
            curve.ratios().map(move |(rows, us, ratio)| {
                [
                    name.clone(),
                    rows.to_string(),
                    short(Some(us)),
                    short(Some(ratio)),
                ]
            })
        });
        Ok(vec![Figure {
            name: "kernels".into(),
            caption: format!("Medians of the kernel microbenchmarks on {}.", self.gpu),
            picture: chart.picture()?,
            table: NumberTable::new(
                ["kernel", "rows", "µs", "time(B) / time(1)"],
                rows.collect(),
            ),
        }])
    }
}

/// One kernel at one shape, over its rows.
struct Curve {
    kernel: String,
    shape: String,
    /// Rows and µs.
    points: Vec<(usize, f64)>,
}

impl Curve {
    /// Rows, µs, and the time in times of the first.
    fn ratios(&self) -> impl Iterator<Item = (usize, f64, f64)> {
        let first = self.points[0].1;
        self.points
            .iter()
            .map(move |&(rows, us)| (rows, us, us / first))
    }
}

/// The rows that a shape names (B sequences, or M rows of a product), and the rest of it without
/// what follows from the rows.
fn rows(shape: &str) -> Option<(usize, String)> {
    let is_rows = |part: &&str| part.starts_with("B=") || part.starts_with("M=");
    let part = shape.split(' ').find(is_rows)?;
    let rest = shape
        .split(' ')
        .filter(|p| *p != part && !p.starts_with("splits="));
    Some((part[2..].parse().ok()?, rest.collect::<Vec<_>>().join(" ")))
}
