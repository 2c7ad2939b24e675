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
    pub figures: Vec<Figure>,
}

pub type Drawn = Result<Vec<Figure>, ChartError>;
