//! `batchlab serve` as its clients know it: the real binary on a free port, spoken to over sockets.

mod about;
mod cancel;
mod chat;
#[path = "../browser/chromium.rs"]
mod chromium;
mod client;
mod completions;
mod errors;
mod failure;
mod greedy;
mod lifecycle;
mod limits;
mod live_page;
mod loading;
mod logprobs;
mod policies;
mod process;
mod serving;
mod spelled;
mod unread;
mod utf8;
