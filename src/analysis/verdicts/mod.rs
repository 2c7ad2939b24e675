//! day2's expectations (§5.3, §6), each tested by the data of a sweep.

mod batch_size;
mod waiting;
mod waste;

use std::fmt;

use super::estimate::Estimate;
use super::scaling::ScalingPoint;
use crate::sweep::{Measured, PolicyKind};

/// What the data say to a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ruling {
    Holds,
    DoesNotHold,
    CannotTell,
}

impl fmt::Display for Ruling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Holds => "holds",
            Self::DoesNotHold => "does not hold",
            Self::CannotTell => "cannot be told from this data",
        })
    }
}

/// A claim, tested.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// Where day2 makes the claim.
    pub section: &'static str,
    pub claim: String,
    pub ruling: Ruling,
    /// What was measured, with intervals.
    pub numbers: String,
    pub why: String,
}

/// What the claims are tested on.
pub struct Evidence<'a> {
    pub cells: &'a [Measured],
    /// Cells that differ in the batch size alone, ascending; empty without two sizes.
    pub ladder: &'a [&'a Measured],
    pub scaling: &'a [ScalingPoint],
    /// Peak of the KV cache for each cell of the ladder that knows it, in bytes.
    pub kv_bytes: &'a [(&'a Measured, f64)],
    /// Utilisation of each cell of the ladder; none where no GPU was watched.
    pub gpu_utilization: &'a [(usize, Option<Estimate>)],
}

/// Every claim, in day2's order. None of a server, which keeps its batches to itself.
pub fn verdicts(evidence: &Evidence<'_>) -> Vec<Verdict> {
    let is_server = |c: &Measured| c.result.cell.policy == PolicyKind::Server;
    if !evidence.cells.is_empty() && evidence.cells.iter().all(is_server) {
        return Vec::new();
    }
    vec![
        batch_size::swallows(evidence.scaling),
        batch_size::trades_off(evidence.ladder),
        waiting::static_explodes(evidence.cells),
        waiting::window_balances(evidence.cells),
        waste::padding_costs_something(evidence.cells),
        batch_size::kv_grows_linearly(evidence.ladder, evidence.kv_bytes),
        waste::idle_rows_cost(evidence.cells),
        waste::continuous_fills_them(evidence.cells),
        batch_size::smallest_is_fastest(evidence.ladder),
        batch_size::largest_has_most_throughput(evidence.ladder),
        batch_size::largest_uses_the_gpu_most(evidence.gpu_utilization),
    ]
}

/// Not tested: what is missing, and the sweep that has it.
fn untested(section: &'static str, claim: impl Into<String>, missing: &str) -> Verdict {
    Verdict {
        section,
        claim: claim.into(),
        ruling: Ruling::CannotTell,
        numbers: "–".into(),
        why: missing.into(),
    }
}

const NO_LADDER: &str = "the sweep has no two batch sizes that differ in nothing else";
const INCOMPLETE: &str = "a batch size has no completed request, or ran no full batch";
const NO_INTERVAL: &str =
    "an interval is missing or holds zero: repeat with --num-runs 5, or with more --num-prompts";
