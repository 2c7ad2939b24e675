//! The tokens that repetition penalties apply to, in host memory that the device reads.

use cudarc::driver::sys::CUdeviceptr;

use super::device::{Device, Pinned};
use super::ops::PenaliseParams;
use crate::plan::StepPlan;
use crate::runner::RunnerError;

/// `[B + 1]` where each row's tokens start, `[B]` f32 penalties, then the tokens. Made for the first
/// step that has any, and again for one that has more.
#[derive(Default)]
pub struct Penalties {
    words: Option<Pinned>,
    rows: usize,
}

impl Penalties {
    /// Writes those of `plan`. No step under way reads these.
    pub fn pack(&mut self, device: &Device, plan: &StepPlan) -> Result<(), RunnerError> {
        let rows = plan.rows.len();
        let ids: usize = plan.rows.iter().map(|row| row.penalised.len()).sum();
        let needed = 2 * rows + 1 + ids;
        let held = self.words.as_ref().map_or(0, |p| p.words().len());
        if held < needed {
            self.words = Some(device.allocate_pinned(needed.next_power_of_two())?);
        }
        let Some(pinned) = &mut self.words else {
            return Ok(());
        };
        let (starts, rest) = pinned.words_mut().split_at_mut(rows + 1);
        let (penalties, ids) = rest.split_at_mut(rows);
        let mut next = 0;
        for (b, row) in plan.rows.iter().enumerate() {
            starts[b] = next as i32;
            penalties[b] = row.sampling.repetition_penalty.to_bits() as i32;
            for (to, &id) in ids[next..].iter_mut().zip(&row.penalised) {
                *to = id as i32;
            }
            next += row.penalised.len();
        }
        starts[rows] = next as i32;
        self.rows = rows;
        Ok(())
    }

    /// What `penalise` is launched with for the plan that was packed last.
    pub fn params(&self, logits: CUdeviceptr, stride: usize) -> PenaliseParams {
        let starts = self.words.as_ref().map_or(0, Pinned::address);
        let penalties = starts + 4 * (self.rows as u64 + 1);
        PenaliseParams {
            logits,
            starts,
            ids: penalties + 4 * self.rows as u64,
            penalties,
            rows: self.rows as i32,
            stride: stride as i32,
        }
    }
}
