//! What people get: tables on the terminal, and a folder with summary.csv, cells.jsonl,
//! samples.jsonl and report.json.

mod columns;
mod csv;
mod folder;
mod json;
mod machine;
mod memory;
mod number;
mod profile;
mod progress;
mod table;

pub use folder::{ResultsFolder, default_folder, write_atomically};
pub use json::{KvInfo, MemoryInfo, PartInfo, Report, Status};
pub use machine::Machine;
pub use memory::{sizes, verification};
pub use number::{short, size, whole};
pub use profile::{ProfileReport, profile, profile_json};
pub use progress::Progress;
pub use table::{comparison, dry_run, tables};
