//! The area of a chart with two measured axes.

use super::ChartError;
use super::axis::{self, Axis};
use super::canvas::{Area, Canvas, Point, Stroke, WIDTH};
use super::number::drawable;
use super::ruler::Ruler;
use super::theme::Color;

pub struct Plot {
    pub area: Area,
    x: Ruler,
    y: Ruler,
}

/// The height of the area of the data.
const HEIGHT: f64 = 280.0;

#[derive(Clone, Copy)]
pub enum Along {
    X,
    Y,
}

pub struct ErrorBar {
    pub along: Along,
    pub half: f64,
    pub color: Color,
}

impl Plot {
    /// Below a header that ends at `top`; each axis with all the values that it must show.
    pub fn new(
        top: f64,
        (x, xs): (&Axis, impl Iterator<Item = f64>),
        (y, ys): (&Axis, impl Iterator<Item = f64>),
    ) -> Self {
        let top = top + axis::ABOVE;
        let bottom = top + HEIGHT;
        let y = Ruler::vertical(y.scale, ys, (bottom, top));
        let area = Area {
            left: axis::MARGIN + y.label_width() + 8.0,
            top,
            right: WIDTH - axis::MARGIN - 8.0,
            bottom,
        };
        let x = Ruler::horizontal(x.scale, xs, (area.left, area.right));
        Self { area, x, y }
    }

    /// The height of the picture.
    pub fn height(&self) -> f64 {
        self.area.bottom + axis::BELOW
    }

    pub fn at(&self, x: f64, y: f64) -> Option<Point> {
        Some((self.x.at(x)?, self.y.at(y)?))
    }

    pub fn draw_axes(&self, canvas: &Canvas, x: &Axis, y: &Axis) -> Result<(), ChartError> {
        axis::horizontal(canvas, self.area, &self.x, &x.title)?;
        axis::vertical(canvas, self.area, &self.y)?;
        axis::vertical_title(canvas, self.area, &y.title)
    }

    /// Draws a bar that ends where the axis does if the interval goes on.
    pub fn draw_error_bar(
        &self,
        canvas: &Canvas,
        (x, y): (f64, f64),
        bar: ErrorBar,
    ) -> Result<(), ChartError> {
        let (Some(half), Some(at)) = (drawable(bar.half), self.at(x, y)) else {
            return Ok(());
        };
        let ends = |ruler: &Ruler, value: f64| {
            [
                ruler.at_or_start(value - half),
                ruler.at_or_end(value + half),
            ]
        };
        let (ends, cap) = match bar.along {
            Along::X => (ends(&self.x, x).map(|x| (x, at.1)), (0.0, 3.0)),
            Along::Y => (ends(&self.y, y).map(|y| (at.0, y)), (3.0, 0.0)),
        };
        let stroke = Stroke {
            color: bar.color,
            width: 1.2,
        };
        canvas.line(&ends, stroke)?;
        for (x, y) in ends {
            canvas.line(&[(x - cap.0, y - cap.1), (x + cap.0, y + cap.1)], stroke)?;
        }
        Ok(())
    }
}
