//! Numbers as people read them.

/// At least three significant digits down to a thousandth, one below: `12345`, `123.4`, `1.23`,
/// `0.00123`, `0.0005`; `0.000` for what only rounding keeps from zero; a dash for what cannot be
/// known.
pub fn short(value: Option<f64>) -> String {
    match value {
        None => "–".into(),
        Some(0.0) => "0".into(),
        Some(v) if v.abs() >= 1000.0 => format!("{v:.0}"),
        Some(v) if v.abs() >= 100.0 => format!("{v:.1}"),
        Some(v) if v.abs() >= 1.0 => format!("{v:.2}"),
        Some(v) if v.abs() >= 0.001 => {
            let digits = (2.0 - v.abs().log10().floor()) as usize;
            format!("{v:.digits$}")
        }
        Some(v) if v.abs() >= 1e-6 => {
            let digits = -v.abs().log10().floor() as usize;
            format!("{v:.digits$}")
        }
        Some(_) => "0.000".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_digits_or_more() {
        let cases = [
            (12345.6, "12346"),
            (123.45, "123.5"),
            (12.345, "12.35"),
            (-1.5, "-1.50"),
            (0.5, "0.500"),
            (0.001_234, "0.00123"),
            (0.000_49, "0.0005"),
            (-1.1e-12, "0.000"),
            (0.0, "0"),
        ];
        for (value, text) in cases {
            assert_eq!(short(Some(value)), text);
        }
        assert_eq!(short(None), "–");
    }
}
