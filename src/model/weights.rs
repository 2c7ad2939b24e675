//! A model's stored parameters: which tensor of which file each one is.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use safetensors::Dtype;
use safetensors::tensor::TensorInfo;
use serde_json::Value;

use super::family::{Family, Tensors};
use super::safetensors_file::SafetensorsFile;
use super::stored::{Order, Part, StoredType};
use super::{ModelError, ModelSpec, Param, Stored};

pub(super) const SINGLE: &str = "model.safetensors";
pub(super) const INDEX: &str = "model.safetensors.index.json";

/// Every parameter of a spec, found and of the right shape and type.
#[derive(Debug)]
pub(super) struct Checkpoint {
    files: Vec<SafetensorsFile>,
    params: HashMap<Param, Placed>,
}

/// The tensors of a parameter.
#[derive(Debug)]
struct Placed {
    /// `[rows, columns]`, a vector as one row.
    shape: [usize; 2],
    order: Order,
    tensors: Vec<Located>,
}

#[derive(Debug)]
struct Located {
    file: usize,
    name: String,
    info: TensorInfo,
}

impl Checkpoint {
    /// Opens `model.safetensors`, or the files that `model.safetensors.index.json` lists.
    pub fn open(folder: &Path, family: Family, spec: &ModelSpec) -> Result<Self, ModelError> {
        let (single, index) = (folder.join(SINGLE), folder.join(INDEX));
        if single.exists() {
            return Self::from_files(vec![SafetensorsFile::open(&single)?], family, spec);
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
        let shard = |name: &String| {
            let path = folder.join(name);
            if !path.exists() {
                let cause = format!("is missing, but {INDEX} lists it");
                let remedy = "download all files of the model into one folder";
                return Err(ModelError::file(path, cause, remedy));
            }
            SafetensorsFile::open(&path)
        };
        let files = shards(&index)?
            .iter()
            .map(shard)
            .collect::<Result<_, _>>()?;
        Self::from_files(files, family, spec)
    }

    pub fn embedded(
        name: &Path,
        bytes: &'static [u8],
        family: Family,
        spec: &ModelSpec,
    ) -> Result<Self, ModelError> {
        Self::from_files(vec![SafetensorsFile::embedded(name, bytes)?], family, spec)
    }

    fn from_files(
        files: Vec<SafetensorsFile>,
        family: Family,
        spec: &ModelSpec,
    ) -> Result<Self, ModelError> {
        let mut listed = list(&files, family)?;
        // Files name the body's tensors with the prefix or without it, all alike.
        let has_prefix = |located: &Located| located.name.starts_with(family.prefix());
        let prefix = match listed.values().any(has_prefix) {
            true => family.prefix(),
            false => "",
        };
        let mut params = HashMap::new();
        for param in Param::all(spec) {
            let Tensors { stored, order } = family.tensors(param, spec);
            let mut take = |(name, shape): (String, Vec<usize>)| {
                let located = listed.remove(&name).ok_or_else(|| {
                    let remedy = "use the weights that belong to config.json";
                    let prefix = if param == Param::Head { "" } else { prefix };
                    tensor_error(&files[0], &format!("{prefix}{name}"), "is missing", remedy)
                })?;
                check(&files[located.file], &located, &shape)?;
                Ok(located)
            };
            let placed = Placed {
                shape: match param.shape(spec)[..] {
                    [rows, columns] => [rows, columns],
                    _ => [1, param.count(spec)],
                },
                order,
                tensors: stored
                    .into_iter()
                    .map(&mut take)
                    .collect::<Result<_, _>>()?,
            };
            params.insert(param, placed);
        }
        let checkpoint = Self { files, params };
        checkpoint.check_unused(&listed, family)?;
        Ok(checkpoint)
    }

    /// Tensors without a role are harmless buffers and other heads, unless they say that the
    /// model's body is larger than config.json, or that its head is not the token embedding.
    fn check_unused(
        &self,
        unused: &BTreeMap<String, Located>,
        family: Family,
    ) -> Result<(), ModelError> {
        let remedy = "use the config.json that belongs to these weights";
        for (role, located) in unused {
            let file = &self.files[located.file];
            if family.in_layer(role) {
                let cause = "has no place in the shape that config.json gives";
                return Err(tensor_error(file, &located.name, cause, remedy));
            }
            if role == "lm_head.weight" {
                let embedding = &self.stored(Param::TokenEmbedding)?.parts[0];
                if file.data(&located.info) != embedding.bytes {
                    let cause =
                        "differs from the token embedding, but config.json says they are tied";
                    return Err(tensor_error(file, &located.name, cause, remedy));
                }
            }
        }
        Ok(())
    }

    /// The values of one parameter, all finite.
    pub fn param(&self, param: Param) -> Result<Stored<'_>, ModelError> {
        let stored = self.stored(param)?;
        stored.parts.iter().try_for_each(Part::check_finite)?;
        Ok(stored)
    }

    fn stored(&self, param: Param) -> Result<Stored<'_>, ModelError> {
        let placed = self.params.get(&param).ok_or_else(|| {
            let cause = "is not part of this model";
            tensor_error(
                &self.files[0],
                &format!("{param:?}"),
                cause,
                "ask for its own layers",
            )
        })?;
        let parts = placed.tensors.iter().map(|located| {
            let file = &self.files[located.file];
            Ok(Part {
                path: &file.path,
                name: &located.name,
                element: element(file, located)?,
                bytes: file.data(&located.info),
            })
        });
        let [rows, columns] = placed.shape;
        Ok(Stored {
            rows,
            columns,
            order: placed.order,
            parts: parts.collect::<Result<_, _>>()?,
        })
    }
}

/// The tensors of all files by their name without the family's prefix.
fn list(
    files: &[SafetensorsFile],
    family: Family,
) -> Result<BTreeMap<String, Located>, ModelError> {
    let mut listed = BTreeMap::new();
    for (file, opened) in files.iter().enumerate() {
        for (name, info) in opened.tensors() {
            let role = name
                .strip_prefix(family.prefix())
                .unwrap_or(&name)
                .to_owned();
            let located = Located { file, name, info };
            if let Some(first) = listed.insert(role, located) {
                let twice = files[first.file].path.display();
                let cause = format!("is stored twice, also in {twice}");
                let remedy = "keep one of the two";
                return Err(tensor_error(opened, &first.name, cause, remedy));
            }
        }
    }
    Ok(listed)
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
    element(file, located)?;
    let found = &located.info.shape;
    if found != shape {
        let cause = format!("has the shape {found:?}, but config.json makes it {shape:?}");
        let remedy = "use the config.json that belongs to these weights";
        return Err(tensor_error(file, &located.name, cause, remedy));
    }
    Ok(())
}

fn element(file: &SafetensorsFile, located: &Located) -> Result<StoredType, ModelError> {
    match located.info.dtype {
        Dtype::F32 => Ok(StoredType::F32),
        Dtype::F16 => Ok(StoredType::F16),
        Dtype::BF16 => Ok(StoredType::BF16),
        other => {
            let cause = format!("is stored as {other:?}");
            let remedy = "convert it to F32, F16 or BF16";
            Err(tensor_error(file, &located.name, cause, remedy))
        }
    }
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
