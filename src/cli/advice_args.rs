//! A use of the user's own, beside the presets.

use batchlab::analysis::{Objective, Scenario, Slo};
use clap::ValueEnum;

#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Advice (beside real-time chat, API service and batch documents)")]
pub struct AdviceArgs {
    /// Limits in ms on p99, such as ttft:200 tpot:50 itl:50 e2el:2000
    #[arg(long, value_name = "LIMIT", num_args = 1..)]
    goodput: Vec<Slo>,
    /// What the pick is best in [default: goodput if there are limits]
    #[arg(long, value_name = "OBJECTIVE")]
    objective: Option<ObjectiveName>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ObjectiveName {
    /// Output tokens per second
    Throughput,
    /// Requests per second within the limits
    Goodput,
    /// Least energy of an output token
    Energy,
    /// Least mean latency
    Latency,
}

impl AdviceArgs {
    /// None where nothing was asked for.
    pub fn own(&self) -> Option<Scenario> {
        let objective = match self.objective {
            None if self.goodput.is_empty() => return None,
            None | Some(ObjectiveName::Goodput) => Objective::Goodput,
            Some(ObjectiveName::Throughput) => Objective::Throughput,
            Some(ObjectiveName::Energy) => Objective::Energy,
            Some(ObjectiveName::Latency) => Objective::Latency,
        };
        Some(Scenario::own(self.goodput.clone(), objective))
    }
}
