//! What charts are drawn with: lines, blocks, marks and text, in pixels.

use plotters::backend::SVGBackend;
use plotters::coord::Shift;
use plotters::drawing::{DrawingArea, IntoDrawingArea};
use plotters::element::{
    Circle, DashedPathElement, Drawable, PathElement, PointCollection, Polygon, Rectangle,
};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{Color as _, FontDesc, FontFamily, FontStyle, ShapeStyle};

use super::theme::{BACKGROUND, Color};
use super::{ChartError, Picture, font};

/// Pixels from the left and from the top.
pub type Point = (f64, f64);

/// The width of every picture.
pub const WIDTH: f64 = 760.0;
/// Font sizes.
pub const TITLE: f64 = 15.0;
pub const TEXT: f64 = 12.0;
pub const SMALL: f64 = 11.0;

/// plotters draws at whole numbers, so it draws everything ten times as large.
const UNITS: f64 = 10.0;
/// plotters divides font sizes by this before it writes them.
const FONT_SCALE: f64 = 1.24;

#[derive(Clone, Copy)]
pub struct Stroke {
    pub color: Color,
    pub width: f64,
}

#[derive(Clone, Copy)]
pub struct Type {
    pub size: f64,
    pub color: Color,
    pub align: HPos,
}

/// A rectangle along the axes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Area {
    pub left: f64,
    pub top: f64,
    pub right: f64,
    pub bottom: f64,
}

/// The marks of a series: a second way to tell it from others, beside its colour.
#[derive(Clone, Copy)]
pub enum Shape {
    Circle,
    Square,
    Triangle,
    Diamond,
}

impl Shape {
    /// The shape of the `index`-th series.
    pub fn of(index: usize) -> Self {
        [Self::Circle, Self::Square, Self::Triangle, Self::Diamond][index % 4]
    }
}

pub struct Canvas<'a> {
    area: DrawingArea<SVGBackend<'a>, Shift>,
}

impl<'a> Canvas<'a> {
    /// A picture `height` pixels high, with what `draw` draws.
    pub fn picture(
        height: f64,
        draw: impl FnOnce(&Canvas) -> Result<(), ChartError>,
    ) -> Result<Picture, ChartError> {
        font::register()?;
        let height = height.ceil();
        let mut svg = String::new();
        let size = (units(WIDTH).unsigned_abs(), units(height).unsigned_abs());
        let canvas = Canvas {
            area: SVGBackend::with_string(&mut svg, size).into_drawing_area(),
        };
        let all = Area {
            left: 0.0,
            top: 0.0,
            right: WIDTH,
            bottom: height,
        };
        canvas.block(all, BACKGROUND)?;
        draw(&canvas)?;
        canvas.area.present().map_err(failed)?;
        drop(canvas);
        Ok(Picture {
            svg: in_pixels(&svg, height),
            width: WIDTH as u32,
            height: height as u32,
        })
    }

    pub fn line(&self, points: &[Point], stroke: Stroke) -> Result<(), ChartError> {
        let points: Vec<_> = points.iter().copied().map(at).collect();
        self.draw(&PathElement::new(points, stroke.style()))
    }

    pub fn dashes(&self, points: &[Point], stroke: Stroke) -> Result<(), ChartError> {
        let points: Vec<_> = points.iter().copied().map(at).collect();
        let (dash, gap) = (units(6.0), units(4.0));
        self.draw(&DashedPathElement::new(points, dash, gap, stroke.style()))
    }

    pub fn block(&self, area: Area, color: Color) -> Result<(), ChartError> {
        let corners = [at((area.left, area.top)), at((area.right, area.bottom))];
        self.draw(&Rectangle::new(corners, color.filled()))
    }

    pub fn ring(&self, center: Point, radius: f64, stroke: Stroke) -> Result<(), ChartError> {
        self.draw(&Circle::new(at(center), units(radius), stroke.style()))
    }

    /// A filled mark, about as large as a disc of `radius`.
    pub fn mark(
        &self,
        shape: Shape,
        (x, y): Point,
        radius: f64,
        color: Color,
    ) -> Result<(), ChartError> {
        let polygon = |corners: &[Point]| {
            let corners = corners
                .iter()
                .map(|(dx, dy)| at((x + dx * radius, y + dy * radius)));
            self.draw(&Polygon::new(corners.collect::<Vec<_>>(), color.filled()))
        };
        match shape {
            Shape::Circle => self.draw(&Circle::new(at((x, y)), units(radius), color.filled())),
            Shape::Square => polygon(&[(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)]),
            Shape::Triangle => polygon(&[(0.0, -1.2), (1.15, 0.8), (-1.15, 0.8)]),
            Shape::Diamond => polygon(&[(0.0, -1.3), (1.3, 0.0), (0.0, 1.3), (-1.3, 0.0)]),
        }
    }

    /// Text whose middle is at the height of `point`.
    pub fn text(&self, text: &str, (x, y): Point, kind: Type) -> Result<(), ChartError> {
        if text.is_empty() {
            return Ok(());
        }
        let size = kind.size * UNITS * FONT_SCALE;
        let font = FontDesc::new(FontFamily::Name(font::FAMILY), size, FontStyle::Normal);
        let mut style = font.color(&kind.color);
        style.pos = Pos::new(kind.align, VPos::Center);
        // plotters centres lower-case letters; capitals and digits reach higher.
        let middle = at((x, y + 0.1 * kind.size));
        self.area.draw_text(text, &style, middle).map_err(failed)
    }

    fn draw<'e, E>(&self, element: &'e E) -> Result<(), ChartError>
    where
        &'e E: PointCollection<'e, (i32, i32)>,
        E: Drawable<SVGBackend<'a>>,
    {
        self.area.draw(element).map_err(failed)
    }
}

impl Stroke {
    fn style(self) -> ShapeStyle {
        self.color.stroke_width(units(self.width).unsigned_abs())
    }
}

fn units(pixels: f64) -> i32 {
    (pixels * UNITS).round() as i32
}

fn at((x, y): Point) -> (i32, i32) {
    (units(x), units(y))
}

fn failed(error: impl std::fmt::Display) -> ChartError {
    ChartError::Draw(error.to_string())
}

/// plotters' SVG inside one that is measured in pixels, less what is the same in every element.
fn in_pixels(svg: &str, height: f64) -> String {
    let family = font::FAMILY.replace('"', "&quot;");
    let body = svg.split_once('\n').map_or("", |(_, body)| body);
    let body = body.trim_end().trim_end_matches("</svg>");
    // Text cannot hold these: its quotation marks are escaped.
    let body = body
        .replace(&format!(" font-family=\"{family}\""), "")
        .replace(" opacity=\"1\"", "")
        .replace(" stroke=\"none\"", "")
        .replace(" stroke-width=\"1\"", "");
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         viewBox=\"0 0 {WIDTH} {height}\">\n\
         <g transform=\"scale({})\" font-family=\"{family}\">\n{body}</g>\n</svg>\n",
        1.0 / UNITS
    )
}
