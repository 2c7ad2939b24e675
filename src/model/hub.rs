//! Models of the Hugging Face hub, through its usual cache.

use std::path::PathBuf;

use hf_hub::api::sync::{ApiBuilder, ApiError, ApiRepo};

use super::ModelError;
use super::weights::{INDEX, SINGLE, shards};

/// `NAME` or `OWNER/NAME`, as the hub allows them.
pub(super) fn is_model_id(text: &str) -> bool {
    let part = |p: &str| {
        p.starts_with(|c: char| c.is_ascii_alphanumeric())
            && p.chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    text.split('/').count() <= 2 && text.split('/').all(part)
}

/// The hub's client for one model, set up by the usual HF_HOME and HF_ENDPOINT.
pub(super) fn api(id: &str) -> Result<ApiRepo, ModelError> {
    let api = ApiBuilder::from_env().with_progress(true).build();
    Ok(api
        .map_err(|e| failed(id, "config.json", &e))?
        .model(id.to_owned()))
}

/// Fetches what is not in the cache yet and returns the folder that holds the files.
pub(super) fn fetch(api: &ApiRepo, id: &str) -> Result<PathBuf, ModelError> {
    let get = |file: &str| api.get(file).map_err(|e| failed(id, file, &e));
    let config = get("config.json")?;
    get("tokenizer.json")?;
    match api.get(SINGLE) {
        Err(e) if is_absent(&e) => {
            for shard in shards(&get(INDEX)?)? {
                get(&shard)?;
            }
        }
        other => {
            other.map_err(|e| failed(id, SINGLE, &e))?;
        }
    }
    Ok(config.with_file_name(""))
}

/// HTTP status of a refusal; the hub says 401 for a model that does not exist.
fn status(error: &ApiError) -> Option<u16> {
    match error {
        ApiError::RequestError(e) => match **e {
            ureq::Error::StatusCode(code) => Some(code),
            _ => None,
        },
        ApiError::TooManyRetries(e) => status(e),
        _ => None,
    }
}

fn is_absent(error: &ApiError) -> bool {
    matches!(status(error), Some(401 | 403 | 404))
}

fn failed(id: &str, file: &str, error: &ApiError) -> ModelError {
    if is_absent(error) {
        let cause =
            format!("no such folder here, and the hub offers no {file} under this name ({error})");
        let remedy = "check the name; a private or gated model needs the token of `hf auth login`";
        return ModelError::source(id, cause, remedy);
    }
    let cause =
        format!("no such folder here, and {file} could not be fetched from the hub ({error})");
    let remedy = "check the network, or give the folder of a downloaded model, or leave --model out \
                  to use the bundled one";
    ModelError::source(id, cause, remedy)
}
