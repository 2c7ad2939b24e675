//! report.html, one self-contained file, and its pictures beside it.

mod figure;
mod figures;
mod html;

use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::SavedSweep;
use super::folder::write_atomically;
use crate::Error;
use crate::analysis::Analysis;

pub use figures::KernelTimes;
pub use html::HOUSE_CSS;

const PAGE: &str = "report.html";
const PICTURES: &str = "pictures";

/// Draws everything and writes report.html and pictures/ into `folder`; gives the page's path.
pub fn write_page(
    saved: &SavedSweep,
    analysis: &Analysis<'_>,
    kernels: Option<&KernelTimes>,
    folder: &Path,
) -> Result<PathBuf, Error> {
    let sections = figures::sections(saved, analysis, kernels)?;
    let page = html::page(saved, analysis, &sections)?;
    let pictures = folder.join(PICTURES);
    let unwritable = |e: std::io::Error| {
        Error::Results(format!(
            "{} cannot be written ({e}); give an --output that you may write to",
            pictures.display()
        ))
    };
    std::fs::create_dir_all(&pictures).map_err(unwritable)?;
    let figures: Vec<_> = sections.iter().flat_map(|s| &s.drawn.figures).collect();
    figures.par_iter().try_for_each(|figure| {
        let file = |extension| pictures.join(format!("{}.{extension}", figure.name));
        write_atomically(&file("svg"), figure.picture.svg.as_bytes())?;
        let png = figure.picture.png();
        let png = png.map_err(|e| Error::Results(format!("{}: {e}", figure.name)))?;
        write_atomically(&file("png"), &png)
    })?;
    let path = folder.join(PAGE);
    write_atomically(&path, page.as_bytes())?;
    Ok(path)
}
