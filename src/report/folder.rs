//! Writing the results folder. Every cell is on disk before the next one begins, and a file is either the
//! old one or the new one, never half of it.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::Serialize;
use serde_json::Value;

use super::Report;
use super::csv::{requests, summary};
use crate::Error;
use crate::sweep::{CellResult, Measured, differences, read_cells};
use crate::telemetry::GpuSample;

pub(super) const CELLS: &str = "cells.jsonl";
pub(super) const REPORT: &str = "report.json";

/// Every request of a cell.
pub(super) fn requests_file(index: usize) -> PathBuf {
    Path::new("requests").join(format!("cell-{index:04}.csv"))
}

/// Every reading of the GPU while a cell ran.
pub(super) fn samples_file(index: usize) -> PathBuf {
    Path::new("samples").join(format!("cell-{index:04}.jsonl"))
}

/// `results/<UTC time>`.
pub fn default_folder() -> PathBuf {
    let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    Path::new("results").join(now.replace(':', ""))
}

/// An open folder.
#[derive(Debug)]
pub struct ResultsFolder {
    path: PathBuf,
    cells: File,
}

/// A sweep that goes on.
#[derive(Debug)]
pub struct Resumed {
    pub folder: ResultsFolder,
    pub cells: Vec<CellResult>,
    /// When it was first started.
    pub started_utc: Option<String>,
}

impl ResultsFolder {
    /// Makes the folder; refuses one that holds anything, so that no result is overwritten.
    pub fn create(path: &Path) -> Result<Self, Error> {
        let taken = match path.read_dir() {
            Ok(mut entries) => entries.next().is_some(),
            Err(e) if e.kind() == ErrorKind::NotFound => {
                std::fs::create_dir_all(path).map_err(|e| unwritable(path, &e))?;
                false
            }
            Err(e) => return Err(unwritable(path, &e)),
        };
        if taken {
            return Err(Error::Results(format!(
                "{} is not empty; go on there with --resume, or give another --output",
                path.display()
            )));
        }
        Self::open(path)
    }

    /// Opens a folder that an earlier sweep of the same `config` left, and reads its cells.
    pub fn resume(path: &Path, config: &Value) -> Result<Resumed, Error> {
        let report = path.join(REPORT);
        let wrong = |cause: String| {
            Error::Results(format!(
                "--resume: {} {cause}; give the --output of an earlier sweep",
                report.display()
            ))
        };
        let text = std::fs::read(&report).map_err(|e| wrong(format!("cannot be read ({e})")))?;
        let old: Value =
            serde_json::from_slice(&text).map_err(|e| wrong(format!("is damaged ({e})")))?;
        if !old["config"].is_object() {
            return Err(wrong("is no report of a sweep".into()));
        }
        let differing = differences(&old["config"], config);
        if !differing.is_empty() {
            return Err(Error::Usage(format!(
                "--resume: {} holds another sweep: {}; give the same options, or another --output",
                path.display(),
                differing.join("; ")
            )));
        }
        let (cells, whole) = read_cells(&path.join(CELLS))?;
        let folder = Self::open(path)?;
        let cut = folder.cells.set_len(whole);
        cut.map_err(|e| unwritable(&path.join(CELLS), &e))?;
        Ok(Resumed {
            folder,
            cells,
            started_utc: old["started_utc"].as_str().map(String::from),
        })
    }

    fn open(path: &Path) -> Result<Self, Error> {
        Ok(Self {
            path: path.into(),
            cells: appending(&path.join(CELLS))?,
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Adds one cell with its requests and samples, and waits until the disk has them. The cell's
    /// line comes last, so that whatever has one is whole.
    pub fn append(&mut self, measured: &Measured, samples: &[GpuSample]) -> Result<(), Error> {
        let index = measured.result.index;
        self.write(&requests_file(index), &requests(&measured.requests)?)?;
        if !samples.is_empty() {
            let path = samples_file(index);
            self.write(&path, &json_lines(&self.path.join(&path), samples)?)?;
        }
        let path = self.path.join(CELLS);
        let line = json_lines(&path, [&measured.result])?;
        let written = self
            .cells
            .write_all(&line)
            .and_then(|()| self.cells.sync_data());
        written.map_err(|e| unwritable(&path, &e))
    }

    /// Writes a file below the folder, as a whole.
    pub fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), Error> {
        let path = self.path.join(path);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(|e| unwritable(parent, &e))?;
        }
        write_atomically(&path, bytes)
    }

    /// Writes report.json and, once there are cells, summary.csv.
    pub fn write_report(&self, report: &Report<'_>) -> Result<(), Error> {
        let mut json = serde_json::to_vec_pretty(report)
            .map_err(|e| unwritable(&self.path.join(REPORT), &e.into()))?;
        json.push(b'\n');
        self.write(Path::new(REPORT), &json)?;
        if report.cells.is_empty() {
            return Ok(());
        }
        self.write(Path::new("summary.csv"), &summary(report.cells)?)
    }
}

fn appending(path: &Path) -> Result<File, Error> {
    let file = OpenOptions::new().create(true).append(true).open(path);
    file.map_err(|e| unwritable(path, &e))
}

fn json_lines<T: Serialize>(
    path: &Path,
    values: impl IntoIterator<Item = T>,
) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    for value in values {
        serde_json::to_writer(&mut bytes, &value).map_err(|e| unwritable(path, &e.into()))?;
        bytes.push(b'\n');
    }
    Ok(bytes)
}

/// Replaces a file as a whole: a temporary one beside it, then a rename.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.{}.tmp", std::process::id()));
    let written = File::create(&temporary)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| std::fs::rename(&temporary, path));
    written.map_err(|e| {
        // What could be written of it is of no use to anybody.
        let _ = std::fs::remove_file(&temporary);
        unwritable(path, &e)
    })
}

fn unwritable(path: &Path, error: &std::io::Error) -> Error {
    let remedy = match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            "free some space, then go on with --resume"
        }
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            "give an --output that you may write to"
        }
        _ => "give another --output",
    };
    Error::Results(format!(
        "{} cannot be written ({error}); {remedy}",
        path.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_an_error_that_says_so() {
        let full = std::io::Error::from(ErrorKind::StorageFull);
        let error = unwritable(Path::new("cells.jsonl"), &full).to_string();
        assert!(error.contains("cells.jsonl cannot be written"), "{error}");
        assert!(error.contains("free some space"), "{error}");
    }

    #[test]
    fn replacing_is_whole_and_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("report.json");
        write_atomically(&path, b"old").unwrap();
        write_atomically(&path, b"new").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert_eq!(dir.path().read_dir().unwrap().count(), 1);
        // A folder in the way: the error names it, and no temporary file stays.
        let taken = dir.path().join("taken");
        std::fs::create_dir(&taken).unwrap();
        let error = write_atomically(&taken, b"x").unwrap_err().to_string();
        assert!(error.contains("taken cannot be written"), "{error}");
        assert_eq!(dir.path().read_dir().unwrap().count(), 2);
    }

    #[test]
    fn a_folder_with_anything_in_it_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        ResultsFolder::create(&dir.path().join("new/deep")).unwrap();
        std::fs::write(dir.path().join("mine.txt"), "x").unwrap();
        let error = ResultsFolder::create(dir.path()).unwrap_err().to_string();
        assert!(error.contains("is not empty"), "{error}");
        let file = dir.path().join("mine.txt");
        let error = ResultsFolder::create(&file).unwrap_err().to_string();
        assert!(error.contains("cannot be written"), "{error}");
    }
}
