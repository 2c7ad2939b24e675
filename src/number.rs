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

/// `1,234,567`.
pub fn whole(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bytes in the largest unit that leaves at least 1: `14.06 MiB`.
pub fn size(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let unit = (bytes.max(1).ilog2() / 10) as usize;
    match unit {
        0 => format!("{bytes} B"),
        _ => format!(
            "{} {}",
            short(Some(bytes as f64 / 1024f64.powi(unit as i32))),
            units[unit]
        ),
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

    #[test]
    fn whole_numbers_and_sizes() {
        let cases = [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (14_745_600, "14,745,600"),
        ];
        for (value, text) in cases {
            assert_eq!(whole(value), text);
        }
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.00 KiB"),
            (14_745_600, "14.06 MiB"),
            (34_359_738_368, "32.00 GiB"),
            (u64::MAX, "16.00 EiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }
}
