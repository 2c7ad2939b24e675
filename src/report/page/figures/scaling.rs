//! Time of a step against its rows, beside the work (day2 §1.3).

use super::super::figure::{Drawn, Figure, NumberTable};
use crate::analysis::{Analysis, ScalingPoint};
use crate::number::short;
use crate::report::chart::{Axis, Lines, Reference, Scale, Series, SeriesPoint};

pub fn draw(analysis: &Analysis<'_>) -> Drawn {
    let points = &analysis.scaling;
    let Some(first) = points.first() else {
        return Ok(Vec::new());
    };
    let series = |name: &str, of: fn(&ScalingPoint) -> f64| Series {
        name: name.into(),
        points: points
            .iter()
            .map(|p| SeriesPoint {
                x: p.rows as f64,
                y: of(p),
                half: None,
            })
            .collect(),
    };
    let chart = Lines {
        title: format!("Time of a step, in times of batch {}", first.rows),
        x: Axis {
            title: "rows of the step (full batches)".into(),
            scale: Scale::Ordinal,
        },
        y: Axis {
            title: format!("time(B) / time({})", first.rows),
            scale: Scale::FromZero,
        },
        series: vec![
            series("prefill", |p| p.prefill_ratio),
            series("decode step", |p| p.decode_ratio),
        ],
        references: vec![Reference {
            name: "the work: B times as much".into(),
            points: points.iter().map(|p| (p.rows as f64, p.work)).collect(),
        }],
    };
    let rows = points.iter().map(|p| {
        [
            p.rows.to_string(),
            short(Some(p.work)),
            short(Some(p.prefill_ms)),
            short(Some(p.prefill_ratio)),
            short(Some(p.decode_ms)),
            short(Some(p.decode_ratio)),
        ]
    });
    Ok(vec![Figure {
        name: "scaling".into(),
        caption: "Means over all full steps of the cells that differ in the batch size alone."
            .into(),
        picture: chart.picture()?,
        table: NumberTable::new(
            [
                "rows",
                "work ×",
                "prefill ms",
                "prefill ×",
                "decode step ms",
                "decode step ×",
            ],
            rows.collect(),
        ),
    }])
}
