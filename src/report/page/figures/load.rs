//! Latency and served requests against the offered load (day2 §2, §3.1).

use super::super::figure::{Figure, Figures, NumberTable};
use super::{MOST_FIGURES, MOST_SERIES};
use crate::analysis::{Analysis, Axis as CellAxis, Estimate, LATENCY, lines, over_saturated};
use crate::number::short;
use crate::report::chart::{Axis, Lines, Reference, Scale, Series, SeriesPoint};
use crate::sweep::Measured;

pub fn draw(analysis: &Analysis<'_>) -> Result<Figures, super::ChartError> {
    let mut curves = lines(analysis.cells, CellAxis::Load);
    for curve in &mut curves {
        let rate = |c: &&Measured| c.result.request_rate.unwrap_or_default();
        curve.sort_by(|a, b| rate(a).total_cmp(&rate(b)));
    }
    let of_work =
        |a: &Vec<&Measured>, b: &Vec<&Measured>| a[0].result.cell.same_work(&b[0].result.cell);
    let pictures = curves
        .chunk_by(of_work)
        .flat_map(|work| work.chunks(MOST_SERIES));
    let pictures: Vec<(usize, Draw, &[Vec<&Measured>])> = pictures
        .enumerate()
        .flat_map(|(i, curves)| [(i, latency as Draw, curves), (i, served as Draw, curves)])
        .collect();
    Figures::of(&pictures, MOST_FIGURES, |_, (index, draw, curves)| {
        draw(*index, curves)
    })
}

type Draw = fn(usize, &[Vec<&Measured>]) -> Result<Figure, super::ChartError>;

fn name(curve: &[&Measured]) -> String {
    curve[0].result.cell.sized_setting()
}

fn rates(curve: &[&Measured]) -> impl Iterator<Item = f64> {
    curve
        .iter()
        .map(|c| c.result.request_rate.unwrap_or_default())
}

fn offered() -> Axis {
    Axis {
        title: "offered load [requests per second]".into(),
        scale: Scale::Log,
    }
}

fn latency(index: usize, curves: &[Vec<&Measured>]) -> Result<Figure, super::ChartError> {
    let mut rows = Vec::new();
    let mut series = Vec::new();
    for curve in curves {
        let mut points = Vec::new();
        for (cell, rate) in curve.iter().zip(rates(curve)) {
            let Some(estimate) = Estimate::of(cell, LATENCY) else {
                continue;
            };
            let half = estimate.half_width();
            points.push(SeriesPoint {
                x: rate,
                y: estimate.mean,
                half,
            });
            let summary = |of: fn(&crate::metrics::Summary) -> Option<f64>| {
                short(cell.result.mean(|r| of(&r.summary)))
            };
            rows.push([
                name(curve),
                short(Some(rate)),
                short(Some(estimate.mean)),
                short(half),
                summary(|s| Some(s.e2el_ms.as_ref()?.p95)),
                summary(|s| Some(s.queue_ms.as_ref()?.mean)),
            ]);
        }
        series.push(Series {
            name: name(curve),
            points,
        });
    }
    let chart = Lines {
        title: "Latency against offered load".into(),
        x: offered(),
        y: Axis {
            title: "mean latency [ms]".into(),
            scale: Scale::Log,
        },
        series,
        references: Vec::new(),
    };
    Ok(Figure {
        name: format!("latency-by-load-{}", index + 1),
        caption: "Poisson arrivals; every line is one setting. Both axes are logarithmic.".into(),
        picture: chart.picture()?,
        table: NumberTable::new(
            [
                "setting",
                "offered req/s",
                "latency ms",
                "±",
                "P95 ms",
                "waiting ms",
            ],
            rows,
        ),
    })
}

fn served(index: usize, curves: &[Vec<&Measured>]) -> Result<Figure, super::ChartError> {
    let served = |c: &Measured| c.result.mean(|r| Some(r.summary.request_throughput));
    let series = curves.iter().map(|curve| Series {
        name: name(curve),
        points: curve
            .iter()
            .zip(rates(curve))
            .filter_map(|(c, rate)| {
                Some(SeriesPoint {
                    x: rate,
                    y: served(c)?,
                    half: None,
                })
            })
            .collect(),
    });
    let all = || curves.iter().flat_map(|c| rates(c));
    let (low, high) = (
        all().fold(f64::INFINITY, f64::min),
        all().fold(0.0, f64::max),
    );
    let chart = Lines {
        title: "Served against offered load".into(),
        x: offered(),
        y: Axis {
            title: "served [requests per second]".into(),
            scale: Scale::Log,
        },
        series: series.collect(),
        references: vec![Reference {
            name: "served = offered".into(),
            points: vec![(low, low), (high, high)],
        }],
    };
    let rows = curves.iter().flat_map(|curve| {
        curve.iter().zip(rates(curve)).map(|(c, rate)| {
            let state = match over_saturated(c) {
                Some(_) => "over-saturated",
                None => "",
            };
            [
                name(curve),
                short(Some(rate)),
                short(served(c)),
                state.into(),
            ]
        })
    });
    Ok(Figure {
        name: format!("served-by-load-{}", index + 1),
        caption:
            "Below the dashed line requests come faster than they are served: over-saturation."
                .into(),
        picture: chart.picture()?,
        table: NumberTable::new(
            ["setting", "offered req/s", "served req/s", ""],
            rows.collect(),
        ),
    })
}
