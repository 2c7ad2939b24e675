//! What people get: tables on the terminal, and a folder with summary.csv, cells.jsonl,
//! samples.jsonl and report.json. `chart` draws.

pub mod chart;
mod columns;
mod csv;
mod folder;
mod json;
mod machine;
mod number;
mod progress;
mod table;

pub use folder::{ResultsFolder, default_folder, write_atomically};
pub use json::{KvInfo, Report, Status};
pub use machine::Machine;
pub use number::short;
pub use progress::Progress;
pub use table::{comparison, dry_run, tables};
