//! Models of the Hugging Face hub, through its usual cache.

use std::path::PathBuf;

use hf_hub::api::sync::{ApiBuilder, ApiError, ApiRepo};

use super::ModelError;
use super::source::GENERATION_CONFIG;
use super::weights::{INDEX, SINGLE, shards};

/// Files that not every model has.
const OPTIONAL: [&str; 5] = [
    GENERATION_CONFIG,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
];

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

/// Fetches config.json and tokenizer.json, and returns the folder that holds them.
pub(super) fn fetch_tokenizer(api: &ApiRepo, id: &str) -> Result<PathBuf, ModelError> {
    let file = "tokenizer.json";
    let folder = fetch_config(api, id)?;
    api.get(file).map_err(|e| failed(id, file, &e))?;
    Ok(folder)
}

/// Fetches what is not in the cache yet and returns the folder that holds the files.
pub(super) fn fetch(api: &ApiRepo, id: &str) -> Result<PathBuf, ModelError> {
    let get = |file: &str| api.get(file).map_err(|e| failed(id, file, &e));
    let get_if_there = |file: &str| match api.get(file) {
        Ok(_) => Ok(true),
        Err(e) if is_absent(&e) => Ok(false),
        Err(e) => Err(failed(id, file, &e)),
    };
    let folder = fetch_tokenizer(api, id)?;
    // A file that the hub does not have is in no cache, and asking for it again would need the
    // network: weights in the cache say that the optional files were asked for before them, and an
    // index that there is no single file.
    let sharded = folder.join(INDEX).exists();
    if !sharded && !folder.join(SINGLE).exists() {
        for file in OPTIONAL {
            get_if_there(file)?;
        }
    }
    if sharded || !get_if_there(SINGLE)? {
        for shard in shards(&get(INDEX)?)? {
            get(&shard)?;
        }
    }
    Ok(folder)
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
    use std::path::Path;

    use super::*;
    use crate::model::{Message, Model};

    fn fixture(name: &str) -> PathBuf {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
        fixtures.join(name)
    }

    /// A hub of one model, `owner/tiny`: the files of a folder, served as the hub serves them.
    fn serve(folder: PathBuf) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                answer(stream.unwrap(), &folder);
            }
        });
        address
    }

    fn answer(mut stream: TcpStream, folder: &Path) {
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
        for name in ["gpt2-f32", "gpt2-sharded", "llama-sharded"] {
            let cache = tempfile::tempdir().unwrap();
            let folder = fetch_from(&serve(fixture(name)), cache.path(), "owner/tiny").unwrap();
            let eos = Model::open(folder.to_str()).unwrap().spec.eos_tokens;
            // The Llama's come from its generation_config.json; the others have none.
            assert_eq!(eos.len(), if name == "llama-sharded" { 3 } else { 1 });
            let offline = fetch_from("http://127.0.0.1:9", cache.path(), "owner/tiny");
            assert_eq!(offline.unwrap(), folder);
        }
    }

    #[test]
    fn the_chat_template_is_fetched_where_there_is_one() {
        let model = tempfile::tempdir().unwrap();
        for from in [fixture("gpt2-f32"), fixture("chat/llama3")] {
            for entry in std::fs::read_dir(from).unwrap().flatten() {
                std::fs::copy(entry.path(), model.path().join(entry.file_name())).unwrap();
            }
        }
        let cache = tempfile::tempdir().unwrap();
        let hub = serve(model.path().to_owned());
        let folder = fetch_from(&hub, cache.path(), "owner/tiny").unwrap();
        let model = Model::open(folder.to_str()).unwrap();
        let text = model
            .chat_template()
            .unwrap()
            .render(&[Message::user("Hi")]);
        assert!(text.unwrap().starts_with("<|begin_of_text|>"));
    }

    #[test]
    fn planning_fetches_config_json_alone() {
        let cache = tempfile::tempdir().unwrap();
        let api = api_of(&serve(fixture("gpt2-f32")), cache.path(), "owner/tiny");
        let folder = fetch_config(&api, "owner/tiny").unwrap();
        let files: Vec<_> = std::fs::read_dir(folder).unwrap().flatten().collect();
        assert_eq!(files.len(), 1);
        assert_eq!(files[0].file_name(), "config.json");
    }

    #[test]
    fn an_unknown_model_and_a_missing_network_are_told_apart() {
        let cache = tempfile::tempdir().unwrap();
        let unknown = fetch_from(&serve(fixture("gpt2-f32")), cache.path(), "owner/other")
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
