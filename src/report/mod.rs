//! What people get: tables on the terminal, and a folder with report.html and its pictures,
//! summary.csv, cells.jsonl, requests/, samples/ and report.json.

pub mod chart;
mod columns;
mod csv;
mod folder;
mod json;
mod machine;
mod memory;
mod page;
mod plan;
mod profile;
mod progress;
mod remeasure;
mod saved;
mod table;
mod words;

pub use folder::{ResultsFolder, Resumed, default_folder, write_atomically};
pub use json::{Header, KvInfo, MemoryInfo, PartInfo, Report, Status};
pub use machine::Machine;
pub use page::{HOUSE_CSS, KernelTimes, write_page};
pub use plan::{Plan, Verified};
pub use profile::{ProfileReport, profile, profile_json};
pub use progress::Progress;
pub use remeasure::remeasure;
pub use saved::SavedSweep;
pub use table::{comparison, dry_run, tables};
pub use words::{comparison_of_sweeps, expectations, picks, policies, scaling};
