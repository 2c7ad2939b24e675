//! The command line that measures one setting again.

use super::Header;
use crate::sweep::{CellResult, LoadSpec, PolicyKind};

/// Repeats, so that the answer has an interval.
const RUNS: &str = "5";

/// `batchlab sweep …` for the setting and load of one cell, quoted for a shell.
pub fn remeasure(header: &Header, result: &CellResult) -> String {
    let cell = &result.cell;
    let mut words: Vec<String> = vec!["batchlab".into(), "sweep".into()];
    words.extend(header.engine_options.iter().cloned());
    let mut option = |name: &str, value: String| words.extend([name.to_string(), value]);
    if cell.policy != PolicyKind::Server {
        option("--policies", cell.policy.to_string());
        option("--batch-sizes", cell.batch_size.to_string());
    }
    let windows = match cell.policy {
        PolicyKind::Static | PolicyKind::Dynamic => {
            option("--padding", cell.padding.to_string());
            "--windows-ms"
        }
        PolicyKind::Continuous | PolicyKind::Server => "--prefill-windows-ms",
    };
    if let Some(window) = cell.window_ms {
        option(windows, window.to_string());
    }
    option("--output-len", cell.output_len.clone());
    match cell.load {
        LoadSpec::Closed { concurrency } => option("--max-concurrency", concurrency.to_string()),
        LoadSpec::Offline => option("--load", "offline".into()),
        LoadSpec::Poisson { burstiness, .. } | LoadSpec::Share { burstiness, .. } => {
            let rate = result.request_rate.unwrap_or_default();
            option("--request-rate", six_digits(rate));
            if burstiness != 1.0 {
                option("--burstiness", burstiness.to_string());
            }
        }
    }
    option("--num-runs", RUNS.into());
    let options = header.measure_options.chunks(2);
    let read = options.filter(|words| is_read(&words[0], cell.policy));
    words.extend(read.flatten().cloned());
    // One word, since a prompt may begin with a dash.
    let prompt = header.prompt_options.get(&cell.prompts);
    words.extend(prompt.map(|[name, value]| format!("{name}={value}")));
    shell_words::join(words)
}

/// A sweep refuses an option that is for other policies than its own.
fn is_read(option: &str, policy: PolicyKind) -> bool {
    match option {
        "--preferred-batch-size" => policy == PolicyKind::Dynamic,
        "--max-num-batched-tokens" => policy == PolicyKind::Continuous,
        _ => true,
    }
}

/// To six significant digits.
fn six_digits(rate: f64) -> String {
    let digits = (5.0 - rate.abs().log10().floor()).clamp(0.0, 12.0) as usize;
    format!("{rate:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::six_digits;

    #[test]
    fn rates_keep_six_digits() {
        for (rate, text) in [
            (712.076_123, "712.076"),
            (0.000_123_456_7, "0.000123457"),
            (1e6, "1000000"),
            (12.0, "12.0000"),
        ] {
            assert_eq!(six_digits(rate), text);
        }
    }
}
