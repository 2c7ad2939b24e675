//! One safetensors file: its bytes, and the tensors its header lists.

use std::fs::File;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::SafeTensors;
use safetensors::tensor::{Metadata, SafeTensorError, TensorInfo};
use serde_json::Value;

use super::ModelError;

const COPY_AGAIN: &str = "download or copy the file again";

#[derive(Debug)]
pub(super) struct SafetensorsFile {
    pub path: PathBuf,
    bytes: Bytes,
    /// Where the tensors' data begins.
    data_start: usize,
    header: Metadata,
}

#[derive(Debug)]
enum Bytes {
    Mapped(Mmap),
    Embedded(&'static [u8]),
}

impl Bytes {
    fn get(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Embedded(bytes) => bytes,
        }
    }
}

impl SafetensorsFile {
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let unreadable = |e: std::io::Error| {
            let remedy = "give the folder that holds the model's safetensors files";
            ModelError::file(path, format!("cannot be read ({e})"), remedy)
        };
        let file = File::open(path).map_err(unreadable)?;
        // SAFETY: the map is read-only and owned by `Bytes`, so it outlives every slice of it; as
        // with every memory map, the file must not be cut short by others while it is open.
        let map = unsafe { Mmap::map(&file) }.map_err(unreadable)?;
        Self::parse(path, Bytes::Mapped(map))
    }

    pub fn embedded(name: &Path, bytes: &'static [u8]) -> Result<Self, ModelError> {
        Self::parse(name, Bytes::Embedded(bytes))
    }

    fn parse(path: &Path, bytes: Bytes) -> Result<Self, ModelError> {
        check_extent(path, bytes.get())?;
        let (header_len, header) = SafeTensors::read_metadata(bytes.get()).map_err(|e| {
            let cause = match e {
                SafeTensorError::InvalidOffset(tensor) => {
                    format!(
                        "has a damaged header: {tensor:?} overlaps another tensor or leaves a gap"
                    )
                }
                SafeTensorError::MetadataIncompleteBuffer => {
                    "has bytes after its last tensor that the header does not list".to_owned()
                }
                other => format!("has a damaged header ({other})"),
            };
            ModelError::file(path, cause, COPY_AGAIN)
        })?;
        Ok(Self {
            path: path.to_owned(),
            bytes,
            data_start: 8 + header_len,
            header,
        })
    }

    pub fn tensors(&self) -> impl Iterator<Item = (String, TensorInfo)> {
        let listed = self.header.tensors().into_iter();
        listed.map(|(name, info)| (name, info.clone()))
    }

    /// The bytes of a tensor of this file.
    pub fn data(&self, tensor: &TensorInfo) -> &[u8] {
        let (start, end) = tensor.data_offsets;
        &self.bytes.get()[self.data_start + start..self.data_start + end]
    }
}

/// Finds a truncated file and absurd lengths before the library sees them: it reports the first
/// without saying so, and adds up offsets that could overflow.
fn check_extent(path: &Path, bytes: &[u8]) -> Result<(), ModelError> {
    let damaged = |cause: String| ModelError::file(path, cause, COPY_AGAIN);
    let Some((&length, rest)) = bytes.split_first_chunk::<8>() else {
        return Err(damaged(format!(
            "is cut short: {} bytes, not even a header",
            bytes.len()
        )));
    };
    let length = u64::from_le_bytes(length);
    let header = usize::try_from(length)
        .ok()
        .and_then(|n| rest.split_at_checked(n));
    let Some((header, data)) = header else {
        let found = bytes.len();
        return Err(damaged(format!(
            "is cut short or no safetensors file: its header should take {length} bytes, the file has {found}"
        )));
    };
    let header: Value = serde_json::from_slice(header)
        .map_err(|e| damaged(format!("has a damaged header ({e})")))?;
    for (name, tensor) in header.as_object().into_iter().flatten() {
        let end = tensor
            .pointer("/data_offsets/1")
            .and_then(Value::as_u64)
            .unwrap_or(0);
        if end > data.len() as u64 {
            return Err(ModelError::Tensor {
                path: path.to_owned(),
                tensor: name.clone(),
                cause: format!(
                    "should end at byte {end} of the data, but the file holds {}: it is cut short \
                     or its header is damaged",
                    data.len()
                ),
                remedy: COPY_AGAIN.to_owned(),
            });
        }
    }
    Ok(())
}
