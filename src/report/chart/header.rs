//! Above the data: the title, and the legend, which so never covers anything.

use plotters::style::text_anchor::HPos;

use super::axis::MARGIN;
use super::canvas::{Area, Canvas, Point, Shape, Stroke, TEXT, TITLE, Type, WIDTH};
use super::theme::{Color, INK, MUTED};
use super::{ChartError, font};

/// How an entry of the legend looks in the chart.
#[derive(Clone, Copy)]
pub enum Swatch {
    Line(Color),
    /// A line with the marks of its points.
    Marked(Shape, Color),
    Dashed(Color),
    Mark(Shape, Color),
    Ring,
    Block(Color),
}

pub struct Entry {
    pub name: String,
    pub swatch: Swatch,
}

/// Title and legend, laid out.
pub struct Header {
    title: String,
    /// With their left middles.
    entries: Vec<(Point, Entry)>,
    rows: usize,
    hidden: usize,
}

const TITLE_HEIGHT: f64 = 34.0;
const ROW: f64 = 20.0;
const MAX_ROWS: usize = 4;
const SWATCH: f64 = 22.0;
/// Between two entries.
pub const GAP: f64 = 18.0;
pub const LONGEST_NAME: f64 = 240.0;

impl Header {
    pub fn new(title: &str, legend: impl IntoIterator<Item = Entry>) -> Self {
        let mut header = Self {
            title: font::fit(title, TITLE, WIDTH - 2.0 * MARGIN),
            entries: Vec::new(),
            rows: 0,
            hidden: 0,
        };
        let mut x = WIDTH;
        for mut entry in legend {
            entry.name = font::fit(&entry.name, TEXT, LONGEST_NAME);
            let full = x + entry.width() > WIDTH - MARGIN;
            if header.hidden > 0 || (full && header.rows == MAX_ROWS) {
                header.hidden += 1;
                continue;
            }
            if full {
                header.rows += 1;
                x = MARGIN;
            }
            let y = TITLE_HEIGHT + ROW * (header.rows as f64 - 0.5);
            let right = x + entry.width();
            header.entries.push(((x, y), entry));
            x = right + GAP;
        }
        header
    }

    pub fn height(&self) -> f64 {
        let rows = self.rows + usize::from(self.hidden > 0);
        TITLE_HEIGHT + ROW * rows as f64
    }

    pub fn draw(&self, canvas: &Canvas) -> Result<(), ChartError> {
        let title = Type {
            size: TITLE,
            ..NAME
        };
        canvas.text(&self.title, (MARGIN, TITLE_HEIGHT / 2.0 + 2.0), title)?;
        for (left, entry) in &self.entries {
            entry.draw(canvas, *left)?;
        }
        if self.hidden > 0 {
            let more = format!("and {} more", self.hidden);
            let kind = Type {
                color: MUTED,
                ..NAME
            };
            canvas.text(&more, (MARGIN, self.height() - ROW / 2.0), kind)?;
        }
        Ok(())
    }
}

const NAME: Type = Type {
    size: TEXT,
    color: INK,
    align: HPos::Left,
};
impl Entry {
    pub fn width(&self) -> f64 {
        SWATCH + font::width(&self.name, TEXT)
    }

    /// Draws the entry with its left middle at (x, y).
    pub fn draw(&self, canvas: &Canvas, (x, y): Point) -> Result<(), ChartError> {
        let middle = (x + 8.0, y);
        let ends = [(x, y), (x + 16.0, y)];
        let stroke = |color| Stroke { color, width: 2.0 };
        match self.swatch {
            Swatch::Line(color) => canvas.line(&ends, stroke(color))?,
            Swatch::Marked(shape, color) => {
                canvas.line(&ends, stroke(color))?;
                canvas.mark(shape, middle, 3.5, color)?;
            }
            Swatch::Dashed(color) => canvas.dashes(&ends, stroke(color))?,
            Swatch::Mark(shape, color) => canvas.mark(shape, middle, 4.5, color)?,
            Swatch::Ring => {
                let ring = Stroke {
                    color: INK,
                    width: 1.5,
                };
                canvas.ring(middle, 6.0, ring)?;
            }
            Swatch::Block(color) => {
                let block = Area {
                    left: x + 2.0,
                    top: y - 6.0,
                    right: x + 14.0,
                    bottom: y + 6.0,
                };
                canvas.block(block, color)?;
            }
        }
        canvas.text(&self.name, (x + SWATCH, y), NAME)
    }
}
