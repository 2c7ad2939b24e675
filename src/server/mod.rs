//! `batchlab serve`: what its clients and its live page see of an engine.

pub mod live;
pub mod news;
