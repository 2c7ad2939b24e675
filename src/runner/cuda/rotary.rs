//! The angles of rotary positions on the device.

use super::device::{Device, Memory};
use crate::model::{ModelSpec, Positions};
use crate::runner::RunnerError;

/// Positions that rows of up to `max_kv_len` can have.
fn positions(spec: &ModelSpec, max_kv_len: usize) -> usize {
    spec.max_positions.min(max_kv_len)
}

/// Bytes of the table, f32 `[S, D/2, 2]`; none for a model that learned its positions.
pub fn bytes(spec: &ModelSpec, max_kv_len: usize) -> u64 {
    match spec.positions {
        Positions::Learned => 0,
        Positions::Rotary(_) => 4 * (positions(spec, max_kv_len) * spec.head_dim) as u64,
    }
}

/// Places [`Rope::table`](crate::model::Rope::table).
pub fn load(
    device: &Device,
    spec: &ModelSpec,
    max_kv_len: usize,
) -> Result<Option<Memory>, RunnerError> {
    let Positions::Rotary(rope) = spec.positions else {
        return Ok(None);
    };
    let table = rope.table(spec.head_dim, positions(spec, max_kv_len));
    let memory = device.allocate("rotary positions", bytes(spec, max_kv_len))?;
    // SAFETY: as many bytes were just allocated.
    unsafe { device.upload(memory.address, bytemuck::cast_slice(&table)) }?;
    Ok(Some(memory))
}
