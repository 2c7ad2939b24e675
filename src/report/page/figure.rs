//! A picture with what stands around it.

use serde::Serialize;

use crate::report::chart::{ChartError, Picture};

/// A picture, what it shows, and its numbers.
pub struct Figure {
    /// Stem of its files.
    pub name: String,
    pub caption: String,
    pub picture: Picture,
    pub table: NumberTable,
}

/// The numbers behind a picture, as text.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NumberTable {
    pub header: Vec<String>,
    pub rows: Vec<Vec<String>>,
}

impl NumberTable {
    pub fn new<const N: usize>(header: [&str; N], rows: Vec<[String; N]>) -> Self {
        Self {
            header: header.map(String::from).into(),
            rows: rows.into_iter().map(Vec::from).collect(),
        }
    }
}

/// Figures that belong together.
pub struct Section {
    pub title: &'static str,
    /// What to look for.
    pub intro: &'static str,
    pub drawn: Figures,
}

/// Pictures, and how many more there would be.
#[derive(Default)]
pub struct Figures {
    pub figures: Vec<Figure>,
    pub left_out: usize,
}

impl From<Vec<Figure>> for Figures {
    fn from(figures: Vec<Figure>) -> Self {
        Self {
            figures,
            left_out: 0,
        }
    }
}

impl Figures {
    /// Draws each of the first `most` items.
    pub fn of<T>(
        items: &[T],
        most: usize,
        draw: impl Fn(usize, &T) -> Result<Figure, ChartError>,
    ) -> Result<Self, ChartError> {
        let shown = items.iter().take(most).enumerate();
        Ok(Self {
            figures: shown
                .map(|(i, item)| draw(i, item))
                .collect::<Result<_, _>>()?,
            left_out: items.len().saturating_sub(most),
        })
    }
}

pub type Drawn = Result<Vec<Figure>, ChartError>;
