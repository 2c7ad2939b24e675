//! `batchlab serve`: the engine behind OpenAI's HTTP interface.
//!
//! ```text
//! client ─▶ http ─▶ api ─▶ admission ─▶ engine thread ─▶ news ─▶ dispatch ─▶ generation ─▶ api ─▶ client
//!                                                                   └─▶ metrics, live page
//! ```
//!
//! The engine has a thread of its own, on which nothing else happens: commands come in and one message a
//! step goes out, so that no client can hold it up. Everything about a request's text (its tokens, its
//! stop strings, its JSON) is the work of the request's own task. Until the engine is there, `loading` answers.

mod admission;
mod api;
mod app;
mod dispatch;
mod engine_thread;
mod follow;
mod frames;
mod generation;
mod http;
mod lifecycle;
pub mod live;
mod loading;
mod metrics;
mod news;
mod options;
mod page_routes;
mod patience;
mod socket;
mod turns;

pub use engine_thread::{Engaged, EngineSetup};
pub use lifecycle::{Bound, Server};
pub use news::{Arrived, StepNews};
pub use options::ServeOptions;
