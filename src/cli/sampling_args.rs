//! How the next token is chosen.

use batchlab::sampling::Sampling;

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Sampling")]
pub struct SamplingArgs {
    /// Logits are divided by it before a token is drawn; 0 = greedy: the most probable token, so that
    /// --top-k, --top-p and --seed change nothing
    #[arg(long, default_value_t = 0.0, value_name = "T", value_parser = temperature, allow_negative_numbers = true)]
    temperature: f32,
    /// Draw from the K most probable tokens only; 0 = all
    #[arg(long, default_value_t = 0, value_name = "K", value_parser = top_k, allow_negative_numbers = true)]
    top_k: u32,
    /// Draw from the smallest set of most probable tokens whose probability reaches P; 1 = all
    #[arg(long, default_value_t = 1.0, value_name = "P", value_parser = top_p, allow_negative_numbers = true)]
    top_p: f32,
    /// Divide the positive logits of tokens that are in the prompt or the output by P, multiply the
    /// negative ones; above 1 repeats less, 1 = off
    #[arg(long, default_value_t = 1.0, value_name = "P", value_parser = penalty, allow_negative_numbers = true)]
    repetition_penalty: f32,
    /// Seed of the draws; the same seed gives the same text
    #[arg(long, default_value_t = 0, value_name = "N", value_parser = seed, allow_negative_numbers = true)]
    seed: u64,
}

impl From<&SamplingArgs> for Sampling {
    fn from(args: &SamplingArgs) -> Self {
        Self {
            temperature: args.temperature,
            top_k: args.top_k,
            top_p: args.top_p,
            repetition_penalty: args.repetition_penalty,
            seed: args.seed,
        }
    }
}

fn temperature(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(t) if Sampling::is_temperature(t) => Ok(t),
        _ => Err(format!(
            "give 0 or a number from {:?} on",
            Sampling::LOWEST_TEMPERATURE
        )),
    }
}

fn top_k(text: &str) -> Result<u32, String> {
    let wrong = |_| "give a whole number of at least 0; 0 = all tokens".into();
    text.parse().map_err(wrong)
}

fn top_p(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(p) if p > 0.0 && p <= 1.0 => Ok(p),
        _ => Err("give a number above 0 and up to 1".into()),
    }
}

fn penalty(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(p) if p.is_finite() && p > 0.0 => Ok(p),
        _ => Err("give a number above 0; 1 = no penalty".into()),
    }
}

fn seed(text: &str) -> Result<u64, String> {
    let wrong = |_| format!("give a whole number from 0 to {}", u64::MAX);
    text.parse().map_err(wrong)
}
