//! What people get: tables on the terminal, and a folder with report.html and its pictures,
//! summary.csv, cells.jsonl, requests/, samples/ and report.json.

pub mod chart;
mod columns;
mod csv;
mod folder;
mod json;
mod machine;

mod progress;
mod saved;
mod table;

pub use folder::{ResultsFolder, default_folder, write_atomically};
pub use json::{Header, KvInfo, Report, Status};
pub use machine::Machine;
pub use progress::Progress;
pub use saved::SavedSweep;
pub use table::{comparison, dry_run, tables};
