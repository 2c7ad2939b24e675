//! A server in place of the engine: the same loads, sent to any OpenAI-compatible `/v1/completions`.
//!
//! `probe` asks once what the server takes (`Dialect`). `drive` is the load generator: it sends what
//! is due to a few `lane`s, threads with an event loop each, in which `exchange` follows one request
//! from its first byte to its last. Whatever the client costs is counted beside it.

mod address;
mod answer;
mod drive;
mod error;
mod exchange;
mod lane;
mod lines;
mod probe;
mod wire;

pub use address::Address;
pub use drive::Target;
pub use error::TargetError;
pub use probe::{Asked, Contact, contact};
pub use wire::{Dialect, PromptForm};
