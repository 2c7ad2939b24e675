//! Where a model comes from: the binary itself, a folder, the Hugging Face hub, or a seed.

use std::path::Path;

use super::weights::Checkpoint;
use super::{Model, ModelError, ModelSpec, Tokenizer, Weights, hub};

/// The bundled model's files. They are part of the binary, which so runs anywhere.
mod bundled {
    pub const NAME: &str = "batchlab-shakespeare";
    pub const CONFIG: &[u8] = include_bytes!("../../models/batchlab-shakespeare/config.json");
    pub const TOKENIZER: &[u8] = include_bytes!("../../models/batchlab-shakespeare/tokenizer.json");
    pub const WEIGHTS: &[u8] =
        include_bytes!("../../models/batchlab-shakespeare/model.safetensors");
}

/// What may follow `dummy:`, with layers and channels.
pub const DUMMY_SHAPES: [(&str, usize, usize); 5] = [
    ("distilgpt2", 6, 768),
    ("gpt2", 12, 768),
    ("gpt2-medium", 24, 1024),
    ("gpt2-large", 36, 1280),
    ("gpt2-xl", 48, 1600),
];

/// Dummy weights are the same in every run.
const DUMMY_SEED: u64 = 0x6261_7463_686c_6162;

impl Model {
    /// Opens what `--model` names: nothing is the bundled model, `dummy:SHAPE` seeded weights of a
    /// real shape, else a folder in Hugging Face layout, else a model id on the hub.
    pub fn open(source: Option<&str>) -> Result<Self, ModelError> {
        let Some(asked) = source else {
            return Self::bundled();
        };
        if let Some(shape) = asked.strip_prefix("dummy:") {
            return Self::dummy(asked, shape);
        }
        let path = Path::new(asked);
        if path.is_dir() {
            return Self::folder(asked, path);
        }
        if path.exists() {
            let remedy = "give the folder that holds config.json, tokenizer.json and the weights";
            return Err(ModelError::source(asked, "is a file", remedy));
        }
        if !hub::is_model_id(asked) {
            let cause = "no such folder, and not a model id of the hub (NAME or OWNER/NAME)";
            return Err(ModelError::source(asked, cause, "check the path"));
        }
        let folder = hub::fetch(&hub::api(asked)?, asked)?;
        Self::folder(asked, &folder)
    }

    fn bundled() -> Result<Self, ModelError> {
        let path = Path::new(bundled::NAME);
        let spec =
            ModelSpec::from_config(bundled::NAME, &path.join("config.json"), bundled::CONFIG)?;
        let weights =
            Checkpoint::embedded(&path.join("model.safetensors"), bundled::WEIGHTS, &spec)?;
        Ok(Self {
            tokenizer: bundled_tokenizer(&spec)?,
            spec,
            weights: Weights::Stored(weights),
        })
    }

    fn dummy(asked: &str, shape: &str) -> Result<Self, ModelError> {
        let found = DUMMY_SHAPES.iter().find(|(name, ..)| *name == shape);
        let &(_, layers, channels) = found.ok_or_else(|| {
            let known = DUMMY_SHAPES
                .map(|(name, ..)| format!("dummy:{name}"))
                .join(", ");
            ModelError::source(
                asked,
                "no dummy model has this shape",
                format!("use one of {known}"),
            )
        })?;
        let spec = ModelSpec::gpt2(asked, layers, channels);
        Ok(Self {
            tokenizer: bundled_tokenizer(&spec)?,
            spec,
            weights: Weights::Seeded { seed: DUMMY_SEED },
        })
    }

    fn folder(name: &str, folder: &Path) -> Result<Self, ModelError> {
        let read = |file: &str| {
            let path = folder.join(file);
            match std::fs::read(&path) {
                Ok(bytes) => Ok((path, bytes)),
                Err(e) => Err(ModelError::file(
                    path,
                    format!("cannot be read ({e})"),
                    "give a folder in Hugging Face layout: config.json, tokenizer.json, safetensors",
                )),
            }
        };
        let (path, json) = read("config.json")?;
        let spec = ModelSpec::from_config(name, &path, &json)?;
        let (path, json) = read("tokenizer.json")?;
        Ok(Self {
            tokenizer: Tokenizer::from_json(&path, &json, spec.vocab)?,
            weights: Weights::Stored(Checkpoint::open(folder, &spec)?),
            spec,
        })
    }
}

/// GPT-2's tokenizer, which every shape above uses.
fn bundled_tokenizer(spec: &ModelSpec) -> Result<Tokenizer, ModelError> {
    let path = Path::new(bundled::NAME).join("tokenizer.json");
    Tokenizer::from_json(&path, bundled::TOKENIZER, spec.vocab)
}
