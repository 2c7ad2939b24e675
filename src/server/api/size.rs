//! How large an answer may become, by what is known before it is generated.

use super::error::ApiError;
use super::prompts::Fitted;

/// Of echoed prompts or log-probabilities. Until it is read, an answer is in memory several times over: as
/// values, as JSON, and on its way.
const MOST: usize = 64 << 20;
/// A token's name and log-probability in JSON.
const ENTRY: usize = 64;

/// Bytes of prompts that are told again, `n` times each. Errors: too many.
pub fn echo(texts: &[String], n: usize) -> Result<usize, ApiError> {
    let bytes = n * texts.iter().map(String::len).sum::<usize>();
    fits(
        "echo",
        bytes,
        "shorten the prompt, send fewer, or lower 'n'",
    )
}

/// Bytes of so many log-probabilities beside each token's own, which `field` asks for. Errors: too many.
pub fn logprobs(
    field: &str,
    top: Option<usize>,
    prompts: &[Fitted],
    n: usize,
) -> Result<usize, ApiError> {
    let of_token = top.map_or(0, |top| (top + 1) * ENTRY);
    let tokens = prompts.iter().map(|(_, tokens)| tokens).sum::<usize>();
    let remedy = format!("lower 'n', 'max_tokens' or '{field}', or send fewer prompts");
    fits(field, n * tokens * of_token, &remedy)
}

fn fits(field: &str, bytes: usize, remedy: &str) -> Result<usize, ApiError> {
    match bytes <= MOST {
        true => Ok(bytes),
        false => Err(ApiError::field(
            field,
            format!(
                "'{field}' would make an answer of some {} MiB, of at most {}: {remedy}",
                bytes.div_ceil(1 << 20),
                MOST >> 20
            ),
        )),
    }
}
