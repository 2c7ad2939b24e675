//! Copies of fixtures that a test may damage, and what every error must look like.

use std::fs;
use std::path::{Path, PathBuf};

use batchlab::model::{Model, ModelError, Param};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::Value;
use tempfile::TempDir;

pub const WEIGHTS: &str = "model.safetensors";

/// A copy of a fixture that a test may damage.
pub struct Broken {
    pub folder: TempDir,
}

impl Broken {
    pub fn copy_of(name: &str) -> Self {
        let folder = TempDir::new().unwrap();
        for entry in fs::read_dir(fixture(name)).unwrap() {
            let path = entry.unwrap().path();
            fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
        }
        Self { folder }
    }

    pub fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    pub fn edit_json(&self, file: &str, edit: impl FnOnce(&mut Value)) {
        let mut value = serde_json::from_slice(&fs::read(self.path(file)).unwrap()).unwrap();
        edit(&mut value);
        fs::write(self.path(file), value.to_string()).unwrap();
    }

    pub fn edit_bytes(&self, file: &str, edit: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = fs::read(self.path(file)).unwrap();
        edit(&mut bytes);
        fs::write(self.path(file), bytes).unwrap();
    }

    /// Rewrites the header of the weights file and leaves the data as it is.
    pub fn edit_header(&self, edit: impl FnOnce(&mut Value)) {
        self.edit_bytes(WEIGHTS, |bytes| {
            let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
            let mut header = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
            edit(&mut header);
            let text = header.to_string();
            let data = bytes.split_off(8 + length);
            *bytes = [&(text.len() as u64).to_le_bytes(), text.as_bytes(), &data].concat();
        });
    }

    /// Rewrites the tensors through the library: (name, type, shape, bytes).
    pub fn edit_tensors(&self, edit: impl FnOnce(&mut Vec<Stored>)) {
        let bytes = fs::read(self.path(WEIGHTS)).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let mut tensors: Vec<Stored> = file
            .tensors()
            .into_iter()
            .map(|(name, t)| (name, t.dtype(), t.shape().to_vec(), t.data().to_vec()))
            .collect();
        edit(&mut tensors);
        let views = tensors.iter().map(|(name, dtype, shape, data)| {
            (name, TensorView::new(*dtype, shape.clone(), data).unwrap())
        });
        fs::write(
            self.path(WEIGHTS),
            safetensors::serialize(views, None).unwrap(),
        )
        .unwrap();
    }

    pub fn error(&self) -> ModelError {
        open(self.folder.path()).expect_err("a broken model must not open")
    }
}

pub type Stored = (String, Dtype, Vec<usize>, Vec<u8>);

pub fn named<'a>(tensors: &'a mut [Stored], name: &str) -> &'a mut Stored {
    tensors.iter_mut().find(|t| t.0 == name).unwrap()
}

pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}

/// Opens a model and reads every parameter, as a runner does.
pub fn open(path: &Path) -> Result<Model, ModelError> {
    open_named(path.to_str().unwrap())
}

pub fn open_named(source: &str) -> Result<Model, ModelError> {
    let model = Model::open(Some(source))?;
    for param in Param::all(&model.spec) {
        model.param(param)?;
    }
    Ok(model)
}

/// One line, and every part named.
#[track_caller]
pub fn assert_says(error: &ModelError, parts: &[&str]) {
    let text = error.to_string();
    assert!(!text.contains('\n'), "more than one line: {text}");
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
}
