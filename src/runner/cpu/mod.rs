//! The CPU runner: the readable specification of a step, in f32.

pub mod ops;
