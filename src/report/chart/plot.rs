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

/// Half the length of the caps of error bars.
pub const CAP: f64 = 3.0;

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
        axis::vertical(canvas, self.area, &self.y)?;
        axis::horizontal_grid(canvas, self.area, &self.x)?;
        axis::horizontal_labels(canvas, self.area, &self.x, &x.title)?;
        axis::vertical_title(canvas, self.area, &y.title)
    }

    /// The ends of an error bar, which stops where the axis does. None where there is none to draw.
    pub fn error_bar(
        &self,
        (x, y): (f64, f64),
        along: Along,
        half: Option<f64>,
    ) -> Option<[Point; 2]> {
        let (half, at) = (drawable(half?)?, self.at(x, y)?);
        let ends = |ruler: &Ruler, value: f64| {
            [
                ruler.at_or_start(bar_start(value, half)),
                ruler.at_or_end(value + half),
            ]
        };
        Some(match along {
            Along::X => ends(&self.x, x).map(|x| (x, at.1)),
            Along::Y => ends(&self.y, y).map(|y| (at.0, y)),
        })
    }
}

/// The lower end of an error bar. A quantity that is not negative has none below zero, whatever the
/// interval's formula gives.
pub fn bar_start(value: f64, half: f64) -> f64 {
    match value < 0.0 {
        true => value - half,
        false => (value - half).max(0.0),
    }
}

/// Draws an error bar with its caps.
pub fn draw_error_bar(canvas: &Canvas, ends: [Point; 2], color: Color) -> Result<(), ChartError> {
    let stroke = Stroke { color, width: 1.2 };
    canvas.line(&ends, stroke)?;
    let cap = match ends[0].0 == ends[1].0 {
        true => (CAP, 0.0),
        false => (0.0, CAP),
    };
    for (x, y) in ends {
        canvas.line(&[(x - cap.0, y - cap.1), (x + cap.0, y + cap.1)], stroke)?;
    }
    Ok(())
}
