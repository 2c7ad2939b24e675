//! Where a model comes from: the binary itself, a folder, the Hugging Face hub, or a seed.

use std::path::{Path, PathBuf};

use super::config::Config;
use super::llama::{self, Llama};
use super::weights::Checkpoint;
use super::{Model, ModelError, ModelSpec, Tokenizer, Weights, hub};

/// The bundled model's files. They are part of the binary, which so runs anywhere.
pub(super) mod bundled {
    use std::path::{Path, PathBuf};

    pub const NAME: &str = "batchlab-shakespeare";
    pub const TOKENIZER: &[u8] = include_bytes!("../../models/batchlab-shakespeare/tokenizer.json");
    pub const WEIGHTS: &[u8] =
        include_bytes!("../../models/batchlab-shakespeare/model.safetensors");

    /// config.json, under the path that errors name.
    pub fn config() -> (PathBuf, &'static [u8]) {
        (
            Path::new(NAME).join("config.json"),
            include_bytes!("../../models/batchlab-shakespeare/config.json"),
        )
    }
}

/// Layers and channels of a GPT-2.
#[derive(Debug, Clone, Copy)]
pub(super) struct Gpt2Size(usize, usize);

impl Gpt2Size {
    pub(super) fn spec(self, name: &str) -> ModelSpec {
        ModelSpec::gpt2(name, self.0, self.1)
    }
}

/// What may follow `dummy:`, besides the Llama family's.
const GPT2_SHAPES: [(&str, Gpt2Size); 5] = [
    ("distilgpt2", Gpt2Size(6, 768)),
    ("gpt2", Gpt2Size(12, 768)),
    ("gpt2-medium", Gpt2Size(24, 1024)),
    ("gpt2-large", Gpt2Size(36, 1280)),
    ("gpt2-xl", Gpt2Size(48, 1600)),
];

/// Dummy weights are the same in every run.
const DUMMY_SEED: u64 = 0x6261_7463_686c_6162;

/// What `--model` names: nothing is the bundled model, `dummy:SHAPE` a real shape with no weights,
/// else a folder in Hugging Face layout, else a model id on the hub.
pub(super) enum Source<'a> {
    Bundled,
    Gpt2 { asked: &'a str, size: Gpt2Size },
    Llama { asked: &'a str, size: Llama },
    Folder { asked: &'a str, path: &'a Path },
    Hub { id: &'a str },
}

impl<'a> Source<'a> {
    pub(super) fn parse(source: Option<&'a str>) -> Result<Self, ModelError> {
        let Some(asked) = source else {
            return Ok(Self::Bundled);
        };
        if let Some(shape) = asked.strip_prefix("dummy:") {
            return Self::dummy(asked, shape);
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

    fn dummy(asked: &'a str, shape: &str) -> Result<Self, ModelError> {
        if let Some(&(_, size)) = GPT2_SHAPES.iter().find(|(name, _)| *name == shape) {
            return Ok(Self::Gpt2 { asked, size });
        }
        if let Some(&(_, size)) = llama::SHAPES.iter().find(|(name, _)| *name == shape) {
            return Ok(Self::Llama { asked, size });
        }
        let names = llama::SHAPES.iter().map(|(name, _)| name);
        let cause = "no dummy model has this shape";
        let remedy = format!(
            "use one of {}, or with `batchlab plan` also {}",
            dummies(GPT2_SHAPES.iter().map(|(name, _)| name)),
            dummies(names)
        );
        Err(ModelError::source(asked, cause, remedy))
    }
}

fn dummies<'a>(names: impl Iterator<Item = &'a &'a str>) -> String {
    let names: Vec<String> = names.map(|name| format!("dummy:{name}")).collect();
    names.join(", ")
}

impl Model {
    /// Opens what `--model` names.
    pub fn open(source: Option<&str>) -> Result<Self, ModelError> {
        match Source::parse(source)? {
            Source::Bundled => Self::bundled(),
            Source::Gpt2 { asked, size } => Self::dummy(size.spec(asked)),
            Source::Llama { asked, .. } => Err(ModelError::source(
                asked,
                "the Llama family cannot be run yet, only sized by `batchlab plan`",
                format!(
                    "use one of {}",
                    dummies(GPT2_SHAPES.iter().map(|(name, _)| name))
                ),
            )),
            Source::Folder { asked, path } => Self::folder(asked, path),
            Source::Hub { id } => Self::folder(id, &hub::fetch(&hub::api(id)?, id)?),
        }
    }

    fn bundled() -> Result<Self, ModelError> {
        let (path, json) = bundled::config();
        let spec = ModelSpec::from_config(bundled::NAME, &Config::parse(&path, json)?)?;
        let path = path.with_file_name("model.safetensors");
        let weights = Checkpoint::embedded(&path, bundled::WEIGHTS, &spec)?;
        Ok(Self {
            tokenizer: bundled_tokenizer(&spec)?,
            spec,
            weights: Weights::Stored(weights),
            folder: None,
        })
    }

    fn dummy(spec: ModelSpec) -> Result<Self, ModelError> {
        Ok(Self {
            tokenizer: bundled_tokenizer(&spec)?,
            spec,
            weights: Weights::Seeded { seed: DUMMY_SEED },
            folder: None,
        })
    }

    fn folder(name: &str, folder: &Path) -> Result<Self, ModelError> {
        let (path, json) = read(folder, "config.json")?;
        let spec = ModelSpec::from_config(name, &Config::parse(&path, &json)?)?;
        let (path, json) = read(folder, "tokenizer.json")?;
        Ok(Self {
            tokenizer: Tokenizer::from_json(&path, &json, spec.vocab)?,
            weights: Weights::Stored(Checkpoint::open(folder, &spec)?),
            spec,
            folder: Some(folder.to_owned()),
        })
    }
}

/// A file of a model's folder, with its path.
pub(super) fn read(folder: &Path, file: &str) -> Result<(PathBuf, Vec<u8>), ModelError> {
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

/// GPT-2's tokenizer, which every shape above uses.
fn bundled_tokenizer(spec: &ModelSpec) -> Result<Tokenizer, ModelError> {
    let path = Path::new(bundled::NAME).join("tokenizer.json");
    Tokenizer::from_json(&path, bundled::TOKENIZER, spec.vocab)
}
