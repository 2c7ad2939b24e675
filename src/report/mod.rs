//! What people get: tables on the terminal, and a folder with summary.csv, cells.jsonl,
//! samples.jsonl and report.json.

mod columns;
mod csv;
mod folder;
mod json;
mod machine;
mod memory;
mod number;
mod plan;
mod profile;
mod progress;
mod table;

pub use folder::{ResultsFolder, default_folder, write_atomically};
pub use json::{KvInfo, MemoryInfo, PartInfo, Report, Status};
pub use machine::Machine;
pub use number::short;
pub use plan::{Plan, Verified};
pub use profile::{ProfileReport, profile, profile_json};
pub use progress::Progress;
pub use table::{comparison, dry_run, tables};
