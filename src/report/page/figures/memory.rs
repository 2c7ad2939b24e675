//! Memory: planned and allocated, and the KV cache against the batch size (day2 §4).

use super::super::figure::{Drawn, Figure, NumberTable};
use crate::analysis::Analysis;
use crate::number::short;
use crate::report::Header;
use crate::report::chart::{
    Axis, Bar, Lines, Part, Reference, Scale, Series, SeriesPoint, StackedBars, theme,
};
use crate::report::json::{KvInfo, MemoryInfo, PartInfo};
use crate::sweep::Measured;

const MIB: f64 = 1_048_576.0;

pub fn draw(header: &Header, analysis: &Analysis<'_>) -> Drawn {
    let mut figures = Vec::new();
    if let Some(memory) = &header.memory {
        figures.push(allocated(memory)?);
    }
    if let Some(kv) = header.kv.filter(|_| analysis.kv_bytes.len() > 1) {
        figures.push(by_batch(&kv, analysis)?);
    }
    Ok(figures)
}

/// What was planned beside what the device gave.
fn allocated(memory: &MemoryInfo) -> Result<Figure, super::ChartError> {
    let parts = [
        ("weights", memory.weights),
        ("KV cache", memory.kv),
        ("scratch", memory.scratch),
    ];
    let bar = |label: &str, of: fn(&PartInfo) -> u64| Bar {
        label: label.into(),
        values: parts.iter().map(|(_, p)| of(p) as f64 / MIB).collect(),
        end: None,
    };
    let chart = StackedBars {
        title: "Memory of the runner, predicted and allocated".into(),
        x_title: "memory [MiB]".into(),
        unit: "MiB".into(),
        parts: parts
            .iter()
            .enumerate()
            .map(|(i, (name, _))| Part {
                name: (*name).into(),
                color: theme::series(i),
            })
            .collect(),
        bars: vec![
            bar("predicted", |p| p.predicted_bytes),
            bar("allocated", |p| p.allocated_bytes),
        ],
    };
    let mib = |bytes: u64| short(Some(bytes as f64 / MIB));
    let rows = parts.iter().map(|(name, part)| {
        [
            (*name).to_string(),
            mib(part.predicted_bytes),
            mib(part.allocated_bytes),
            short(part.difference_percent()),
        ]
    });
    Ok(Figure {
        name: "memory".into(),
        caption: caption(memory),
        picture: chart.picture()?,
        table: NumberTable::new(
            ["part", "predicted MiB", "allocated MiB", "difference %"],
            rows.collect(),
        ),
    })
}

/// NVML's view, where there is one.
fn caption(memory: &MemoryInfo) -> String {
    let used = memory
        .gpu_memory_used_before_bytes
        .zip(memory.gpu_memory_used_after_bytes);
    match used {
        None => "Allocated is the length of the runner's buffers.".into(),
        Some((before, after)) => {
            let taken = after.saturating_sub(before);
            let own = [memory.weights, memory.kv, memory.scratch];
            let own: u64 = own.iter().map(|p| p.allocated_bytes).sum();
            format!(
                "A GPU gives memory in blocks of 2 MiB. By NVML the GPU's memory in use grew by {} MiB \
                 when the runner opened: {} MiB of it are these parts, the rest is the CUDA context, \
                 the code of kernels and libraries, and graphs.",
                short(Some(taken as f64 / MIB)),
                short(Some(own as f64 / MIB))
            )
        }
    }
}

fn by_batch(kv: &KvInfo, analysis: &Analysis<'_>) -> Result<Figure, super::ChartError> {
    let points: Vec<(usize, f64, Option<f64>)> = analysis
        .kv_bytes
        .iter()
        .map(|&(cell, bytes)| (cell.result.cell.batch_size, bytes, formula(kv, cell)))
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
    Ok(Figure {
        name: "kv-cache".into(),
        caption: format!(
            "{} bytes a token; pages of {} tokens, so that a row takes up to a page more than its length.",
            kv.kv_bytes_per_token, kv.page_size
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
    })
}

/// day2 §4.2 for a full batch of the cell's mean length. The last token is returned but never
/// appended.
fn formula(kv: &KvInfo, cell: &Measured) -> Option<f64> {
    let complete = cell.requests.iter().filter(|r| r.is_complete());
    let (count, tokens) = complete.fold((0usize, 0usize), |(n, sum), r| {
        (
            n + 1,
            sum + r.prompt_tokens + r.output_tokens.saturating_sub(1),
        )
    });
    let length = (count > 0).then(|| tokens as f64 / count as f64)?;
    Some(cell.result.cell.batch_size as f64 * length * kv.kv_bytes_per_token as f64)
}
