//! The uses that settings are judged for (day2 §2.3).

use super::objective::Objective;
use super::slo::{Slo, SloMetric};
use crate::sweep::CellResult;

/// How requests come in a use, where the sweep measured it so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrivals {
    /// Users who do not wait for one another: open loads.
    Open,
    /// Work that is there: closed loops and offline.
    Backlog,
    Any,
}

/// A use with its limits and its objective.
#[derive(Debug, Clone, PartialEq)]
pub struct Scenario {
    pub name: &'static str,
    /// Where the limits come from.
    pub source: &'static str,
    pub arrivals: Arrivals,
    /// On the 99th percentile.
    pub slos: Vec<Slo>,
    pub objective: Objective,
    /// Decides between settings that the objective cannot tell apart.
    pub then: Objective,
}

impl Scenario {
    pub fn presets() -> [Self; 3] {
        let slo = |metric, limit_ms| Slo { metric, limit_ms };
        [
            Self {
                name: "real-time chat",
                source: "guidellm's chat limits",
                arrivals: Arrivals::Open,
                slos: vec![slo(SloMetric::Ttft, 200.0), slo(SloMetric::Itl, 50.0)],
                objective: Objective::Goodput,
                then: Objective::Latency,
            },
            Self {
                name: "API service",
                source: "MLPerf Server's limits for Llama-2-70B",
                arrivals: Arrivals::Open,
                slos: vec![slo(SloMetric::Ttft, 2000.0), slo(SloMetric::Tpot, 100.0)],
                objective: Objective::Goodput,
                then: Objective::Latency,
            },
            Self {
                name: "batch documents",
                source: "MLPerf Offline: no limit on latency",
                arrivals: Arrivals::Backlog,
                slos: vec![],
                objective: Objective::Throughput,
                then: Objective::Energy,
            },
        ]
    }

    /// The user's own.
    pub fn own(slos: Vec<Slo>, objective: Objective) -> Self {
        Self {
            name: "your own",
            source: "--goodput and --objective",
            arrivals: Arrivals::Any,
            slos,
            objective,
            then: Objective::Latency,
        }
    }

    /// "p99 TTFT ≤ 200 ms, p99 ITL ≤ 50 ms"
    pub fn limits(&self) -> String {
        match self.slos.is_empty() {
            true => "no limits".into(),
            false => {
                let limit = |s: &Slo| format!("p99 {} ≤ {} ms", s.metric, s.limit_ms);
                self.slos.iter().map(limit).collect::<Vec<_>>().join(", ")
            }
        }
    }

    pub(super) fn admits(&self, cell: &CellResult) -> bool {
        match self.arrivals {
            Arrivals::Open => cell.cell.load.is_open(),
            Arrivals::Backlog => !cell.cell.load.is_open(),
            Arrivals::Any => true,
        }
    }
}
