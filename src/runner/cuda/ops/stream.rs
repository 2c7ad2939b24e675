//! The residual stream between two sublayers.

use super::mirrored;

/// The residual stream as the kernel before left it, where it goes, and the norm that reads it.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct StreamParams {
    /// f32 `[M, C]`
    pub x: u64,
    /// f32 `[slices, M, C]`, added to `x`.
    pub parts: u64,
    /// `[C]`, added to `x`; or 0 for none.
    pub bias: u64,
    /// f32 `[M, C]`, written: the sum. Not `x`, which other blocks still read.
    pub x_out: u64,
    /// `[C]`
    pub weight: u64,
    /// `[C]`, or 0 for none.
    pub beta: u64,
    pub slices: i32,
    /// M
    pub m: i32,
    /// C, a multiple of 64 up to 1024.
    pub channels: i32,
    pub eps: f32,
    /// 1: an RMS norm, 0: a layer norm.
    pub rms: i32,
}

mirrored!(StreamParams, 72, {
    x: 0, parts: 8, bias: 16, x_out: 24, weight: 32, beta: 40, slices: 48, m: 52, channels: 56,
    eps: 60, rms: 64,
});
