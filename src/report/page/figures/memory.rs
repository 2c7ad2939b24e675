//! KV-cache memory against the batch size, measured and by the formula (day2 §4).

use super::super::super::Header;
use super::super::super::chart::{Axis, Lines, Reference, Scale, Series, SeriesPoint};
use super::super::figure::{Drawn, Figure, NumberTable};
use crate::analysis::Analysis;
use crate::number::short;
use crate::sweep::Measured;

const MIB: f64 = 1_048_576.0;

pub fn draw(header: &Header, analysis: &Analysis<'_>) -> Drawn {
    if analysis.kv_bytes.len() < 2 {
        return Ok(Vec::new());
    }
    let points: Vec<(usize, f64, Option<f64>)> = analysis
        .ladder
        .iter()
        .zip(&analysis.kv_bytes)
        .map(|(cell, &(rows, bytes))| (rows, bytes, formula(header, cell)))
        .collect();
    let measured = points.iter().map(|&(rows, bytes, _)| SeriesPoint {
        x: rows as f64,
        y: bytes / MIB,
        half: None,
    });
    let by_formula = points
        .iter()
        .filter_map(|&(rows, _, bytes)| Some((rows as f64, bytes? / MIB)));
    let chart = Lines {
        title: "KV cache in use against batch size".into(),
        x: Axis {
            title: "batch size".into(),
            scale: Scale::Ordinal,
        },
        y: Axis {
            title: "KV cache [MiB]".into(),
            scale: Scale::FromZero,
        },
        series: vec![Series {
            name: "pages in use at the fullest step".into(),
            points: measured.collect(),
        }],
        references: vec![Reference {
            name: "formula, without rounding to pages".into(),
            points: by_formula.collect(),
        }],
    };
    let rows = points.iter().map(|&(rows, bytes, formula)| {
        [
            rows.to_string(),
            short(Some(bytes / MIB)),
            short(formula.map(|f| f / MIB)),
            short(formula.map(|f| 100.0 * (bytes / f - 1.0))),
        ]
    });
    Ok(vec![Figure {
        name: "kv-cache".into(),
        caption: format!(
            "{} bytes a token; pages of {} tokens, so that a row takes up to a page more than its length.",
            header.kv.kv_bytes_per_token, header.kv.page_size
        ),
        picture: chart.picture()?,
        table: NumberTable::new(
            [
                "batch size",
                "in use MiB",
                "formula MiB",
                "rounding to pages %",
            ],
            rows.collect(),
        ),
    }])
}

/// day2 §4.2 for a full batch of the cell's mean length. The last token is returned but never
/// appended.
fn formula(header: &Header, cell: &Measured) -> Option<f64> {
    let complete = cell.requests.iter().filter(|r| r.is_complete());
    let (count, tokens) = complete.fold((0usize, 0usize), |(n, sum), r| {
        (n + 1, sum + r.prompt_tokens + r.output_tokens - 1)
    });
    let length = (count > 0).then(|| tokens as f64 / count as f64)?;
    Some(cell.result.cell.batch_size as f64 * length * header.kv.kv_bytes_per_token as f64)
}
