//! Charts: plain numbers, names and units in, [`Picture`]s out.
//!
//! ```text
//! Scatter | Lines | StackedBars | Timeline | Panels ─▶ header + rulers ─▶ canvas (plotters) ─▶ Picture: SVG ─▶ PNG (resvg)
//! ```
//!
//! The same data gives the same bytes on every machine: the one font is part of the program.
//! A value that cannot be drawn (not finite, beyond 1e30, not positive on a logarithmic axis) leaves
//! a gap; a chart of nothing says "no data". What is too much for one picture is thinned out, and
//! what is cut off is counted in a note.

mod axis;
mod canvas;
mod curve;
mod font;
mod header;
mod labels;
mod lines;
mod number;
mod panels;
mod picture;
mod plot;
mod rows;
mod ruler;
mod scatter;
mod stacked_bars;
pub mod theme;
mod timeline;

#[cfg(test)]
mod checks;
#[cfg(test)]
mod samples;

pub use axis::Axis;
pub use lines::{Lines, Reference, Series, SeriesPoint};
pub use panels::{Panel, PanelLine, Panels};
pub use picture::{ChartError, Picture};
pub use ruler::Scale;
pub use scatter::{Frontier, Group, Knee, Mark, Scatter};
pub use stacked_bars::{Bar, Part, StackedBars};
pub use timeline::{Markers, Row, Segment, Timeline};
