//! From records to the numbers people compare.

mod records;
mod statistics;
mod summary;
mod trace;

pub use records::{BatchRecord, RequestTimes, StepRecord};
pub use statistics::{Interval, Statistics, confidence_interval, t_half_width};
pub use summary::{StepTimes, Summary};
pub use trace::{RequestTrace, traces};
