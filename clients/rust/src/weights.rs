//! Lent memory is a safetensors file: mapped, read by the stock library, and compared with its manifest.

use std::fs::File;

use memmap2::MmapOptions;
use safetensors::SafeTensors;
use serde_json::{json, Map, Value};
use sha2::{Digest, Sha256};

use crate::api::modelkeep::loader::v1::{ComponentManifest, TensorEntry};
use crate::Failure;

/// What a component is, and the SHA-256 of the bytes of each of its tensors.
///
/// Fails if a tensor is not where the manifest says, or of another type or shape, or is missing or too many.
pub fn described(file: &File, manifest: &ComponentManifest) -> Result<Value, Failure> {
    // SAFETY: the loader has sealed the memory: nobody can write it, and its size stays.
    let mapped = unsafe { MmapOptions::new().map_copy_read_only(file)? };
    if mapped.len() as i64 != manifest.file_size_bytes {
        return Err(format!(
            "{} bytes are lent, not {}",
            mapped.len(),
            manifest.file_size_bytes
        )
        .into());
    }
    let weights = SafeTensors::deserialize(&mapped)?;
    if weights.len() != manifest.tensors.len() {
        let (lent, told) = (weights.len(), manifest.tensors.len());
        return Err(format!("{lent} tensors are lent, and the manifest names {told}").into());
    }
    let mut tensors = Map::new();
    for entry in &manifest.tensors {
        let tensor = weights.tensor(&entry.name)?;
        let data = tensor.data();
        let offset = data.as_ptr() as usize - mapped.as_ptr() as usize;
        let shape: Vec<i64> = tensor.shape().iter().map(|&size| size as i64).collect();
        let found = (
            format!("{:?}", tensor.dtype()),
            shape,
            offset as i64,
            data.len() as i64,
        );
        let told = (
            entry.dtype.clone(),
            shape_of_bytes(entry)?,
            entry.offset,
            entry.size_bytes,
        );
        if found != told {
            return Err(format!(
                "{} is {found:?}, and the manifest says {told:?}",
                entry.name
            )
            .into());
        }
        let digest: String = Sha256::digest(data)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        tensors.insert(entry.name.clone(), json!(digest));
    }
    Ok(json!({
        "name": manifest.name,
        "class": manifest.class_name,
        "resident": manifest.resident_id,
        "bytes": mapped.len(),
        "tensors": tensors,
    }))
}

/// The shape that the file says: of a tensor in channels last that of its bytes, [N, H, W, C] for [N, C, H, W].
///
/// A library with strides makes of the bytes what the module has, without a copy: `shape` and `strides`.
fn shape_of_bytes(entry: &TensorEntry) -> Result<Vec<i64>, Failure> {
    if entry.strides.is_empty() {
        return Ok(entry.shape.clone());
    }
    if let [n, c, h, w] = entry.shape[..] {
        if entry.strides == [h * w * c, 1, w * c, c] {
            return Ok(vec![n, h, w, c]);
        }
    }
    Err(format!("{} has strides that this worker does not know", entry.name).into())
}
