//! Numbers as charts write them.

/// From here on numbers are written in thousands, millions, …
const LARGE: f64 = 10_000.0;
const SUFFIXES: [(f64, &str); 4] = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")];

/// What charts take from data: finite, and within bounds whose differences are finite too.
/// Below 1e-30 everything is zero.
pub fn drawable(value: f64) -> Option<f64> {
    match value.abs() {
        0.0..1e-30 => Some(0.0),
        1e-30..=1e30 => Some(value),
        _ => None,
    }
}

/// Three significant digits: `0.0123`, `1.5`, `123`, `1234`, `12.3k`, `4.56M`.
pub fn compact(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        v if !(1e-4..1e15).contains(&v) => format!("{value:.1e}"),
        v if v >= LARGE => {
            let (scale, suffix) = suffix(v);
            format!("{}{suffix}", significant(value / scale))
        }
        _ => significant(value),
    }
}

/// The labels of ticks `step` apart, all with the same decimals and the same suffix.
pub fn tick_labels(ticks: &[f64], step: f64) -> Vec<String> {
    let largest = ticks.iter().fold(0.0, |max: f64, v| max.max(v.abs()));
    let digits = |scale: f64| (-(step / scale).log10().floor()).max(0.0);
    let (mut scale, mut unit) = match largest >= LARGE {
        true => suffix(largest),
        false => (1.0, ""),
    };
    if digits(scale) > 2.0 {
        // Far from zero, close together.
        (scale, unit) = (1.0, "");
    }
    let decimals = digits(scale) as usize;
    let plain = largest < 1e15 && decimals <= 5;
    let label = |&v: &f64| match v {
        0.0 => "0".into(),
        _ if plain => format!("{:.decimals$}{unit}", v / scale),
        _ => format!("{v:.1e}"),
    };
    ticks.iter().map(label).collect()
}

fn suffix(magnitude: f64) -> (f64, &'static str) {
    let fits = SUFFIXES.iter().find(|(scale, _)| magnitude >= *scale);
    fits.copied().unwrap_or((1.0, ""))
}

fn significant(value: f64) -> String {
    let digits = (2.0 - value.abs().log10().floor()).max(0.0) as usize;
    let text = format!("{value:.digits$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').into(),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let cases = [
            (0.0, "0"),
            (1.0, "1"),
            (0.5, "0.5"),
            (123.456, "123"),
            (1234.5, "1234"),
            (12_345.0, "12.3k"),
            (999_999.0, "1000k"),
            (4_560_000.0, "4.56M"),
            (-2.5e9, "-2.5G"),
            (0.012_34, "0.0123"),
            (1.2e-7, "1.2e-7"),
            (1e30, "1.0e30"),
        ];
        for (value, text) in cases {
            assert_eq!(compact(value), text);
        }
    }

    #[test]
    fn tick_labels_agree_with_each_other() {
        let labels = |ticks: &[f64], step| tick_labels(ticks, step).join(" ");
        assert_eq!(labels(&[0.0, 5000.0, 10_000.0], 5000.0), "0 5k 10k");
        assert_eq!(labels(&[0.0, 0.5, 1.0], 0.5), "0 0.5 1.0");
        assert_eq!(labels(&[0.0, 5e5, 1e6], 5e5), "0 0.5M 1.0M");
        assert_eq!(labels(&[1e6, 1e6 + 5.0], 5.0), "1000000 1000005");
        assert_eq!(labels(&[2e-9, 4e-9], 2e-9), "2.0e-9 4.0e-9");
    }

    #[test]
    fn what_cannot_be_drawn() {
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MAX] {
            assert_eq!(drawable(bad), None);
        }
        assert_eq!(drawable(f64::MIN_POSITIVE), Some(0.0));
        assert_eq!(drawable(-3.0), Some(-3.0));
    }
}
