//! From records to the numbers people compare.

mod records;
mod statistics;
mod summary;

pub use records::{BatchRecord, RequestTimes, StepRecord};
pub use statistics::{Interval, Statistics, confidence_interval};
pub use summary::Summary;
