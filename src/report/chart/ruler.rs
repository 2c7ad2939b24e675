//! From values to pixels along one axis, with ticks that never overlap.

use super::canvas::TEXT;
use super::font;
use super::number::{compact, drawable, tick_labels};

/// How an axis spaces its values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// Linear, with zero.
    FromZero,
    /// Linear around the data.
    Fitted,
    /// Linear from the first value to the last, with no room at the ends: for time.
    Tight,
    /// Logarithmic, ticks at 1, 2, 5, 10 …
    Log,
    /// Logarithmic, ticks at powers of two.
    Log2,
    /// Every value that occurs, equally far apart.
    Ordinal,
}

impl Scale {
    /// Whether an axis of this scale has a place for the value.
    pub fn shows(self, value: f64) -> bool {
        drawable(value).is_some_and(|v| v > 0.0 || !self.is_log())
    }

    fn is_log(self) -> bool {
        matches!(self, Self::Log | Self::Log2)
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Tick {
    pub at: f64,
    pub label: String,
}

/// One axis laid out between two pixel positions.
pub struct Ruler {
    spacing: Spacing,
    from: f64,
    to: f64,
    pub ticks: Vec<Tick>,
}

enum Spacing {
    Linear {
        low: f64,
        high: f64,
    },
    /// Of the logarithms to base ten.
    Log {
        low: f64,
        high: f64,
    },
    /// Sorted.
    Ordinal(Vec<f64>),
}

/// Room beyond the data, as a share of its range.
const ROOM: f64 = 0.05;
/// Least distance between two labels beside each other, and of the middles of two above each other.
const APART: f64 = 12.0;
const LINE: f64 = 20.0;

impl Ruler {
    /// Left to right.
    pub fn horizontal(
        scale: Scale,
        values: impl Iterator<Item = f64>,
        (left, right): (f64, f64),
    ) -> Self {
        let apart = |a: &str, b: &str| (font::width(a, TEXT) + font::width(b, TEXT)) / 2.0 + APART;
        let most = ((right - left) / 75.0) as usize;
        Self::new(scale, values, (left, right)).with_ticks(scale, most, apart)
    }

    /// Bottom to top.
    pub fn vertical(
        scale: Scale,
        values: impl Iterator<Item = f64>,
        (bottom, top): (f64, f64),
    ) -> Self {
        let most = ((bottom - top) / 45.0).max(4.0) as usize;
        Self::new(scale, values, (bottom, top)).with_ticks(scale, most, |_, _| LINE)
    }

    /// The position of a value; None for one that the axis does not have.
    pub fn at(&self, value: f64) -> Option<f64> {
        let value = drawable(value)?;
        let share = match &self.spacing {
            Spacing::Linear { low, high } => (value - low) / (high - low),
            Spacing::Log { .. } if value <= 0.0 => return None,
            Spacing::Log { low, high } => (value.log10() - low) / (high - low),
            Spacing::Ordinal(all) => ordinal_share(all, value)?,
        };
        let inside = (-1e-9..=1.0 + 1e-9).contains(&share);
        inside.then(|| self.from + share.clamp(0.0, 1.0) * (self.to - self.from))
    }

    /// The position of a value, or the start of the axis for one too small for it.
    pub fn at_or_start(&self, value: f64) -> f64 {
        self.at(value).unwrap_or(self.from)
    }

    /// The position of a value, or the end of the axis for one too large for it.
    pub fn at_or_end(&self, value: f64) -> f64 {
        self.at(value).unwrap_or(self.to)
    }

    /// The room that the labels of a vertical axis take.
    pub fn label_width(&self) -> f64 {
        let widths = self.ticks.iter().map(|t| font::width(&t.label, TEXT));
        widths.fold(0.0, f64::max)
    }

    fn new(scale: Scale, values: impl Iterator<Item = f64>, (from, to): (f64, f64)) -> Self {
        let values = values.filter(|v| scale.shows(*v));
        let mut values: Vec<f64> = values.filter_map(drawable).collect();
        let low = values.iter().copied().reduce(f64::min);
        let high = values.iter().copied().reduce(f64::max);
        let spacing = match (scale, low.zip(high)) {
            (Scale::Ordinal, _) => {
                values.sort_by(f64::total_cmp);
                values.dedup();
                Spacing::Ordinal(values)
            }
            (Scale::Log | Scale::Log2, None) => Spacing::Log {
                low: 0.0,
                high: 1.0,
            },
            (Scale::Log | Scale::Log2, Some((low, high))) => {
                let (low, high) = (low.log10(), high.log10());
                let room = (ROOM * (high - low)).max(0.05);
                Spacing::Log {
                    low: low - room,
                    high: high + room,
                }
            }
            (_, None) => Spacing::Linear {
                low: 0.0,
                high: 1.0,
            },
            (_, Some((low, high))) => linear(scale, low, high),
        };
        Self {
            spacing,
            from,
            to,
            ticks: Vec::new(),
        }
    }

    /// Takes the densest ticks whose neighbours are far enough `apart`.
    fn with_ticks(mut self, scale: Scale, most: usize, apart: impl Fn(&str, &str) -> f64) -> Self {
        let placed = |ticks: Vec<Tick>| -> Vec<(f64, Tick)> {
            let at = |t: Tick| Some((self.at(t.at)?, t));
            ticks.into_iter().filter_map(at).collect()
        };
        let fits = |ticks: &Vec<(f64, Tick)>| {
            ticks
                .windows(2)
                .all(|t| (t[1].0 - t[0].0).abs() >= apart(&t[0].1.label, &t[1].1.label))
        };
        let candidates: Vec<Vec<Tick>> = match &self.spacing {
            Spacing::Linear { low, high } => linear_ticks(*low, *high, most),
            Spacing::Log { low, high } => log_ticks(scale, *low, *high, most),
            Spacing::Ordinal(all) => ordinal_ticks(all),
        };
        let fitting = candidates.into_iter().map(placed).find(fits);
        let ticks = fitting.into_iter().flatten().map(|(_, tick)| tick);
        self.ticks = ticks.collect();
        self
    }
}

fn linear(scale: Scale, mut low: f64, mut high: f64) -> Spacing {
    let size = low.abs().max(high.abs());
    if scale == Scale::FromZero {
        (low, high) = (low.min(0.0), high.max(0.0));
    }
    if high - low <= 1e-9 * size {
        // All the same: the value in the middle.
        let around = if size > 0.0 { 0.1 * size } else { 1.0 };
        if scale == Scale::FromZero {
            high = around;
        } else {
            (low, high) = (low - around, high + around);
        }
    }
    let room = match scale {
        Scale::Tight => 0.0,
        _ => ROOM * (high - low),
    };
    if scale != Scale::FromZero || low < 0.0 {
        low -= room;
    }
    if scale != Scale::FromZero || high > 0.0 {
        high += room;
    }
    Spacing::Linear { low, high }
}

/// Values between two categories are where they would be by their share of the distance.
fn ordinal_share(all: &[f64], value: f64) -> Option<f64> {
    let slots = all.len() as f64;
    let middle = |slot: f64| (slot + 0.5) / slots;
    let above = all.partition_point(|v| *v < value);
    let upper = *all.get(above)?;
    if upper == value {
        return Some(middle(above as f64));
    }
    let lower = *all.get(above.checked_sub(1)?)?;
    Some(middle(above as f64 - (upper - value) / (upper - lower)))
}

fn linear_ticks(low: f64, high: f64, most: usize) -> Vec<Vec<Tick>> {
    let counts = (1..=most.max(2)).rev();
    counts
        .map(|count| {
            let rough = (high - low) / count as f64;
            let power = 10f64.powf(rough.log10().floor());
            let nice = [1.0, 2.0, 5.0, 10.0].map(|m| m * power);
            let step = nice.into_iter().find(|s| *s >= rough * (1.0 - 1e-9));
            let step = step.unwrap_or(nice[3]);
            let first = (low / step - 1e-9).ceil() as i64;
            let last = (high / step + 1e-9).floor() as i64;
            let at: Vec<f64> = (first..=last).map(|i| i as f64 * step).collect();
            let labels = tick_labels(&at, step);
            let ticks = at.into_iter().zip(labels);
            ticks.map(|(at, label)| Tick { at, label }).collect()
        })
        .collect()
}

fn log_ticks(scale: Scale, low: f64, high: f64, most: usize) -> Vec<Vec<Tick>> {
    let (base, mantissas): (f64, &[&[f64]]) = match scale {
        Scale::Log2 => (2.0, &[&[1.0]]),
        _ => (10.0, &[&[1.0, 2.0, 5.0], &[1.0, 3.0], &[1.0]]),
    };
    let power = |exponent: f64| exponent * base.log10();
    let first = (low / base.log10()).floor() as i32;
    let last = (high / base.log10()).ceil() as i32;
    let every = |stride: i32, mantissas: &[f64]| -> Vec<Tick> {
        let exponents = (first..=last).filter(|e| e.rem_euclid(stride) == 0);
        exponents
            .flat_map(|e| mantissas.iter().map(move |m| (e, *m)))
            .filter(|(e, m)| (low..=high).contains(&(power(f64::from(*e)) + m.log10())))
            .map(|(e, m)| m * base.powi(e))
            .map(|at| Tick {
                at,
                label: compact(at),
            })
            .collect()
    };
    let mut candidates: Vec<Vec<Tick>> = mantissas.iter().map(|m| every(1, m)).collect();
    if candidates[0].len() < 3 {
        // Less than a decade: ticks as on a linear axis, but unequally far apart.
        candidates = linear_ticks(10f64.powf(low), 10f64.powf(high), most);
    }
    candidates.extend((2..=80).map(|stride| every(stride, &[1.0])));
    candidates
}

fn ordinal_ticks(all: &[f64]) -> Vec<Vec<Tick>> {
    let strides = (0..).map(|i| 1 << i).take_while(|s| *s <= all.len());
    strides
        .map(|stride| {
            let shown = all.iter().step_by(stride);
            shown
                .map(|&at| Tick {
                    at,
                    label: compact(at),
                })
                .collect()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(scale: Scale, values: &[f64]) -> String {
        font::register().unwrap();
        let ruler = Ruler::horizontal(scale, values.iter().copied(), (0.0, 600.0));
        let labels: Vec<_> = ruler.ticks.into_iter().map(|t| t.label).collect();
        labels.join(" ")
    }

    #[test]
    fn ticks_are_nice() {
        assert_eq!(labels(Scale::FromZero, &[12.0, 87.0]), "0 20 40 60 80");
        assert_eq!(labels(Scale::FromZero, &[45_000.0]), "0 10k 20k 30k 40k");
        assert_eq!(labels(Scale::Tight, &[0.0, 1.0]), "0 0.2 0.4 0.6 0.8 1.0");
        assert_eq!(
            labels(Scale::Log, &[1.0, 500.0]),
            "1 2 5 10 20 50 100 200 500"
        );
        assert_eq!(labels(Scale::Log, &[1e-9, 1e9]).split(' ').count(), 9);
        assert_eq!(
            labels(Scale::Log, &[105.0, 190.0]),
            "100 120 140 160 180 200"
        );
        assert_eq!(labels(Scale::Log2, &[1.0, 16.0]), "1 2 4 8 16");
        assert_eq!(labels(Scale::Ordinal, &[8.0, 1.0, 4.0, 1.0]), "1 4 8");
        assert_eq!(labels(Scale::FromZero, &[-5.0, 5.0]), "-4 -2 0 2 4");
    }

    #[test]
    fn positions_follow_the_scale() {
        let ruler = |scale, values: &[f64]| {
            Ruler::horizontal(scale, values.iter().copied(), (100.0, 500.0))
        };
        let linear = ruler(Scale::Tight, &[0.0, 10.0]);
        assert_eq!(linear.at(0.0), Some(100.0));
        assert_eq!(linear.at(2.5), Some(200.0));
        assert_eq!(linear.at(11.0), None);
        let ordinal = ruler(Scale::Ordinal, &[1.0, 4.0, 8.0, 64.0]);
        assert_eq!(ordinal.at(1.0), Some(150.0));
        assert_eq!(ordinal.at(64.0), Some(450.0));
        assert_eq!(ordinal.at(6.0), Some(300.0));
        assert_eq!((ordinal.at(0.5), ordinal.at(65.0)), (None, None));
        let log = ruler(Scale::Log, &[1.0, 100.0]);
        assert_eq!(log.at(10.0), Some(300.0));
        assert_eq!(log.at(0.0), None);
        assert_eq!(log.at_or_start(-1.0), 100.0);
    }

    #[test]
    fn anything_gives_a_ruler() {
        let hard: [&[f64]; 8] = [
            &[],
            &[f64::NAN, f64::INFINITY],
            &[0.0, 0.0],
            &[5.0, 5.0 + 1e-14],
            &[1e-320, 1e300],
            &[-1e30, 1e30],
            &[1e-30, 1e30],
            &[-3.0, -2.0],
        ];
        for values in hard {
            for scale in [
                Scale::FromZero,
                Scale::Fitted,
                Scale::Tight,
                Scale::Log,
                Scale::Log2,
                Scale::Ordinal,
            ] {
                let ruler = Ruler::horizontal(scale, values.iter().copied(), (0.0, 600.0));
                for value in values {
                    let at = ruler.at(*value);
                    assert!(at.is_none_or(|at| (0.0..=600.0).contains(&at)));
                    assert_eq!(at.is_some(), scale.shows(*value), "{scale:?} {values:?}");
                }
                assert!(ruler.ticks.len() <= 40);
            }
        }
    }
}
