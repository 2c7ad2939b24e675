//! From records to the numbers people compare.

mod client;
mod pace;
mod profile;
mod records;
mod roofline;
mod statistics;
mod summary;
mod trace;

pub use client::{ClientCost, Counted};
pub use pace::{DevicePace, Pace};
pub use profile::{Phase, Profile};
pub use records::{BatchRecord, RequestTimes, StepRecord};
pub use roofline::{Bound, Ceilings, NetworkSize, Work};
pub use statistics::{Interval, Statistics, confidence_interval, t_half_width};
pub use summary::{Executed, StepTimes, Summary};
pub use trace::{RequestTrace, traces};
