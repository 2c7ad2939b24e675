//! The options of `batchlab sweep` that span its grid.

use batchlab::Error;
use batchlab::batching::Continuous;
use batchlab::scheduler::Padding;
use batchlab::sweep::{Experiment, Grid, PolicyKind};
use clap::ValueEnum;

#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Grid (lists are separated by commas)")]
pub struct GridArgs {
    /// Sets whatever the options below leave open. day2: sizes × windows; few-requests: static
    /// against dynamic at 1, 10, 50 % of the closed loop; padding: mixed prompts, padded against
    /// ragged; idle-rows: mixed against equal outputs; mixed-lengths: mixed prompts and outputs, all
    /// there at once, under all three policies; saturation: all settings under the same loads, up
    /// to 110 % of what the largest batch serves
    #[arg(
        long,
        default_value = "day2",
        value_delimiter = ',',
        value_name = "LIST"
    )]
    pub experiment: Vec<ExperimentName>,
    /// static: a batch leaves when it is full; dynamic: also when its oldest request has waited for
    /// the window; continuous: requests join and leave between steps [default: dynamic]
    #[arg(
        long,
        visible_alias = "policy",
        value_delimiter = ',',
        value_name = "LIST"
    )]
    pub policies: Option<Vec<Policy>>,
    /// Requests that run together, at most; for continuous its --max-num-seqs [default: 1,4,8]
    #[arg(
        long,
        visible_alias = "max-num-seqs",
        value_delimiter = ',',
        value_name = "LIST",
        allow_hyphen_values = true
    )]
    pub batch_sizes: Option<Vec<usize>>,
    /// Wait windows of dynamic, from the oldest queued request; static has none [default: 0,10,50]
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "LIST",
        allow_hyphen_values = true
    )]
    pub windows_ms: Option<Vec<f64>>,
    /// Wait windows of continuous: while rows run, prefills start so long after the last ones
    /// [default: none is held back]
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "LIST",
        allow_hyphen_values = true
    )]
    pub prefill_windows_ms: Vec<f64>,
    /// Tokens of a step of continuous: one for each row that decodes, the rest for parts of prompts
    /// [default: 2048]
    #[arg(long, value_name = "N")]
    pub max_num_batched_tokens: Option<usize>,
    /// Batch sizes that dynamic lets go at once, without waiting for the window
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    pub preferred_batch_size: Vec<usize>,
    /// padded: rows padded to the batch's longest, computed and masked; ragged: nothing wasted
    /// [default: padded]
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    pub padding: Option<Vec<PaddingMode>>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum ExperimentName {
    Day2,
    FewRequests,
    Padding,
    IdleRows,
    MixedLengths,
    Saturation,
}

impl From<ExperimentName> for Experiment {
    fn from(name: ExperimentName) -> Self {
        match name {
            ExperimentName::Day2 => Self::Day2,
            ExperimentName::FewRequests => Self::FewRequests,
            ExperimentName::Padding => Self::Padding,
            ExperimentName::IdleRows => Self::IdleRows,
            ExperimentName::MixedLengths => Self::MixedLengths,
            ExperimentName::Saturation => Self::Saturation,
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Policy {
    Static,
    Dynamic,
    Continuous,
}

impl From<Policy> for PolicyKind {
    fn from(policy: Policy) -> Self {
        match policy {
            Policy::Static => Self::Static,
            Policy::Dynamic => Self::Dynamic,
            Policy::Continuous => Self::Continuous,
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum PaddingMode {
    Padded,
    Ragged,
}

impl From<PaddingMode> for Padding {
    fn from(mode: PaddingMode) -> Self {
        match mode {
            PaddingMode::Padded => Self::Padded,
            PaddingMode::Ragged => Self::Ragged,
        }
    }
}

impl GridArgs {
    /// Tokens of a continuous step.
    pub fn token_budget(&self) -> usize {
        self.max_num_batched_tokens
            .unwrap_or(Continuous::MAX_NUM_BATCHED_TOKENS)
    }

    /// Refuses an option that none of the grids' policies reads.
    pub fn check_read(&self, grids: &[Grid]) -> Result<(), Error> {
        use PolicyKind::{Continuous, Dynamic, Static};
        let continuous = ("continuous", [Continuous].as_slice());
        let dynamic = ("dynamic", [Dynamic].as_slice());
        let padding = ("static or dynamic", [Static, Dynamic].as_slice());
        let (budget, preferred) = (self.max_num_batched_tokens, &self.preferred_batch_size);
        for (option, is_given, (names, readers)) in [
            ("--windows-ms", self.windows_ms.is_some(), dynamic),
            ("--preferred-batch-size", !preferred.is_empty(), dynamic),
            (
                "--prefill-windows-ms",
                !self.prefill_windows_ms.is_empty(),
                continuous,
            ),
            ("--max-num-batched-tokens", budget.is_some(), continuous),
            ("--padding", self.padding.is_some(), padding),
        ] {
            let mut policies = grids.iter().flat_map(|grid| &grid.policies);
            if is_given && !policies.any(|policy| readers.contains(policy)) {
                return Err(Error::Usage(format!(
                    "{option} is for {names}; add that to --policies or leave the option out"
                )));
            }
        }
        Ok(())
    }
}
