//! Reading a results folder back.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::Deserialize;

use super::folder::{CELLS, REPORT, requests_file, samples_file};
use super::json::{Header, Status};
use crate::Error;
use crate::metrics::RequestTrace;
use crate::sweep::{CellResult, Measured, read_cells};
use crate::telemetry::GpuSample;

/// A sweep as it stands on disk.
#[derive(Debug, Clone)]
pub struct SavedSweep {
    pub path: PathBuf,
    pub header: Header,
    /// In the order of the sweep; those that were not measured are missing, and a cell has no requests
    /// where the folder no longer holds them.
    pub cells: Vec<Measured>,
}

impl SavedSweep {
    /// Reads all but the GPU's samples.
    ///
    /// # Errors
    /// No results folder, one of another format, or a damaged file, each named with what to do.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let header = header(&path.join(REPORT))?;
        let (mut results, _) = read_cells(&path.join(CELLS))?;
        if results.is_empty() && header.status == Status::Complete && header.cells_total > 0 {
            return Err(damaged(
                &path.join(CELLS),
                "is empty or missing, but the sweep was complete",
            ));
        }
        results.sort_by_key(|r| r.index);
        if let Some(twice) = results
            .windows(2)
            .find(|pair| pair[0].index == pair[1].index)
        {
            let index = twice[0].index;
            let cause = format!("has cell {index} twice");
            return Err(damaged(&path.join(CELLS), &cause));
        }
        let cells = results
            .into_par_iter()
            .map(|result| {
                let file = path.join(requests_file(result.index));
                let requests = requests(&file)?;
                check(&result, &requests, &file)?;
                Ok(Measured { result, requests })
            })
            .collect::<Result<_, Error>>()?;
        Ok(Self {
            path: path.into(),
            header,
            cells,
        })
    }

    /// What the GPU was seen to do while a cell ran; empty without a GPU.
    pub fn samples(&self, index: usize) -> Result<Vec<GpuSample>, Error> {
        let path = self.path.join(samples_file(index));
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(damaged(&path, &format!("cannot be read ({e})"))),
        };
        let parse = |line| {
            serde_json::from_str(line).map_err(|e| damaged(&path, &format!("is damaged ({e})")))
        };
        text.lines().map(parse).collect()
    }
}

fn header(path: &Path) -> Result<Header, Error> {
    #[derive(Deserialize)]
    struct Format {
        format: Option<u32>,
        batchlab_version: Option<String>,
    }
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(e) => {
            return Err(Error::Results(format!(
                "{} cannot be read ({e}); give the --output of a sweep",
                path.display()
            )));
        }
    };
    let unreadable = |e: serde_json::Error| damaged(path, &format!("is damaged ({e})"));
    let format: Format = serde_json::from_slice(&text).map_err(unreadable)?;
    match format.format.unwrap_or(1) {
        Header::FORMAT => serde_json::from_slice(&text).map_err(unreadable),
        _ if format.batchlab_version.is_none() => Err(Error::Results(format!(
            "{} is no report of batchlab; give the --output of a sweep",
            path.display()
        ))),
        other => Err(Error::Results(format!(
            "{} has results of format {other}, this batchlab reads format {}; measure again, or use \
             the version that wrote it ({})",
            path.display(),
            Header::FORMAT,
            format.batchlab_version.unwrap_or_default()
        ))),
    }
}

fn requests(path: &Path) -> Result<Vec<RequestTrace>, Error> {
    let file = match std::fs::read(path) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(damaged(path, &format!("cannot be read ({e})"))),
    };
    let mut reader = csv::Reader::from_reader(file.as_slice());
    let rows = reader.deserialize().collect::<Result<_, _>>();
    rows.map_err(|e| damaged(path, &format!("is damaged ({e})")))
}

/// All requests of all runs are there, or none is.
fn check(result: &CellResult, requests: &[RequestTrace], path: &Path) -> Result<(), Error> {
    if requests.is_empty() {
        return Ok(());
    }
    let mut counts = vec![0usize; result.runs.len()];
    for request in requests {
        let times = [
            Some(request.arrival_ms),
            request.scheduled_ms,
            request.released_ms,
        ];
        let tokens = [
            request.first_token_ms,
            request.last_token_ms,
            request.itl_p99_ms,
        ];
        let sound = times.iter().chain(&tokens).flatten().all(|t| t.is_finite());
        match counts.get_mut(request.run).filter(|_| sound) {
            Some(count) => *count += 1,
            None => {
                let cause = format!(
                    "is damaged at request {} of run {}",
                    request.id, request.run
                );
                return Err(damaged(path, &cause));
            }
        }
    }
    let wanted = result.runs.iter().map(|r| r.summary.requests);
    match counts.into_iter().eq(wanted) {
        true => Ok(()),
        false => Err(damaged(path, "does not hold all requests of its cell")),
    }
}

fn damaged(path: &Path, cause: &str) -> Error {
    Error::Results(format!(
        "{} {cause}; copy the folder again or measure again",
        path.display()
    ))
}
