//! A model's stored parameters: which tensor of which file each one is.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use rayon::prelude::*;
use safetensors::Dtype;
use safetensors::tensor::TensorInfo;
use serde_json::Value;

use super::safetensors_file::SafetensorsFile;
use super::{ModelError, ModelSpec, Param, ParamData};

pub(super) const SINGLE: &str = "model.safetensors";
pub(super) const INDEX: &str = "model.safetensors.index.json";

/// Every parameter of a spec, found and of the right shape and type.
#[derive(Debug)]
pub(super) struct Checkpoint {
    files: Vec<SafetensorsFile>,
    tensors: HashMap<Param, Located>,
}

#[derive(Debug)]
struct Located {
    file: usize,
    name: String,
    info: TensorInfo,
}

impl Checkpoint {
    /// Opens `model.safetensors`, or the files that `model.safetensors.index.json` lists.
    pub fn open(folder: &Path, spec: &ModelSpec) -> Result<Self, ModelError> {
        let (single, index) = (folder.join(SINGLE), folder.join(INDEX));
        if single.exists() {
            return Self::from_files(vec![SafetensorsFile::open(&single)?], spec);
        }
        if !index.exists() {
            let remedy = if folder.join("pytorch_model.bin").exists() {
                "convert pytorch_model.bin with transformers' save_pretrained"
            } else {
                "download the model's weights into this folder"
            };
            return Err(ModelError::file(
                folder,
                format!("has neither {SINGLE} nor {INDEX}"),
                remedy,
            ));
        }
        let files = shards(&index)?
            .iter()
            .map(|name| SafetensorsFile::open(&folder.join(name)))
            .collect::<Result<_, _>>()?;
        Self::from_files(files, spec)
    }

    pub fn embedded(
        name: &Path,
        bytes: &'static [u8],
        spec: &ModelSpec,
    ) -> Result<Self, ModelError> {
        Self::from_files(vec![SafetensorsFile::embedded(name, bytes)?], spec)
    }

    fn from_files(files: Vec<SafetensorsFile>, spec: &ModelSpec) -> Result<Self, ModelError> {
        let mut listed = BTreeMap::new();
        for (file, opened) in files.iter().enumerate() {
            for (name, info) in opened.tensors() {
                let role = name
                    .strip_prefix("transformer.")
                    .unwrap_or(&name)
                    .to_owned();
                let located = Located { file, name, info };
                if let Some(first) = listed.insert(role, located) {
                    let cause = format!(
                        "is stored twice, also in {}",
                        files[first.file].path.display()
                    );
                    return Err(tensor_error(
                        opened,
                        &first.name,
                        cause,
                        "keep one of the two",
                    ));
                }
            }
        }
        let mut tensors = HashMap::new();
        for param in Param::all(spec) {
            let name = param.name();
            let located = listed.remove(&name).ok_or_else(|| {
                tensor_error(
                    &files[0],
                    &name,
                    "is missing",
                    "use the weights that belong to config.json",
                )
            })?;
            check(&files[located.file], &located, &param.shape(spec))?;
            tensors.insert(param, located);
        }
        let checkpoint = Self { files, tensors };
        checkpoint.check_unused(&listed)?;
        Ok(checkpoint)
    }

    /// Tensors without a role are harmless buffers and other heads, unless they say that the
    /// model's body is larger than config.json, or that its head is not the token embedding.
    fn check_unused(&self, unused: &BTreeMap<String, Located>) -> Result<(), ModelError> {
        for (role, located) in unused {
            let file = &self.files[located.file];
            let is_mask = role.ends_with(".attn.bias") || role.ends_with(".attn.masked_bias");
            if role.starts_with("h.") && !is_mask {
                let remedy = "use the config.json that belongs to these weights";
                return Err(tensor_error(
                    file,
                    &located.name,
                    "has no place in the shape that config.json gives",
                    remedy,
                ));
            }
            if role == "lm_head.weight"
                && file.data(&located.info) != self.bytes(Param::TokenEmbedding)?
            {
                let cause = "differs from the token embedding, and an untied head is not supported";
                return Err(tensor_error(
                    file,
                    &located.name,
                    cause,
                    "use a model whose head is tied",
                ));
            }
        }
        Ok(())
    }

