//! How much longer a step takes with more rows, beside how much more work it is (day2 §1.3).

use crate::metrics::StepTimes;
use crate::sweep::Measured;

/// One batch size beside the smallest one. Times are means of full steps, in ms.
#[derive(Debug, Clone, PartialEq)]
pub struct ScalingPoint {
    pub rows: usize,
    /// Rows / rows of the smallest: the work, in times of its work.
    pub work: f64,
    pub prefill_ms: f64,
    pub decode_ms: f64,
    /// time(B) / time(smallest).
    pub prefill_ratio: f64,
    pub decode_ratio: f64,
}

/// From a line of cells of ascending batch size; steps that were not full are left out. Empty unless
/// two sizes ran full prefills and decodes.
pub fn scaling(ladder: &[&Measured]) -> Vec<ScalingPoint> {
    let times: Vec<(usize, f64, f64)> = ladder
        .iter()
        .filter_map(|cell| {
            let rows = cell.result.cell.batch_size;
            Some((
                rows,
                step_ms(cell, true, rows)?,
                step_ms(cell, false, rows)?,
            ))
        })
        .collect();
    let Some(&(first, prefill, decode)) = times.first().filter(|_| times.len() > 1) else {
        return Vec::new();
    };
    let point = |&(rows, prefill_ms, decode_ms): &(usize, f64, f64)| ScalingPoint {
        rows,
        work: rows as f64 / first as f64,
        prefill_ms,
        decode_ms,
        prefill_ratio: prefill_ms / prefill,
        decode_ratio: decode_ms / decode,
    };
    times.iter().map(point).collect()
}

/// The mean duration of a cell's steps of one kind with so many rows; those that mix both are neither.
fn step_ms(cell: &Measured, prefill: bool, rows: usize) -> Option<f64> {
    let of_run = |times: &StepTimes| times.prefill == prefill && !times.mixed && times.rows == rows;
    let runs = cell.result.runs.iter().flat_map(|r| &r.summary.step_times);
    let (steps, ms) = runs.filter(|t| of_run(t)).fold((0, 0.0), |(n, ms), t| {
        (n + t.steps, ms + t.mean_ms * t.steps as f64)
    });
    (steps > 0).then(|| ms / steps as f64)
}

/// The time that a cell's steps of one kind took in all, in ms, over its runs.
pub fn total_ms(cell: &Measured, prefill: bool) -> f64 {
    let runs = cell.result.runs.iter().flat_map(|r| &r.summary.step_times);
    let of_kind = runs.filter(|t| t.prefill == prefill);
    of_kind.map(|t| t.mean_ms * t.steps as f64).sum()
}
