//! Where a model's folder keeps its chat template and the special tokens that the template writes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::model::ModelError;
use crate::model::config::Config;
use crate::model::source::read_if_there;

pub(super) const REMEDY: &str = "copy the model's original file again, or leave out --chat";

/// The template's source and the file it is from. transformers 5 writes chat_template.jinja, older
/// versions a key of tokenizer_config.json, processors a chat_template.json.
pub(super) fn template(folder: &Path) -> Result<Option<(PathBuf, String)>, ModelError> {
    if let Some((path, bytes)) = read_if_there(folder, "chat_template.jinja")? {
        let source = text(&path, bytes)?;
        return Ok(Some((path, source)));
    }
    for file in ["tokenizer_config.json", "chat_template.json"] {
        if let Some((path, json)) = read_if_there(folder, file)?
            && let Some(source) = default_template(&Config::parse(&path, &json)?)?
        {
            return Ok(Some((path, source)));
        }
    }
    Ok(None)
}

/// The template in a file of its own.
pub(super) fn source(path: &Path) -> Result<String, ModelError> {
    let bytes = std::fs::read(path).map_err(|e| {
        let remedy = "give a file that holds a Jinja chat template";
        ModelError::file(path, format!("cannot be read ({e})"), remedy)
    })?;
    text(path, bytes)
}

fn text(path: &Path, bytes: Vec<u8>) -> Result<String, ModelError> {
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        ModelError::file(path, format!("is not UTF-8 at byte {at}"), REMEDY)
    })
}

/// One template, or the one named "default" of several.
fn default_template(config: &Config<'_>) -> Result<Option<String>, ModelError> {
    let key = "chat_template";
    let Some(value) = config.given(key) else {
        return Ok(None);
    };
    let is_default = |named: &&Value| named["name"] == "default";
    let template = match value {
        Value::Array(all) => all.iter().find(is_default).map(|named| &named["template"]),
        one => Some(one),
    };
    match template.and_then(Value::as_str) {
        Some(source) => Ok(Some(source.to_owned())),
        None => {
            let expected = "a text, or a list of {name, template} with one named \"default\"";
            let found = match value {
                Value::Array(all) => {
                    let names: Vec<_> = all.iter().map(|n| n["name"].to_string()).collect();
                    format!("a list of {}", names.join(", "))
                }
                other => other.to_string(),
            };
            Err(config.error(key, found, expected))
        }
    }
}

/// `bos_token`, `eos_token` and the like, each a text or an object with the text as its "content".
pub(super) fn special_tokens(folder: &Path) -> Result<BTreeMap<String, String>, ModelError> {
    let mut tokens = BTreeMap::new();
    // The later file is the one transformers goes by.
    for file in ["special_tokens_map.json", "tokenizer_config.json"] {
        if let Some((path, json)) = read_if_there(folder, file)? {
            for (key, value) in Config::parse(&path, &json)?.entries() {
                if let Some(text) = value.as_str().or(value["content"].as_str())
                    && key.ends_with("_token")
                {
                    tokens.insert(key.clone(), text.to_owned());
                }
            }
        }
    }
    Ok(tokens)
}
