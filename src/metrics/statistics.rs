//! Mean, spread, percentiles and confidence intervals.

use serde::{Deserialize, Serialize};
use statrs::distribution::{ContinuousCDF, StudentsT};

/// The statistics of one metric. The unit is the metric's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Statistics {
    pub n: usize,
    pub mean: f64,
    /// Sample standard deviation; 0 for one sample.
    pub std: f64,
    pub p50: f64,
    pub p90: f64,
    pub p95: f64,
    pub p99: f64,
    pub max: f64,
    /// `--metric-percentiles` beyond those above, as (percentile, value).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extra: Vec<(f64, f64)>,
}

impl Statistics {
    /// Samples below which a p95 rests on fewer than ten values and is flagged.
    pub const P95_SAMPLES: usize = 200;

    /// None without samples. `extra` are further percentiles in 0..=100.
    pub fn of(mut samples: Vec<f64>, extra: &[f64]) -> Option<Self> {
        samples.sort_by(f64::total_cmp);
        let max = *samples.last()?;
        let n = samples.len();
        let mean = samples.iter().sum::<f64>() / n as f64;
        let squares = samples.iter().map(|v| (v - mean).powi(2)).sum::<f64>();
        let at = |p| percentile(&samples, p);
        Some(Self {
            n,
            mean,
            std: (squares / (n.max(2) - 1) as f64).sqrt(),
            p50: at(50.0),
            p90: at(90.0),
            p95: at(95.0),
            p99: at(99.0),
            max,
            extra: extra.iter().map(|&p| (p, at(p))).collect(),
        })
    }
}

/// Linear interpolation between the closest ranks (numpy's default, Hyndman & Fan's type 7).
/// `sorted` is ascending and not empty.
pub(super) fn percentile(sorted: &[f64], p: f64) -> f64 {
    let rank = p / 100.0 * (sorted.len() - 1) as f64;
    let (low, high) = (rank.floor() as usize, rank.ceil() as usize);
    sorted[low] + (sorted[high] - sorted[low]) * rank.fract()
}

/// A mean with the half width of its confidence interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    pub mean: f64,
    pub half_width: f64,
}

/// Student's t interval of the mean of independent repeats at `level` (0.95). None for fewer than
/// two repeats.
pub fn confidence_interval(repeats: &[f64], level: f64) -> Option<Interval> {
    let n = repeats.len();
    let s = Statistics::of(repeats.to_vec(), &[])?;
    let std_error = s.std / (n as f64).sqrt();
    let half_width = t_half_width(std_error, n.checked_sub(1)? as f64, level)?;
    Some(Interval {
        mean: s.mean,
        half_width,
    })
}

/// Half width of the `level` interval of a mean with this standard error, by Student's t with
/// `degrees` of freedom. None without degrees of freedom.
pub fn t_half_width(std_error: f64, degrees: f64, level: f64) -> Option<f64> {
    let t = StudentsT::new(0.0, 1.0, degrees).ok()?;
    Some(t.inverse_cdf(0.5 + level / 2.0) * std_error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_as_numpy() {
        // numpy.percentile([15, 20, 35, 40, 50], [50, 90, 95, 99])
        let s = Statistics::of(vec![50.0, 20.0, 15.0, 40.0, 35.0], &[25.0]).unwrap();
        assert_eq!((s.n, s.mean, s.p50, s.max), (5, 32.0, 35.0, 50.0));
        assert!((s.p90 - 46.0).abs() < 1e-12);
        assert!((s.p95 - 48.0).abs() < 1e-12);
        assert!((s.p99 - 49.6).abs() < 1e-12);
        assert_eq!(s.extra, [(25.0, 20.0)]);
        assert_eq!(Statistics::of(vec![], &[]), None);
        assert_eq!(Statistics::of(vec![3.0], &[]).unwrap().std, 0.0);
    }

    #[test]
    fn interval_from_a_table() {
        // t(0.975, 4) = 2.776; std of 1..5 = 1.5811.
        let i = confidence_interval(&[1.0, 2.0, 3.0, 4.0, 5.0], 0.95).unwrap();
        assert!((i.half_width - 2.776_445 * 1.581_139 / 5f64.sqrt()).abs() < 1e-4);
        assert_eq!(confidence_interval(&[1.0], 0.95), None);
        assert_eq!(confidence_interval(&[], 0.95), None);
    }
}
