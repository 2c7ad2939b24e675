//! The command line that measures one setting again.

use super::Header;
use crate::sweep::{CellResult, LoadSpec};

/// Repeats, so that the answer has an interval.
const RUNS: &str = "5";

/// `batchlab sweep …` for the setting and load of one cell, quoted for a shell.
pub fn remeasure(header: &Header, result: &CellResult) -> String {
    let cell = &result.cell;
    let mut words: Vec<String> = vec!["batchlab".into(), "sweep".into()];
    words.extend(header.engine_options.iter().cloned());
    let mut option = |name: &str, value: String| words.extend([name.to_string(), value]);
    option("--policies", cell.policy.to_string());
    option("--batch-sizes", cell.batch_size.to_string());
    if let Some(window) = cell.window_ms {
        option("--windows-ms", window.to_string());
    }
    option("--padding", cell.padding.to_string());
    option("--output-len", cell.output_len.clone());
    match cell.load {
        LoadSpec::Closed { concurrency } => option("--max-concurrency", concurrency.to_string()),
        LoadSpec::Offline => option("--load", "offline".into()),
        LoadSpec::Poisson { burstiness, .. } | LoadSpec::Share { burstiness, .. } => {
            let rate = result.request_rate.unwrap_or_default();
            option("--request-rate", format!("{rate:.3}"));
            if burstiness != 1.0 {
                option("--burstiness", burstiness.to_string());
            }
        }
    }
    option("--num-runs", RUNS.into());
    let prompts = header.prompt_options.get(&cell.prompts);
    words.extend(prompts.into_iter().flatten().cloned());
    shell_words::join(words)
}
