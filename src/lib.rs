//! batchlab measures, on the user's own GPU, which batch size, wait window and batching policy a
//! language model should be served with.
//!
//! ```text
//! workload ─▶ request ─▶ queue ─▶ policy ─▶ scheduler(+KV pages) ─▶ StepPlan ─▶ runner (CPU | CUDA) ─▶ tokens
//!                                                                                  │
//! server ───▶ request ─▶ … the same path …                                         ▼
//!                      telemetry (NVML, beside it) ─▶ metrics ─▶ sweep ─▶ analysis ─▶ report
//! ```
//!
//! There are three seams. A [`batching::Policy`] decides from plain data when a batch leaves and
//! reserves nothing. A [`runner::Runner`] executes one [`plan::StepPlan`], which is host integers only.
//! A [`sweep::Service`] takes the requests of a sweep: the engine here, or a server elsewhere ([`target`]).
//! `docs/architecture.md` walks one request through these modules, and through the server.

pub mod analysis;
pub mod batching;
pub mod clock;
pub mod engine;
pub mod error;
pub mod kv;
pub mod metrics;
pub mod model;
pub mod number;
pub mod plan;
pub mod report;
pub mod request;
pub mod runner;
pub mod sampling;
pub mod scheduler;
pub mod server;
pub mod sizing;
pub mod sweep;
pub mod target;
pub mod telemetry;
pub mod text;
pub mod workload;

pub use error::Error;
