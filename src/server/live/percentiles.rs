//! Percentiles of the last minute, in memory and time that do not grow with the samples: a histogram
//! whose bins are at most 1/64 of their value wide.

use std::time::Duration;

use serde::Serialize;

/// Bins of one power of two.
const FINE: u64 = 64;
/// 2³⁶ µs are 19 hours; what takes longer counts as that.
const LONGEST: u64 = (1 << 36) - 1;
const BINS: usize = bin(LONGEST) + 1;
/// The window moves on by one slice at a time.
const SLICES: usize = 12;
const SLICE: Duration = Duration::from_secs(5);

/// Of the last 55 to 60 s, in ms. None without samples.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Percentiles {
    pub p50: Option<f64>,
    pub p90: Option<f64>,
    pub p99: Option<f64>,
    pub n: u64,
}

pub struct LastMinute {
    /// The sum of the slices.
    all: Vec<u32>,
    slices: Vec<Vec<u32>>,
    /// Slices since the clock's start.
    current: u64,
}

impl LastMinute {
    pub fn new() -> Self {
        Self {
            all: vec![0; BINS],
            slices: vec![vec![0; BINS]; SLICES],
            current: 0,
        }
    }

    pub fn add(&mut self, now: Duration, value: Duration) {
        self.move_on(now);
        let bin = bin(value.as_micros().min(LONGEST.into()) as u64);
        self.all[bin] += 1;
        self.slices[self.current as usize % SLICES][bin] += 1;
    }

    pub fn percentiles(&mut self, now: Duration) -> Percentiles {
        self.move_on(now);
        let n = self.all.iter().map(|&count| u64::from(count)).sum();
        Percentiles {
            p50: self.at(0.50, n),
            p90: self.at(0.90, n),
            p99: self.at(0.99, n),
            n,
        }
    }

    /// Nearest rank.
    fn at(&self, share: f64, n: u64) -> Option<f64> {
        let rank = ((share * n as f64).ceil() as u64).max(1);
        let mut below = 0;
        let bin = self.all.iter().position(|&count| {
            below += u64::from(count);
            below >= rank
        })?;
        Some(middle(bin) / 1000.0)
    }

    /// Forgets the slices that are too old.
    fn move_on(&mut self, now: Duration) {
        let latest = now.as_secs() / SLICE.as_secs();
        let steps = latest.saturating_sub(self.current).min(SLICES as u64);
        self.current = self.current.max(latest);
        for age in 0..steps {
            let oldest = &mut self.slices[(self.current - age) as usize % SLICES];
            for (all, old) in self.all.iter_mut().zip(oldest) {
                *all -= std::mem::take(old);
            }
        }
    }
}

/// The bin of a number of microseconds: itself where it is small, else its leading seven bits.
const fn bin(micros: u64) -> usize {
    let shift = (micros | FINE).ilog2() - FINE.ilog2();
    (shift as u64 * FINE + (micros >> shift)) as usize
}

/// The microseconds that a bin stands for.
fn middle(bin: usize) -> f64 {
    let shift = (bin as u64 / FINE).saturating_sub(1);
    let low = (bin as u64 - shift * FINE) << shift;
    low as f64 + ((1_u64 << shift) - 1) as f64 / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn bins_follow_each_other_and_are_narrow() {
        let mut values: Vec<u64> = (0..36).flat_map(|e| [1 << e, (1 << e) * 5 / 4]).collect();
        values.extend(0..1000);
        values.sort_unstable();
        for pair in values.windows(2) {
            assert!(bin(pair[0]) <= bin(pair[1]), "{pair:?}");
        }
        for value in values {
            let error = (middle(bin(value)) - value as f64).abs();
            assert!(error <= value as f64 / 100.0, "{value}: {error}");
        }
    }

    #[test]
    fn percentiles_are_within_a_hundredth() {
        let mut recent = LastMinute::new();
        assert_eq!(recent.percentiles(SECOND), Percentiles::default());
        for ms in 1..=1000 {
            recent.add(SECOND, Duration::from_millis(ms));
        }
        let p = recent.percentiles(SECOND);
        assert_eq!(p.n, 1000);
        for (found, exact) in [(p.p50, 500.0), (p.p90, 900.0), (p.p99, 990.0)] {
            let found = found.unwrap();
            assert!((found - exact).abs() <= exact / 100.0, "{found} {exact}");
        }
    }

    #[test]
    fn one_sample_is_every_percentile() {
        let mut recent = LastMinute::new();
        recent.add(SECOND, Duration::from_micros(42));
        let p = recent.percentiles(SECOND);
        assert_eq!((p.p50, p.p99, p.n), (Some(0.042), Some(0.042), 1));
    }

    #[test]
    fn a_minute_later_all_is_forgotten() {
        let mut recent = LastMinute::new();
        recent.add(SECOND * 4, SECOND);
        recent.add(SECOND * 30, SECOND);
        assert_eq!(recent.percentiles(SECOND * 59).n, 2);
        assert_eq!(recent.percentiles(SECOND * 60).n, 1);
        assert_eq!(recent.percentiles(SECOND * 100_000).n, 0);
        recent.add(SECOND * 100_000, SECOND);
        // Time that stands still, or goes back, loses nothing.
        assert_eq!(recent.percentiles(SECOND).n, 1);
    }

    #[test]
    fn anything_is_a_sample() {
        let mut recent = LastMinute::new();
        recent.add(SECOND, Duration::MAX);
        recent.add(SECOND, Duration::ZERO);
        let p = recent.percentiles(SECOND);
        assert_eq!(p.p50, Some(0.0));
        assert!(p.p99.unwrap() > 1e7);
    }
}
