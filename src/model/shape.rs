//! How large a model is, from its config.json alone: enough to plan memory before loading.

use std::path::Path;

use super::config::Config;
use super::llama::{FAMILIES, Llama};
use super::source::{Source, bundled, read};
use super::{ModelError, ModelSpec, Param, hub};
use crate::kv::KvLayout;

/// The sizes that memory depends on. Families that no runner has yet have them too.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelShape {
    /// What the user called it.
    pub name: String,
    pub layers: usize,
    /// Hkv, key and value heads.
    pub kv_heads: usize,
    /// D, the width of a head.
    pub head_dim: usize,
    /// The longest context.
    pub max_positions: usize,
    /// Elements of all parameters; a tied head is counted once.
    pub parameters: u64,
    /// Everything else, for a family that the runners have.
    pub spec: Option<ModelSpec>,
}

impl ModelShape {
    /// The shape of what `--model` names. Reads config.json and nothing else.
    ///
    /// # Errors
    /// No such model, a config.json that is missing or damaged, a family that is not known.
    pub fn open(source: Option<&str>) -> Result<Self, ModelError> {
        match Source::parse(source)? {
            Source::Bundled => {
                let (path, json) = bundled::config();
                Self::from_config(bundled::NAME, &path, json)
            }
            Source::Gpt2 { asked, size } => Ok(size.spec(asked).into()),
            Source::Llama { asked, size } => Ok(size.shape(asked)),
            Source::Folder { asked, path } => Self::folder(asked, path),
            Source::Hub { id } => Self::folder(id, &hub::fetch_config(&hub::api(id)?, id)?),
        }
    }

    fn folder(name: &str, folder: &Path) -> Result<Self, ModelError> {
        let (path, json) = read(folder, "config.json")?;
        Self::from_config(name, &path, &json)
    }

    fn from_config(name: &str, path: &Path, json: &[u8]) -> Result<Self, ModelError> {
        let config = Config::parse(path, json)?;
        let known: Vec<&str> = ["gpt2"].into_iter().chain(FAMILIES).collect();
        match config.one_of("model_type", &known)? {
            "gpt2" => Ok(ModelSpec::from_config(name, &config)?.into()),
            _ => Ok(Llama::from_config(&config)?.shape(name)),
        }
    }

    /// The KV cache in pages of `page_size` positions.
    pub fn kv_layout(&self, page_size: usize, bytes_per_element: usize) -> KvLayout {
        KvLayout {
            layers: self.layers,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            page_size,
            bytes_per_element,
        }
    }
}

impl From<ModelSpec> for ModelShape {
    fn from(spec: ModelSpec) -> Self {
        Self {
            name: spec.name.clone(),
            layers: spec.layers,
            kv_heads: spec.kv_heads,
            head_dim: spec.head_dim,
            max_positions: spec.max_positions,
            parameters: Param::all(&spec).map(|p| p.count(&spec) as u64).sum(),
            spec: Some(spec),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// Totals that Hugging Face prints for these models (safetensors' parameter counts).
    #[test]
    fn parameters_are_the_published_ones() {
        for (model, parameters) in [
            ("dummy:distilgpt2", 81_912_576),
            ("dummy:gpt2", 124_439_808),
            ("dummy:llama-7b", 6_738_415_616),
            ("dummy:llama-3.1-8b", 8_030_261_248),
            ("dummy:tinyllama-1.1b", 1_100_048_384),
            ("dummy:smollm2-135m", 134_515_008),
            ("dummy:qwen2.5-0.5b", 494_032_768),
        ] {
            let shape = ModelShape::open(Some(model)).unwrap();
            assert_eq!(shape.parameters, parameters, "{model}");
        }
    }

    fn shape(config: &Value) -> Result<ModelShape, ModelError> {
        ModelShape::from_config("m", Path::new("config.json"), config.to_string().as_bytes())
    }

    fn llama2() -> Value {
        json!({
            "model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008,
            "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 32,
            "vocab_size": 32000, "max_position_embeddings": 4096, "tie_word_embeddings": false,
        })
    }

    #[test]
    fn config_files_of_the_family_are_read() {
        let llama = shape(&llama2()).unwrap();
        assert_eq!(llama.parameters, 6_738_415_616);
        assert_eq!((llama.head_dim, llama.max_positions), (128, 4096));
        let mut old = llama2();
        old["num_key_value_heads"] = Value::Null;
        assert_eq!(shape(&old).unwrap().kv_heads, 32);
        let qwen = shape(&json!({
            "model_type": "qwen2", "hidden_size": 896, "intermediate_size": 4864,
            "num_attention_heads": 14, "num_hidden_layers": 24, "num_key_value_heads": 2,
            "vocab_size": 151_936, "max_position_embeddings": 32768, "tie_word_embeddings": true,
        }));
        assert_eq!(qwen.unwrap().parameters, 494_032_768);
        // Mistral-7B-v0.1 as published, and Nemo's heads, which are narrower than hidden/heads.
        let mut mistral = llama2();
        for (key, value) in [
            ("model_type", json!("mistral")),
            ("intermediate_size", json!(14336)),
            ("num_key_value_heads", json!(8)),
        ] {
            mistral[key] = value;
        }
        assert_eq!(shape(&mistral).unwrap().parameters, 7_241_732_096);
        mistral["head_dim"] = json!(64);
        assert_eq!(shape(&mistral).unwrap().head_dim, 64);
    }

    #[test]
    fn what_a_config_may_not_say_is_named() {
        for (key, value, names) in [
            (
                "model_type",
                json!("mamba"),
                "one of gpt2, llama, mistral, qwen2",
            ),
            (
                "num_key_value_heads",
                json!(5),
                "a divisor of \"num_attention_heads\", 32",
            ),
            (
                "num_attention_heads",
                json!(3),
                "a divisor of \"hidden_size\", 4096",
            ),
            ("num_hidden_layers", Value::Null, "missing"),
            ("hidden_size", json!(0), "a whole number from 1"),
            (
                "intermediate_size",
                json!(u64::MAX),
                "a whole number from 1",
            ),
            ("vocab_size", json!("many"), "a whole number from 1"),
            (
                "max_position_embeddings",
                json!(-1),
                "a whole number from 1",
            ),
            ("head_dim", json!(0), "a whole number from 1"),
            ("tie_word_embeddings", json!("no"), "true or false"),
            ("quantization_config", json!({"bits": 4}), "unquantized"),
        ] {
            let mut config = llama2();
            config[key] = value;
            let error = shape(&config).unwrap_err().to_string();
            assert!(error.contains(key) && error.contains(names), "{error}");
        }
        let mut mistral = llama2();
        mistral["model_type"] = json!("mistral");
        mistral["num_key_value_heads"] = Value::Null;
        assert!(shape(&mistral).unwrap_err().to_string().contains("missing"));
    }
}
