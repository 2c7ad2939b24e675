//! Rows with a label on the left and a horizontal axis below: what bars and timelines share.

use plotters::style::text_anchor::HPos;

use super::axis::{self, Axis, LABEL};
use super::canvas::{Area, Canvas, SMALL, Type, WIDTH};
use super::ruler::Ruler;
use super::theme::INK;
use super::{ChartError, font};

pub struct Rows {
    pub area: Area,
    pub x: Ruler,
    labels: Vec<String>,
    hidden: usize,
}

/// What decides the layout of rows.
pub struct RowsLayout<'a> {
    /// Where the header ends.
    pub top: f64,
    pub labels: Vec<&'a str>,
    /// Of how many labels at most; the rest is counted in a note.
    pub most: usize,
    /// Room at the right, for totals.
    pub right: f64,
}

const LONGEST_LABEL: f64 = 300.0;
const NOTE: f64 = 20.0;

impl Rows {
    pub fn new(layout: RowsLayout, x: &Axis, xs: impl Iterator<Item = f64>) -> Self {
        let shown = layout.labels.iter().take(layout.most);
        let labels: Vec<_> = shown
            .map(|label| font::fit(label, SMALL, LONGEST_LABEL))
            .collect();
        let widths = labels.iter().map(|label| font::width(label, SMALL));
        let top = layout.top + 6.0;
        let area = Area {
            left: axis::MARGIN + widths.fold(0.0, f64::max) + 10.0,
            top,
            right: WIDTH - axis::MARGIN - layout.right,
            bottom: top + pitch(labels.len()) * labels.len().max(4) as f64,
        };
        Self {
            x: Ruler::horizontal(x.scale, xs, (area.left, area.right)),
            area,
            hidden: layout.labels.len() - labels.len(),
            labels,
        }
    }

    /// The height of the picture.
    pub fn height(&self) -> f64 {
        let note = if self.hidden > 0 { NOTE } else { 0.0 };
        self.area.bottom + axis::BELOW + note
    }

    /// The middle of the `index`-th row.
    pub fn middle(&self, index: usize) -> f64 {
        self.area.top + pitch(self.labels.len()) * (index as f64 + 0.5)
    }

    /// The bar of the `index`-th row between two positions, at least a hairline wide.
    pub fn block(&self, index: usize, (left, right): (f64, f64)) -> Area {
        let (middle, half) = (self.middle(index), 0.35 * pitch(self.labels.len()));
        Area {
            left: left.min(self.area.right - 0.5),
            top: middle - half,
            right: right.max(left + 0.5).min(self.area.right),
            bottom: middle + half,
        }
    }

    pub fn draw(&self, canvas: &Canvas, title: &str, kind: &str) -> Result<(), ChartError> {
        axis::horizontal_grid(canvas, self.area, &self.x)?;
        axis::horizontal_labels(canvas, self.area, &self.x, title)?;
        let label = Type {
            size: SMALL,
            color: INK,
            align: HPos::Right,
        };
        for (index, text) in self.labels.iter().enumerate() {
            canvas.text(text, (self.area.left - 8.0, self.middle(index)), label)?;
        }
        if self.labels.is_empty() {
            axis::no_data(canvas, self.area)?;
        }
        if self.hidden > 0 {
            let (shown, hidden) = (self.labels.len(), self.hidden);
            let note = format!("the first {shown} {kind}; {hidden} more are not shown");
            let y = self.area.bottom + axis::BELOW + 4.0;
            canvas.text(&note, (WIDTH / 2.0, y), LABEL)?;
        }
        Ok(())
    }
}

/// From the middle of one row to that of the next.
fn pitch(rows: usize) -> f64 {
    match rows {
        0..=16 => 24.0,
        17..=40 => 19.0,
        _ => 16.0,
    }
}
