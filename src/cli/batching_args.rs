//! How the prompts of `batchlab generate` run together.

use std::time::Duration;

use batchlab::Error;
use batchlab::batching::Continuous;
use clap::ValueEnum;

use super::at_least_one;

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Batching")]
pub struct BatchingArgs {
    /// static: all prompts as one batch; continuous: prompts join and leave between steps
    #[arg(long, default_value = "static", value_name = "POLICY")]
    policy: PolicyName,
    /// Prompts that run together under continuous, at most [default: all]
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    max_num_seqs: Option<usize>,
    /// Tokens of a step of continuous: one for each row that decodes, the rest for parts of prompts
    /// [default: 2048]
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    max_num_batched_tokens: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum PolicyName {
    Static,
    Continuous,
}

impl BatchingArgs {
    /// None: one static batch. Errors: a budget of tokens with which rows would stall, or an option
    /// that nothing reads.
    pub fn continuous(
        &self,
        prompts: usize,
        page_size: usize,
    ) -> Result<Option<Continuous>, Error> {
        if self.policy == PolicyName::Static {
            return self.nothing_for_continuous();
        }
        let policy = Continuous {
            max_num_seqs: self.max_num_seqs.map_or(prompts, |n| n.min(prompts)),
            max_num_batched_tokens: self
                .max_num_batched_tokens
                .unwrap_or(Continuous::MAX_NUM_BATCHED_TOKENS),
            prefill_window: Duration::ZERO,
        };
        match policy.check(page_size) {
            Ok(()) => Ok(Some(policy)),
            Err(e) => Err(Error::Usage(e.to_string())),
        }
    }

    fn nothing_for_continuous(&self) -> Result<Option<Continuous>, Error> {
        let options = [
            ("--max-num-seqs", self.max_num_seqs),
            ("--max-num-batched-tokens", self.max_num_batched_tokens),
        ];
        match options.iter().find(|(_, given)| given.is_some()) {
            None => Ok(None),
            Some((option, _)) => Err(Error::Usage(format!(
                "{option} is for continuous; add --policy continuous or leave the option out"
            ))),
        }
    }
}
