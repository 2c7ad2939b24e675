//! The CPU runner: the readable specification of a step. It computes in f32; its weights may be in bf16.

mod bf16;
mod ceilings;
mod forward;
mod matmul;
mod memory;
pub mod ops;
mod weights;

use std::time::Instant;

use rayon::prelude::*;

use super::{
    Bounds, Dtype, Footprint, KvBudget, Limits, MemoryUse, Runner, RunnerError, RunnerOptions,
    Target,
};
use crate::kv::KvLayout;
use crate::metrics::Ceilings;
use crate::model::{Model, ModelSpec};
use crate::plan::{StepOutput, StepPlan};
use crate::sampling;
use forward::{Scratch, forward};
use memory::Demand;
use weights::Weights;

pub use memory::available as available_memory;

/// A model on the CPU: weights, KV slab and scratch, all placed when it is opened. It computes on
/// the rayon pool it is called from, the global one by default; results do not depend on its size.
pub struct CpuRunner {
    spec: ModelSpec,
    dtype: Dtype,
    bounds: Bounds,
    layout: KvLayout,
    weights: Weights,
    /// `[layer][page][K|V][head][position][D]`
    kv: Box<[f32]>,
    scratch: Scratch,
    asked: Footprint,
    /// B of the last step.
    last_rows: usize,
    /// Of the step under way: it is computed when it is submitted.
    output: Option<StepOutput>,
}

impl CpuRunner {
    /// Decodes the weights and places the KV slab. Errors: weights in f16, a page size that
    /// is no power of two, memory that does not suffice, a damaged model.
    pub fn new(model: &Model, options: &RunnerOptions) -> Result<Self, RunnerError> {
        let spec = &model.spec;
        let asked = footprint(spec, options)?;
        let dtype = weights_dtype(spec, options)?;
        let layout = spec.kv_layout(options.page_size, size_of::<f32>());
        let pages = kv_pages(&layout, options)?;
        let demand = Demand(Footprint {
            kv: pages.saturating_mul(layout.bytes_per_page() as u64),
            ..asked
        });
        demand.check()?;
        Ok(Self {
            bounds: Bounds {
                limits: options.limits,
                page_size: options.page_size,
                kv_pages: pages as usize,
                vocab: spec.vocab,
                max_positions: spec.max_positions,
            },
            layout,
            kv: demand.zeros(demand.0.kv / size_of::<f32>() as u64)?,
            scratch: Scratch::new(spec, &options.limits, &demand)?,
            asked: demand.0,
            weights: match dtype {
                Dtype::BF16 => Weights::load::<half::bf16>(model, options.limits.max_kv_len)?,
                _ => Weights::load::<f32>(model, options.limits.max_kv_len)?,
            },
            spec: spec.clone(),
            dtype,
            last_rows: 0,
            output: None,
        })
    }

    /// The next token of every row, from the logits of this step.
    fn sample(&mut self, plan: &StepPlan) -> Vec<u32> {
        self.scratch
            .logits
            .par_chunks_exact_mut(self.spec.vocab)
            .zip(&plan.rows)
            .map(|(logits, row)| {
                let s = &row.sampling;
                sampling::penalise(logits, &row.penalised, s.repetition_penalty);
                sampling::sample(logits, s, row.sample_index)
            })
            .collect()
    }
}

/// What [`CpuRunner::new`] asks for where the slab is as large as the limits can use.
pub(super) fn footprint(
    spec: &ModelSpec,
    options: &RunnerOptions,
) -> Result<Footprint, RunnerError> {
    let dtype = weights_dtype(spec, options)?;
    if !options.page_size.is_power_of_two() {
        return Err(RunnerError::Options(format!(
            "a KV page of {} positions is not possible; use a power of two",
            options.page_size
        )));
    }
    let layout = spec.kv_layout(options.page_size, size_of::<f32>());
    Ok(Footprint {
        weights: Weights::bytes(spec, options.limits.max_kv_len, dtype.bytes()),
        scratch: Scratch::bytes(spec, &options.limits),
        kv: usable_pages(&layout, &options.limits).saturating_mul(layout.bytes_per_page() as u64),
    })
}

