//! What every picture must be, for the tests of all charts.

use resvg::usvg::roxmltree::{Document, Node};

use super::theme::{Color, hex};
use super::{Picture, font};

/// Names that a data folder could hold.
pub const HARD_LABELS: [&str; 6] = [
    "",
    "<script>alert(\"1\" & '2')</script>\u{0}\u{1b}[31m\u{202E}\n\u{FFFF}",
    "批处理大小等于八的动态策略以及非常长的等待时间窗口以及更多的文字以及更多的文字以及更多的文字",
    "dynamic-with-a-very-long-name-that-nobody-would-ever-choose-for-a-policy-but-still-somebody-did-it-here",
    "]]>&amp;<!--",
    "e\u{301}\u{301}\u{301} 👩‍👩‍👧 Ω ≤ 10 µs",
];

/// Numbers that a damaged measurement could hold.
pub const HARD_NUMBERS: [f64; 12] = [
    f64::NAN,
    f64::INFINITY,
    f64::NEG_INFINITY,
    f64::MAX,
    f64::MIN_POSITIVE,
    0.0,
    -0.0,
    -7.5,
    1e-12,
    3.0,
    3.000_000_000_000_1,
    1e29,
];

/// Asserts that the picture is well formed, that everything is inside it and readable, and that its
/// PNG has the right size. Returns its texts.
pub fn check(picture: &Picture) -> Vec<String> {
    let svg = &picture.svg;
    let document = Document::parse(svg).unwrap_or_else(|e| panic!("{e}\n{svg}"));
    let size = (f64::from(picture.width), f64::from(picture.height));
    let view_box = document.root_element().attribute("viewBox");
    assert_eq!(view_box, Some(&*format!("0 0 {} {}", size.0, size.1)));
    let mut texts = Vec::new();
    for node in document.descendants().filter(Node::is_element) {
        for (x, y) in corners(&node) {
            let inside = (-0.6..=size.0 + 0.6).contains(&x) && (-0.6..=size.1 + 0.6).contains(&y);
            assert!(
                inside,
                "({x}, {y}) of {:?} is outside of {size:?}",
                node.attributes()
            );
        }
        for attribute in node.attributes() {
            let value = attribute.value();
            assert!(!value.contains("NaN") && !value.contains("inf"), "{value}");
        }
        if node.has_tag_name("text") {
            texts.push(node.text().unwrap_or_default().trim().to_string());
        }
        assert!(!node.has_tag_name("script"));
    }
    let png = picture.png().unwrap();
    let decoded = resvg::tiny_skia::Pixmap::decode_png(&png).unwrap();
    assert_eq!(
        (decoded.width(), decoded.height()),
        (picture.width * 2, picture.height * 2)
    );
    // Opaque, and something is drawn.
    assert!(decoded.pixels().iter().all(|p| p.alpha() == 255));
    assert!(decoded.pixels().iter().any(|p| p.red() < 128));
    texts
}

/// Points that an element reaches, in pixels of the picture.
fn corners(node: &Node) -> Vec<(f64, f64)> {
    let number = |name: &str| -> f64 {
        let value = node.attribute(name).unwrap_or("0");
        value
            .parse::<f64>()
            .unwrap_or_else(|_| panic!("{name}={value}"))
            / 10.0
    };
    match node.tag_name().name() {
        "rect" => {
            let (x, y, w, h) = (number("x"), number("y"), number("width"), number("height"));
            assert!(w >= 0.0 && h >= 0.0, "{:?}", node.attributes());
            vec![(x, y), (x + w, y + h)]
        }
        "circle" => {
            let (x, y, r) = (number("cx"), number("cy"), number("r"));
            vec![(x - r, y - r), (x + r, y + r)]
        }
        "line" => vec![(number("x1"), number("y1")), (number("x2"), number("y2"))],
        "polyline" | "polygon" => {
            let points = node
                .attribute("points")
                .unwrap_or_default()
                .split_whitespace();
            let numbers = points.map(|p| p.split_once(',').expect("x,y"));
            let parse = |s: &str| s.parse::<f64>().expect("a number") / 10.0;
            numbers.map(|(x, y)| (parse(x), parse(y))).collect()
        }
        "text" => {
            let (x, y, size) = (number("x"), number("y"), number("font-size"));
            assert!(size >= 11.0 - 1e-6, "{size}");
            let width = font::width(node.text().unwrap_or_default().trim(), size);
            let left = match node.attribute("text-anchor") {
                Some("middle") => x - width / 2.0,
                Some("end") => x - width,
                _ => x,
            };
            vec![(left, y - size / 2.0), (left + width, y + size / 2.0)]
        }
        "svg" | "g" => vec![],
        other => panic!("unexpected element {other}"),
    }
}

/// Widths of the blocks of one colour, without the legend's, which comes first.
pub fn widths(picture: &Picture, color: Color) -> Vec<f64> {
    let document = Document::parse(&picture.svg).unwrap_or_else(|e| panic!("{e}"));
    let color = hex(color);
    let blocks = document
        .descendants()
        .filter(|n| n.attribute("fill") == Some(&color));
    let widths = blocks.skip(1).filter_map(|n| n.attribute("width"));
    widths.filter_map(|w| w.parse().ok()).collect()
}
