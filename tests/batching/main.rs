//! Queue, policies, scheduler and loads, without tensors and without waiting.

mod loads;
mod policies;
mod scripted;
mod sweeps;
