//! The CUDA runner.
