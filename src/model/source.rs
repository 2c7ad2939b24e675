//! Where a model comes from: the binary itself, a folder, the Hugging Face hub, or a seed.

use std::path::{Path, PathBuf};

use super::config::Config;
use super::family::Family;
use super::weights::Checkpoint;
use super::{Model, ModelError, ModelSpec, Tokenizer, Weights, dummy, hub};

/// What a model's publisher generates with: it may end a sequence with other tokens than config.json,
/// and more of them.
pub(super) const GENERATION_CONFIG: &str = "generation_config.json";

/// The bundled model's files. They are part of the binary, which so runs anywhere.
mod bundled {
    use std::path::Path;

    use super::{Config, Family, ModelError, ModelSpec};

    pub const NAME: &str = "batchlab-shakespeare";
    pub const TOKENIZER: &[u8] = include_bytes!("../../models/batchlab-shakespeare/tokenizer.json");
    pub const WEIGHTS: &[u8] =
        include_bytes!("../../models/batchlab-shakespeare/model.safetensors");
    const CONFIG: &[u8] = include_bytes!("../../models/batchlab-shakespeare/config.json");

    pub fn spec() -> Result<(Family, ModelSpec), ModelError> {
        let path = Path::new(NAME).join("config.json");
        Family::read(NAME, &Config::parse(&path, CONFIG)?)
    }
}

/// Dummy weights are the same in every run.
const DUMMY_SEED: u64 = 0x6261_7463_686c_6162;

/// What `--model` names: nothing is the bundled model, `dummy:SHAPE` a real shape with no weights,
/// else a folder in Hugging Face layout, else a model id on the hub.
enum Source<'a> {
    Bundled,
    Dummy(ModelSpec),
    Folder { asked: &'a str, path: &'a Path },
    Hub { id: &'a str },
}

impl<'a> Source<'a> {
    fn parse(source: Option<&'a str>) -> Result<Self, ModelError> {
        let Some(asked) = source else {
            return Ok(Self::Bundled);
        };
        if let Some(shape) = asked.strip_prefix("dummy:") {
            return dummy::spec(asked, shape).map(Self::Dummy).ok_or_else(|| {
                let remedy = format!("use one of {}", dummy::names());
                ModelError::source(asked, "no dummy model has this shape", remedy)
            });
        }
        let path = Path::new(asked);
        if path.is_dir() {
            return Ok(Self::Folder { asked, path });
        }
        if path.exists() {
            let remedy = "give the folder that holds config.json, tokenizer.json and the weights";
            return Err(ModelError::source(asked, "is a file", remedy));
        }
        if !hub::is_model_id(asked) {
            let cause = "no such folder, and not a model id of the hub (NAME or OWNER/NAME)";
            return Err(ModelError::source(asked, cause, "check the path"));
        }
        Ok(Self::Hub { id: asked })
    }
}

impl ModelSpec {
    /// The spec of what `--model` names. Reads config.json and nothing else.
    ///
    /// # Errors
    /// No such model, a config.json that is missing or damaged, a family that is not known.
    pub fn open(source: Option<&str>) -> Result<Self, ModelError> {
        let folder = |name: &str, folder: &Path| {
            let (path, json) = read(folder, "config.json")?;
            Ok(Family::read(name, &Config::parse(&path, &json)?)?.1)
        };
        match Source::parse(source)? {
            Source::Bundled => Ok(bundled::spec()?.1),
            Source::Dummy(spec) => Ok(spec),
            Source::Folder { asked, path } => folder(asked, path),
            Source::Hub { id } => folder(id, &hub::fetch_config(&hub::api(id)?, id)?),
        }
    }
}

