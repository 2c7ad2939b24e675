//! Queue, policies, scheduler and loads, without tensors and without waiting.

mod continuous;
mod loads;
mod policies;
mod schedules;
mod scripted;
mod sweeps;
mod tokens;
