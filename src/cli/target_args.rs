//! A server that is measured in place of the engine.

use batchlab::target::{Address, PromptForm};
use clap::ValueEnum;

#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "A server in place of the engine")]
pub struct TargetArgs {
    /// Measure the OpenAI-compatible server at this URL (batchlab, vLLM, llama.cpp, …) under the same
    /// loads. --model then names whose tokenizer makes token ids of prompts; GPU columns are those of
    /// --device where the server is on this machine
    #[arg(long, value_name = "URL", conflicts_with_all = OF_THE_ENGINE)]
    pub target: Option<Address>,
    /// The model that requests name [default: the first that the server has]
    #[arg(long, value_name = "NAME", requires = "target")]
    pub target_model: Option<String>,
    /// ids or text [default: ids, or text where the server refuses ids]
    #[arg(long, value_name = "FORM", requires = "target")]
    pub target_prompts: Option<Form>,
    /// Sent as a bearer token, and written nowhere [default: OPENAI_API_KEY of the environment]
    #[arg(long, value_name = "KEY", requires = "target")]
    api_key: Option<String>,
}

/// Options that say what a server decides itself.
const OF_THE_ENGINE: [&str; 14] = [
    "experiment",
    "policies",
    "batch_sizes",
    "windows_ms",
    "prefill_windows_ms",
    "max_num_batched_tokens",
    "preferred_batch_size",
    "padding",
    "max_queue_size",
    "dtype",
    "kv_block_size",
    "gpu_memory_utilization",
    "kv_cache_memory",
    "cublaslt",
];

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Form {
    Ids,
    Text,
}

impl From<Form> for PromptForm {
    fn from(form: Form) -> Self {
        match form {
            Form::Ids => Self::Ids,
            Form::Text => Self::Text,
        }
    }
}

impl TargetArgs {
    pub fn api_key(&self) -> Option<String> {
        let of_environment = || std::env::var("OPENAI_API_KEY").ok();
        let key = self.api_key.clone().or_else(of_environment);
        key.filter(|key| !key.is_empty())
    }
}

/// A command line without the key that may be in it.
pub fn without_key(command: impl Iterator<Item = String>) -> Vec<String> {
    let mut is_key = false;
    let hidden = |word: String| {
        let hide = std::mem::replace(&mut is_key, word == "--api-key");
        match (hide, word.split_once('=')) {
            (true, _) => "…".into(),
            (false, Some(("--api-key", _))) => "--api-key=…".into(),
            (false, _) => word,
        }
    };
    command.map(hidden).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_stands_in_no_report() {
        let words = "batchlab sweep --api-key sk-1 --api-key=sk-2 --seed 1";
        let kept = without_key(words.split(' ').map(String::from)).join(" ");
        assert_eq!(kept, "batchlab sweep --api-key … --api-key=… --seed 1");
    }
}
