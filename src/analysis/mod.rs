//! What the measured cells say: how steps scale, which settings are worth considering, what waste
//! costs, which of day2's expectations hold, and what to serve with.
//!
//! Everything here is computed from results as they are saved, so that a report can be made again.

mod advice;
mod comparison;
mod conclusion;
mod costs;
mod estimate;
mod feasibility;
mod frontier;
mod lines;
mod objective;
mod policies;
mod scaling;
mod scenario;
mod slo;
mod tradeoff;
mod verdicts;

pub use advice::{Advice, Candidate, Pick, RunnerUp, advise};
pub use comparison::{ComparedCell, Comparison, Pair, compare};
pub use costs::{IdleCost, PaddingCost, idle_costs, padding_costs};
pub use estimate::{
    BATCH_SIZE, Block, ENERGY, Estimate, LATENCY, Order, QUEUE, Quantity, THROUGHPUT,
};
pub use feasibility::{Obstacle, obstacles, over_saturated};
pub use frontier::{Point, knee, pareto};
pub use lines::{Axis, Premise, batch_ladder, lines};
pub use objective::{Objective, goodput};
pub use policies::{Beside, PolicyCell, PolicyGroup, policy_groups};
pub use scaling::{ScalingPoint, scaling, total_ms};
pub use scenario::{Arrivals, Scenario};
pub use slo::{Slo, SloMetric};
pub use tradeoff::{TradeOff, trade_offs};
pub use verdicts::{Evidence, Ruling, Verdict, verdicts};

use crate::Error;
use crate::sweep::Measured;
use crate::telemetry::GpuSample;

/// Everything that is concluded from one sweep.
pub struct Analysis<'a> {
    pub cells: &'a [Measured],
    /// Cells that differ in the batch size alone, ascending; empty without two sizes.
    pub ladder: Vec<&'a Measured>,
    pub scaling: Vec<ScalingPoint>,
    pub trade_offs: Vec<TradeOff<'a>>,
    /// Cells of the ladder, and the peak bytes of their KV cache where one is known.
    pub kv_bytes: Vec<(&'a Measured, f64)>,
    pub padding: Vec<PaddingCost<'a>>,
    pub idle: Vec<IdleCost<'a>>,
    pub policies: Vec<PolicyGroup>,
    pub verdicts: Vec<Verdict>,
    pub advice: Vec<Advice<'a>>,
    pub conclusion: Vec<String>,
}

/// What is known beside the cells.
pub struct Context<'a> {
    /// Of the KV pool.
    pub kv_pool_bytes: u64,
    /// The GPU's readings while a cell ran.
    pub samples: &'a dyn Fn(usize) -> Result<Vec<GpuSample>, Error>,
    /// Judged before the presets.
    pub own: Option<Scenario>,
}

impl<'a> Analysis<'a> {
    pub fn of(cells: &'a [Measured], context: &Context<'_>) -> Result<Self, Error> {
        let ladder = batch_ladder(cells).unwrap_or_default();
        let scaling = scaling(&ladder);
        let kv_bytes: Vec<(&Measured, f64)> = ladder
            .iter()
            .filter_map(|c| {
                let usage = c.result.mean(|r| r.summary.kv_cache_usage_percent)?;
                let bytes = usage / 100.0 * context.kv_pool_bytes as f64;
                Some((*c, bytes))
            })
            .collect();
        let gpu_utilization = ladder
            .iter()
            .map(|c| Ok((c.result.cell.batch_size, utilization(c, context)?)))
            .collect::<Result<Vec<_>, Error>>()?;
        let verdicts = verdicts(&Evidence {
            cells,
            ladder: &ladder,
            scaling: &scaling,
            kv_bytes: &kv_bytes,
            gpu_utilization: &gpu_utilization,
        });
        let scenarios = context.own.clone().into_iter().chain(Scenario::presets());
        let advice: Vec<Advice<'_>> = scenarios.map(|s| advise(cells, s)).collect();
        let trade_offs = trade_offs(cells);
        let conclusion = conclusion::conclusion(&ladder, &trade_offs, &verdicts, &advice);
        Ok(Self {
            padding: padding_costs(cells),
            idle: idle_costs(cells),
            policies: policy_groups(cells.iter().map(|c| &c.result)),
            cells,
            ladder,
            scaling,
            trade_offs,
            kv_bytes,
            verdicts,
            advice,
            conclusion,
        })
    }
}

/// NVML averages over up to a second: readings a second apart are independent of one another.
const INDEPENDENT_S: f64 = 1.0;

/// From repeats, or, of a single run, from its readings.
fn utilization(cell: &Measured, context: &Context<'_>) -> Result<Option<Estimate>, Error> {
    let of_run = |r: &crate::sweep::RunResult| r.gpu.as_ref()?.gpu_utilization_percent;
    if cell.result.runs.len() > 1 {
        let values: Option<Vec<f64>> = cell.result.runs.iter().map(of_run).collect();
        return Ok(values.and_then(Estimate::of_values));
    }
    let Some(mean) = cell.result.mean(of_run) else {
        return Ok(None);
    };
    let begin = cell.requests.iter().map(|r| r.arrival_ms / 1e3);
    let begin = begin.fold(f64::INFINITY, f64::min);
    let mut readings = Vec::new();
    let mut next = begin + INDEPENDENT_S;
    for sample in (context.samples)(cell.result.index)? {
        let at = sample.at.as_secs_f64();
        if let Some(percent) = sample
            .reading
            .gpu_utilization_percent
            .filter(|_| at >= next)
        {
            readings.push(percent);
            next = at + INDEPENDENT_S;
        }
    }
    Ok(Some(Estimate {
        mean,
        error: Estimate::of_values(readings).and_then(|e| e.error),
    }))
}
