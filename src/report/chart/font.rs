//! The one font: how wide a text is, and labels made to fit.

use std::sync::LazyLock;

use plotters::style::{FontDesc, FontFamily, FontStyle, register_font};

use super::ChartError;

/// DejaVu Sans, cut down by `scripts/subset_font.py`.
pub static BYTES: &[u8] = include_bytes!("../../../assets/fonts/DejaVuSans-subset.ttf");
/// The name of the font in [`BYTES`].
pub const NAME: &str = "DejaVu Sans";
/// What the SVG asks for. plotters writes and looks up a font under one name, so it is also
/// the name under which the font is registered.
pub const FAMILY: &str = "\"DejaVu Sans\", system-ui, sans-serif";

/// plotters scales a font by its line height, the SVG by its em: DejaVu Sans is 2384 of 2048 units high.
const HEIGHT_PER_EM: f64 = 2384.0 / 2048.0;
/// plotters measures in whole pixels.
const PRECISION: f64 = 100.0;
/// Longer labels fit nowhere.
const MAX_CHARS: usize = 400;

/// Makes the font known to plotters.
pub fn register() -> Result<(), ChartError> {
    static REGISTERED: LazyLock<bool> =
        LazyLock::new(|| register_font(FAMILY, FontStyle::Normal, BYTES).is_ok());
    REGISTERED.then_some(()).ok_or(ChartError::Font)
}

/// Width in pixels at font size `size`. Browsers take wide characters from another font, one em each.
pub fn width(text: &str, size: f64) -> f64 {
    let font = FontDesc::new(
        FontFamily::Name(FAMILY),
        size * HEIGHT_PER_EM * PRECISION,
        FontStyle::Normal,
    );
    let narrow: String = text.chars().filter(|c| !is_wide(*c)).collect();
    let wide = text.chars().filter(|c| is_wide(*c)).count() as f64;
    let narrow = match font.layout_box(&narrow) {
        Ok(((left, _), (right, _))) => f64::from(right - left) / PRECISION,
        Err(_) => 0.6 * size * narrow.chars().count() as f64,
    };
    narrow + wide * size
}

fn is_wide(c: char) -> bool {
    c >= '\u{1100}' && !('\u{2000}'..='\u{2BFF}').contains(&c)
}

/// The label on one line of at most `room` pixels: without what XML forbids and what would turn the
/// direction of the text, and cut with an ellipsis.
pub fn fit(label: &str, size: f64, room: f64) -> String {
    let mut chars: Vec<char> = label
        .chars()
        .map(|c| if c.is_whitespace() { ' ' } else { c })
        .filter(|c| !is_forbidden(*c))
        .take(MAX_CHARS)
        .collect();
    let whole: String = chars.iter().collect();
    let whole = whole.trim();
    if width(whole, size) <= room {
        return whole.into();
    }
    while let Some(_last) = chars.pop() {
        let cut: String = chars.iter().collect();
        let cut = format!("{}…", cut.trim());
        if width(&cut, size) <= room {
            return cut;
        }
    }
    String::new()
}

fn is_forbidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2060}'..='\u{206F}')
        || matches!(c, '\u{FEFF}' | '\u{FFFE}' | '\u{FFFF}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widths_are_those_of_the_font() {
        register().unwrap();
        // Advance widths of DejaVu Sans: M 1767, i 569, digits 1303 of 2048.
        for (text, units) in [("M", 1767.0), ("i", 569.0), ("00", 2606.0)] {
            let expected = units / 2048.0 * 12.0;
            assert!((width(text, 12.0) - expected).abs() < 0.05, "{text}");
        }
        assert_eq!(width("批", 12.0), 12.0);
    }

    #[test]
    fn labels_are_cut_and_cleaned() {
        register().unwrap();
        assert_eq!(fit(" B=8\n\u{1}\u{202E}w=10 ", 12.0, 200.0), "B=8 w=10");
        let long = fit(&"x".repeat(100_000), 12.0, 100.0);
        assert!(long.ends_with('…') && width(&long, 12.0) <= 100.0);
        assert!(width(&long, 12.0) > 85.0);
        assert_eq!(fit("abc", 12.0, 0.0), "");
        assert_eq!(fit("", 12.0, 10.0), "");
    }
}