    /// The values of one parameter, all finite.
    pub fn param(&self, param: Param) -> Result<ParamData<'_>, ModelError> {
        let located = self.located(param)?;
        let bytes = self.bytes(param)?;
        let (data, bad) = match located.info.dtype {
            Dtype::F32 => (
                ParamData::F32(bytes),
                not_finite(bytes, |b| f32::from_le_bytes(b).is_finite()),
            ),
            Dtype::F16 => (
                ParamData::F16(bytes),
                not_finite(bytes, |b| f16::from_le_bytes(b).is_finite()),
            ),
            _ => (
                ParamData::BF16(bytes),
                not_finite(bytes, |b| bf16::from_le_bytes(b).is_finite()),
            ),
        };
        match bad {
            None => Ok(data),
            Some(index) => Err(tensor_error(
                &self.files[located.file],
                &located.name,
                format!("has a NaN or an infinity at element {index}"),
                "the training or the conversion failed; use weights that are finite",
            )),
        }
    }

    fn bytes(&self, param: Param) -> Result<&[u8], ModelError> {
        let located = self.located(param)?;
        Ok(self.files[located.file].data(&located.info))
    }

    fn located(&self, param: Param) -> Result<&Located, ModelError> {
        self.tensors.get(&param).ok_or_else(|| {
            tensor_error(
                &self.files[0],
                &param.name(),
                "is not part of this model",
                "ask for its own layers",
            )
        })
    }
}

/// The files of a sharded checkpoint, as its index lists them.
pub(super) fn shards(index: &Path) -> Result<BTreeSet<String>, ModelError> {
    let bad = |cause: String| ModelError::file(index, cause, "download or copy the index again");
    let json = std::fs::read(index).map_err(|e| bad(format!("cannot be read ({e})")))?;
    let json: Value =
        serde_json::from_slice(&json).map_err(|e| bad(format!("is not valid JSON ({e})")))?;
    let map = json.get("weight_map").and_then(Value::as_object);
    let map = map.ok_or_else(|| bad("has no object \"weight_map\"".to_owned()))?;
    let files: BTreeSet<String> = map
        .values()
        .map(|file| match file.as_str() {
            // A name may not lead out of the model's folder.
            Some(name) if PathBuf::from(name).file_name() == Some(name.as_ref()) => {
                Ok(name.to_owned())
            }
            _ => Err(bad(format!(
                "names {file} where a file of its folder should stand"
            ))),
        })
        .collect::<Result<_, _>>()?;
    if files.is_empty() {
        return Err(bad("lists no file".to_owned()));
    }
    Ok(files)
}

fn check(file: &SafetensorsFile, located: &Located, shape: &[usize]) -> Result<(), ModelError> {
    let (name, info) = (&located.name, &located.info);
    if !matches!(info.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16) {
        let cause = format!("is stored as {:?}", info.dtype);
        return Err(tensor_error(
            file,
            name,
            cause,
            "convert it to F32, F16 or BF16",
        ));
    }
    if info.shape != shape {
        let cause = format!(
            "has the shape {:?}, but config.json makes it {shape:?}",
            info.shape
        );
        return Err(tensor_error(
            file,
            name,
            cause,
            "use the config.json that belongs to these weights",
        ));
    }
    Ok(())
}

/// Index of the first element that is not finite.
fn not_finite<const N: usize>(
    bytes: &[u8],
    finite: impl Fn([u8; N]) -> bool + Sync,
) -> Option<usize> {
    // Large enough for a thread to be worth waking, small enough to share a matrix evenly.
    const BLOCK: usize = 1 << 16;
    let (elements, _) = bytes.as_chunks::<N>();
    let block = elements
        .par_chunks(BLOCK)
        // Without an early exit the compiler vectorises the scan.
        .position_first(|block| !block.iter().fold(true, |all, &b| all & finite(b)))?;
    let inside = elements[block * BLOCK..].iter().position(|&b| !finite(b))?;
    Some(block * BLOCK + inside)
}

fn tensor_error(
    file: &SafetensorsFile,
    tensor: &str,
    cause: impl Into<String>,
    remedy: &str,
) -> ModelError {
    ModelError::Tensor {
        path: file.path.clone(),
        tensor: tensor.to_owned(),
        cause: cause.into(),
        remedy: remedy.to_owned(),
    }
}