impl Tokenizer {
    /// The tokenizer of what `--model` names, and the model's shape. Reads no weights.
    ///
    /// # Errors
    /// No such model, a file that is missing or damaged, a family that is not known.
    pub fn open(source: Option<&str>) -> Result<(ModelSpec, Self), ModelError> {
        let folder = |name: &str, folder: &Path| {
            let (path, json) = read(folder, "config.json")?;
            let spec = Family::read(name, &Config::parse(&path, &json)?)?.1;
            let (path, json) = read(folder, "tokenizer.json")?;
            let tokenizer = Self::from_json(&path, &json, spec.vocab)?;
            Ok((spec, tokenizer))
        };
        match Source::parse(source)? {
            Source::Bundled => {
                let spec = bundled::spec()?.1;
                let path = Path::new(bundled::NAME).join("tokenizer.json");
                let tokenizer = Self::from_json(&path, bundled::TOKENIZER, spec.vocab)?;
                Ok((spec, tokenizer))
            }
            Source::Dummy(spec) => {
                let tokenizer = Self::stand_in(bundled::TOKENIZER, spec.vocab)?;
                Ok((spec, tokenizer))
            }
            Source::Folder { asked, path } => folder(asked, path),
            Source::Hub { id } => folder(id, &hub::fetch_tokenizer(&hub::api(id)?, id)?),
        }
    }
}

impl Model {
    /// Opens what `--model` names.
    ///
    /// # Errors
    /// No such model, a file that is missing or damaged, and what the runners do not have.
    pub fn open(source: Option<&str>) -> Result<Self, ModelError> {
        match Source::parse(source)? {
            Source::Bundled => Self::bundled(),
            Source::Dummy(spec) => Self::dummy(spec),
            Source::Folder { asked, path } => Self::folder(asked, path),
            Source::Hub { id } => Self::folder(id, &hub::fetch(&hub::api(id)?, id)?),
        }
    }

    fn bundled() -> Result<Self, ModelError> {
        let (family, spec) = bundled::spec()?;
        let weights = Path::new(bundled::NAME).join("model.safetensors");
        let tokenizer = Path::new(bundled::NAME).join("tokenizer.json");
        Ok(Self {
            tokenizer: Tokenizer::from_json(&tokenizer, bundled::TOKENIZER, spec.vocab)?,
            weights: Weights::Stored(Checkpoint::embedded(
                &weights,
                bundled::WEIGHTS,
                family,
                &spec,
            )?),
            spec,
            folder: None,
        })
    }

    fn dummy(spec: ModelSpec) -> Result<Self, ModelError> {
        Ok(Self {
            tokenizer: Tokenizer::stand_in(bundled::TOKENIZER, spec.vocab)?,
            weights: Weights::Seeded { seed: DUMMY_SEED },
            spec,
            folder: None,
        })
    }

    fn folder(name: &str, folder: &Path) -> Result<Self, ModelError> {
        let (path, json) = read(folder, "config.json")?;
        let (family, mut spec) = Family::read(name, &Config::parse(&path, &json)?)?;
        if let Some((path, json)) = read_if_there(folder, GENERATION_CONFIG)?
            && let Some(ids) = Config::parse(&path, &json)?.eos_tokens(spec.vocab)?
        {
            spec.eos_tokens = ids;
        }
        let (path, json) = read(folder, "tokenizer.json")?;
        Ok(Self {
            tokenizer: Tokenizer::from_json(&path, &json, spec.vocab)?,
            weights: Weights::Stored(Checkpoint::open(folder, family, &spec)?),
            spec,
            folder: Some(folder.to_owned()),
        })
    }
}

/// A file of a model's folder, with its path.
fn read(folder: &Path, file: &str) -> Result<(PathBuf, Vec<u8>), ModelError> {
    let path = folder.join(file);
    match std::fs::read(&path) {
        Ok(bytes) => Ok((path, bytes)),
        Err(e) => Err(ModelError::file(
            path,
            format!("cannot be read ({e})"),
            "give a folder in Hugging Face layout: config.json, tokenizer.json, safetensors",
        )),
    }
}

/// A file that not every model's folder has.
pub(super) fn read_if_there(
    folder: &Path,
    file: &str,
) -> Result<Option<(PathBuf, Vec<u8>)>, ModelError> {
    match folder.join(file).exists() {
        true => read(folder, file).map(Some),
        false => Ok(None),
    }
}
