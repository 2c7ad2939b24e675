//! The one rule by which results are compared: |out − ref| ≤ atol + rtol·|ref|.

use batchlab::runner::Dtype;

#[derive(Debug, Clone, Copy)]
pub struct Tolerance {
    pub atol: f32,
    pub rtol: f32,
}

impl Tolerance {
    /// One rounding to `dtype` after f32 arithmetic: one unit in the last place, relative.
    pub fn rounding(dtype: Dtype) -> Self {
        let rtol = match dtype {
            Dtype::F32 => 1e-5,
            Dtype::F16 => 1.0 / 1024.0,
            Dtype::BF16 => 1.0 / 128.0,
        };
        Self { atol: 1e-5, rtol }
    }

    /// The same with a larger absolute part.
    pub fn at_least(self, atol: f32) -> Self {
        Self { atol, ..self }
    }
}

/// What differs: how many values, and the first ten with their index. `None` when nothing does.
pub fn difference(out: &[f32], reference: &[f32], tolerance: Tolerance) -> Option<String> {
    assert_eq!(out.len(), reference.len());
    let wrong = |&(_, (&o, &r)): &(usize, (&f32, &f32))| {
        // Written so that NaN on either side is a difference, and the same infinity is none.
        let close = o == r || (o - r).abs() <= tolerance.atol + tolerance.rtol * r.abs();
        !close
    };
    let bad: Vec<_> = out
        .iter()
        .zip(reference)
        .enumerate()
        .filter(wrong)
        .collect();
    if bad.is_empty() {
        return None;
    }
    let first: Vec<String> = bad
        .iter()
        .take(10)
        .map(|(i, (o, r))| format!("  [{i}] {o:e}, reference {r:e}"))
        .collect();
    Some(format!(
        "{} of {} values differ by more than {tolerance:?}:\n{}",
        bad.len(),
        out.len(),
        first.join("\n")
    ))
}

#[track_caller]
pub fn assert_close(what: &str, out: &[f32], reference: &[f32], tolerance: Tolerance) {
    if let Some(difference) = difference(out, reference, tolerance) {
        panic!("{what}: {difference}");
    }
}

/// NaN, which poison is, in the same places, and close values in the others.
#[track_caller]
pub fn assert_close_where_written(
    what: &str,
    out: &[f32],
    reference: &[f32],
    tolerance: Tolerance,
) {
    let mask = |values: &[f32]| values.iter().map(|v| v.is_nan()).collect::<Vec<_>>();
    assert_eq!(mask(out), mask(reference), "{what}: written");
    let written =
        |values: &[f32]| -> Vec<f32> { values.iter().copied().filter(|v| !v.is_nan()).collect() };
    assert_close(what, &written(out), &written(reference), tolerance);
}

#[test]
fn a_difference_is_seen() {
    let tolerance = Tolerance::rounding(Dtype::F32);
    assert!(difference(&[1.0, 2.0], &[1.0, 2.0], tolerance).is_none());
    for wrong in [1.0001, f32::NAN, f32::INFINITY] {
        assert!(difference(&[1.0, wrong], &[1.0, 1.0], tolerance).is_some());
    }
    assert!(difference(&[0.0], &[f32::NAN], tolerance).is_some());
}
