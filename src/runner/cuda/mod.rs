//! The CUDA runner.

mod fatbins;
pub mod kernels;
pub mod ops;
