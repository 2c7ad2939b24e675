//! Models of the Hugging Face hub, through its usual cache.

use std::path::{Path, PathBuf};

use hf_hub::api::sync::{ApiBuilder, ApiError, ApiRepo};

use super::ModelError;
use super::source::GENERATION_CONFIG;
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

/// Fetches config.json alone, unless it is in the cache, and returns the folder that holds it.
pub(super) fn fetch_config(api: &ApiRepo, id: &str) -> Result<PathBuf, ModelError> {
    let config = api.get("config.json");
    Ok(config
        .map_err(|e| failed(id, "config.json", &e))?
        .with_file_name(""))
}

/// Fetches what is not in the cache yet and returns the folder that holds the files.
pub(super) fn fetch(api: &ApiRepo, id: &str) -> Result<PathBuf, ModelError> {
    let get = |file: &str| api.get(file).map_err(|e| failed(id, file, &e));
    let folder = fetch_config(api, id)?;
    get("tokenizer.json")?;
    match api.get(GENERATION_CONFIG) {
        Err(e) if !is_absent(&e) && !has_weights(&folder) => {
            return Err(failed(id, GENERATION_CONFIG, &e));
        }
        // Not every model has one. Weights are fetched last: beside those of the cache it is known
        // to be absent, with or without a network.
        _ => {}
    }
    // An index in the cache says that the weights are sharded; asking for the single file, which
    // is in no cache, would need the network.
    let sharded = folder.join(INDEX).exists()
        || match api.get(SINGLE) {
            Ok(_) => false,
            Err(e) if is_absent(&e) => true,
            Err(e) => return Err(failed(id, SINGLE, &e)),
        };
    if sharded {
        for shard in shards(&get(INDEX)?)? {
            get(&shard)?;
        }
    }
    Ok(folder)
}

fn has_weights(folder: &Path) -> bool {
    folder.join(SINGLE).exists() || folder.join(INDEX).exists()
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

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::model::Model;

    /// A hub of one model, `owner/tiny`: the files of a fixture, served as the hub serves them.
    fn serve(fixture: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                answer(stream.unwrap(), fixture);
            }
        });
        address
    }

    fn answer(mut stream: TcpStream, fixture: &str) {
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
        let request = lines.next().unwrap().unwrap();
        let headers: Vec<String> = lines
            .map_while(Result::ok)
            .take_while(|l| !l.is_empty())
            .collect();
        let file = request
            .split(' ')
            .nth(1)
            .unwrap()
            .strip_prefix("/owner/tiny/resolve/main/");
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/fixtures")
            .join(fixture);
        let found = file.and_then(|f| Some((f, std::fs::read(folder.join(f)).ok()?)));
        let Some((file, bytes)) = found else {
            let text = "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            return stream.write_all(text.as_bytes()).unwrap();
        };
        let wants_size = headers
            .iter()
            .any(|h| h.to_lowercase() == "range: bytes=0-0");
        let body = if wants_size { &bytes[..1] } else { &bytes[..] };
        let head = format!(
            "HTTP/1.1 206 Partial Content\r\nx-repo-commit: c0ffee\r\netag: \"{file}\"\r\ncontent-length: {}\r\n\
             content-range: bytes 0-{}/{}\r\nconnection: close\r\n\r\n",
            body.len(),
            body.len() - 1,
            bytes.len(),
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body).unwrap();
    }

    fn api_of(endpoint: &str, cache: &Path, id: &str) -> ApiRepo {
        let builder = ApiBuilder::new()
            .with_endpoint(endpoint.to_owned())
            .with_cache_dir(cache.to_owned());
        let api = builder.with_progress(false).build().unwrap();
        api.model(id.to_owned())
    }

    fn fetch_from(endpoint: &str, cache: &Path, id: &str) -> Result<PathBuf, ModelError> {
        fetch(&api_of(endpoint, cache, id), id)
    }

    #[test]
    fn model_ids() {
        for id in ["distilgpt2", "openai-community/gpt2", "a/B_c.d-1"] {
            assert!(is_model_id(id), "{id}");
        }
        for path in [
            "", "/gpt2", "./gpt2", "../gpt2", "a/b/c", "gpt2/", "~/gpt2", "a b", "C:\\gpt2",
        ] {
            assert!(!is_model_id(path), "{path}");
        }
    }

    #[test]
    fn a_hub_model_is_fetched_once_and_then_opens_offline() {
        for fixture in ["gpt2-f32", "gpt2-sharded", "llama-sharded"] {
            let cache = tempfile::tempdir().unwrap();
            let folder = fetch_from(&serve(fixture), cache.path(), "owner/tiny").unwrap();
            let eos = Model::open(folder.to_str()).unwrap().spec.eos_tokens;
            // The Llama's come from its generation_config.json; the others have none.
            assert_eq!(eos.len(), if fixture == "llama-sharded" { 3 } else { 1 });
            let offline = fetch_from("http://127.0.0.1:9", cache.path(), "owner/tiny");
            assert_eq!(offline.unwrap(), folder);
        }
    }

    #[test]
    fn planning_fetches_config_json_alone() {
        let cache = tempfile::tempdir().unwrap();
        let api = api_of(&serve("gpt2-f32"), cache.path(), "owner/tiny");
        let folder = fetch_config(&api, "owner/tiny").unwrap();
        let files: Vec<_> = std::fs::read_dir(folder).unwrap().flatten().collect();
        assert_eq!(files.len(), 1);
        assert_eq!(files[0].file_name(), "config.json");
    }

    #[test]
    fn an_unknown_model_and_a_missing_network_are_told_apart() {
        let cache = tempfile::tempdir().unwrap();
        let unknown = fetch_from(&serve("gpt2-f32"), cache.path(), "owner/other")
            .unwrap_err()
            .to_string();
        for part in [
            "owner/other",
            "no such folder",
            "offers no config.json",
            "404",
            "check the name",
        ] {
            assert!(unknown.contains(part), "{part:?} is not in: {unknown}");
        }
        let offline = fetch_from("http://127.0.0.1:9", cache.path(), "owner/tiny")
            .unwrap_err()
            .to_string();
        for part in [
            "owner/tiny",
            "could not be fetched",
            "check the network",
            "--model",
        ] {
            assert!(offline.contains(part), "{part:?} is not in: {offline}");
        }
        assert!(!unknown.contains('\n') && !offline.contains('\n'));
    }
}
