//! Axes: grid lines, tick labels and titles around the area of the data.

use plotters::style::text_anchor::HPos;

use super::canvas::{Area, Canvas, Stroke, TEXT, Type, WIDTH};
use super::ruler::{Ruler, Scale};
use super::theme::{GRID, MUTED};
use super::{ChartError, font};

/// What an axis shows, with its unit, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Axis {
    pub title: String,
    pub scale: Scale,
}

/// Room below the area of the data for labels and title.
pub const BELOW: f64 = 48.0;
/// Room above it for the title of the vertical axis, which lies flat to be readable.
pub const ABOVE: f64 = 26.0;
/// Left and right of everything.
pub const MARGIN: f64 = 16.0;

pub const LABEL: Type = Type {
    size: TEXT,
    color: MUTED,
    align: HPos::Center,
};
const GRID_LINE: Stroke = Stroke {
    color: GRID,
    width: 1.0,
};

/// Grid lines across `area`, and where it ends at the bottom.
pub fn horizontal_grid(canvas: &Canvas, area: Area, ruler: &Ruler) -> Result<(), ChartError> {
    for tick in &ruler.ticks {
        let x = ruler.at_or_start(tick.at);
        canvas.line(&[(x, area.top), (x, area.bottom)], GRID_LINE)?;
    }
    let base = Stroke {
        color: MUTED,
        width: 1.0,
    };
    let (left, right) = ((area.left, area.bottom), (area.right, area.bottom));
    canvas.line(&[left, right], base)
}

/// Tick labels and title below `area`.
pub fn horizontal_labels(
    canvas: &Canvas,
    area: Area,
    ruler: &Ruler,
    title: &str,
) -> Result<(), ChartError> {
    for tick in &ruler.ticks {
        let x = ruler.at_or_start(tick.at);
        canvas.text(&tick.label, (x, area.bottom + 14.0), LABEL)?;
    }
    let title = font::fit(title, TEXT, area.right - area.left);
    let middle = (area.left + area.right) / 2.0;
    canvas.text(&title, (middle, area.bottom + 34.0), LABEL)
}

/// Grid lines across `area`, tick labels left of it.
pub fn vertical(canvas: &Canvas, area: Area, ruler: &Ruler) -> Result<(), ChartError> {
    let label = Type {
        align: HPos::Right,
        ..LABEL
    };
    for tick in &ruler.ticks {
        let y = ruler.at_or_start(tick.at);
        canvas.line(&[(area.left, y), (area.right, y)], GRID_LINE)?;
        canvas.text(&tick.label, (area.left - 8.0, y), label)?;
    }
    Ok(())
}

/// The title of a vertical axis, above `area`.
pub fn vertical_title(canvas: &Canvas, area: Area, title: &str) -> Result<(), ChartError> {
    let title = font::fit(title, TEXT, WIDTH - 2.0 * MARGIN);
    let kind = Type {
        align: HPos::Left,
        ..LABEL
    };
    canvas.text(&title, (MARGIN, area.top - 14.0), kind)
}

/// Says why there is nothing to see.
pub fn no_data(canvas: &Canvas, area: Area) -> Result<(), ChartError> {
    let middle = (
        (area.left + area.right) / 2.0,
        (area.top + area.bottom) / 2.0,
    );
    canvas.text("no data", middle, LABEL)
}