/// Of the two that [`matmul::Weight`] is.
fn weights_dtype(spec: &ModelSpec, options: &RunnerOptions) -> Result<Dtype, RunnerError> {
    let usual = || Target::Cpu.usual_dtype(spec);
    match options.dtype.unwrap_or_else(usual) {
        Dtype::F16 => Err(RunnerError::Options(
            "on a CPU weights are f32 or bf16, not f16; use --dtype bf16 or --device cuda".into(),
        )),
        dtype => Ok(dtype),
    }
}

/// Pages that full rows of the longest context fill.
fn usable_pages(layout: &KvLayout, limits: &Limits) -> u64 {
    let per_row = layout.pages_for(limits.max_kv_len) as u64;
    per_row.saturating_mul(limits.max_rows as u64).max(1)
}

/// Pages of the slab: what the budget holds, or as many as the limits can use.
fn kv_pages(layout: &KvLayout, options: &RunnerOptions) -> Result<u64, RunnerError> {
    let page = layout.bytes_per_page() as u64;
    match options.kv {
        KvBudget::Bytes(bytes) if bytes < page => Err(RunnerError::OutOfMemory {
            what: format!("one KV page of {} positions", layout.page_size),
            needed: page,
            available: bytes,
            device: "--kv-cache-memory".into(),
            remedy: "raise it or lower --kv-block-size".into(),
        }),
        // A page number is a u32.
        KvBudget::Bytes(bytes) => Ok((bytes / page).min(u64::from(u32::MAX))),
        KvBudget::Utilization(_) => Ok(usable_pages(layout, &options.limits)),
    }
}

impl Runner for CpuRunner {
    fn describe(&self) -> String {
        let weights = match self.dtype {
            Dtype::F32 => "f32".to_owned(),
            other => format!("f32, weights in {other}"),
        };
        format!("CPU, {} threads, {weights}", rayon::current_num_threads())
    }

    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn limits(&self) -> Limits {
        self.bounds.limits
    }

    fn kv_layout(&self) -> KvLayout {
        self.layout
    }

    fn kv_pages(&self) -> usize {
        self.bounds.kv_pages
    }

    fn memory(&self) -> MemoryUse {
        MemoryUse {
            asked: self.asked,
            given: Footprint {
                weights: self.weights.held_bytes(),
                scratch: self.scratch.held_bytes(),
                kv: size_of_val(&*self.kv) as u64,
            },
            device: None,
        }
    }

    fn measure_ceilings(&mut self) -> Result<Ceilings, RunnerError> {
        match self.dtype {
            Dtype::BF16 => ceilings::measure::<half::bf16>(),
            _ => ceilings::measure::<f32>(),
        }
    }

    fn submit(&mut self, plan: &StepPlan) -> Result<(), RunnerError> {
        self.bounds.check(plan, self.last_rows)?;
        if self.output.is_some() {
            return Err(RunnerError::too_many());
        }
        let started = Instant::now();
        // Inside the pool, so that each parallel loop starts without waking a worker.
        let tokens = rayon::scope(|_| {
            forward(
                &self.spec,
                &self.weights,
                &self.layout,
                &mut self.kv,
                &mut self.scratch,
                plan,
            );
            self.sample(plan)
        });
        self.last_rows = plan.rows.len();
        self.output = Some(StepOutput {
            tokens,
            compute: started.elapsed(),
            device: None,
        });
        Ok(())
    }

    fn collect(&mut self) -> Result<StepOutput, RunnerError> {
        self.output.take().ok_or_else(RunnerError::none_under_way)
    }

    fn logits(&mut self) -> Result<Vec<f32>, RunnerError> {
        Ok(self.scratch.logits[..self.last_rows * self.spec.vocab].to_vec())
    }
}
