//! The description of a snapshot beside its files: a version byte, a postcard encoding, and the CRC-32 over both.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

use super::SnapshotMeta;
use crate::durable_fs;
use crate::engine::layout;
use crate::error::StorageError;

/// Of a snapshot that is whole.
pub(crate) const META: &str = "META";
/// Of one that is being received: what was announced.
pub(crate) const OFFER: &str = "OFFER";
/// Version 1 knew no checksums of files.
const VERSION: u8 = 2;

/// Writes the description under that name and makes the whole directory durable.
pub(crate) fn write(dir: &Path, name: &str, meta: &SnapshotMeta) -> Result<(), StorageError> {
    let mut content = layout::encode_as(VERSION, meta);
    content.extend_from_slice(&crc32fast::hash(&content).to_be_bytes());
    durable_fs::write_atomic(dir, name, &content)
}

/// The description under that name; `None` when there is none, or not the one that was written.
///
/// # Errors
/// [`StorageError::Io`]: then it is not known, and nothing may be concluded about the snapshot.
pub(crate) fn read(dir: &Path, name: &str) -> Result<Option<SnapshotMeta>, StorageError> {
    let path = dir.join(name);
    Ok(unless_absent(&path, fs::read(&path))?.and_then(|content| decode(&content)))
}

fn decode(content: &[u8]) -> Option<SnapshotMeta> {
    let (body, crc) = content.split_last_chunk::<4>()?;
    if crc32fast::hash(body) != u32::from_be_bytes(*crc) {
        return None;
    }
    layout::decode_as(VERSION, "the meta of a snapshot", body).ok()
}

/// The meta of a snapshot whose files are all there in their sizes; `None` when it is not whole.
///
/// # Errors
/// As [`read`].
pub(crate) fn read_whole(dir: &Path) -> Result<Option<SnapshotMeta>, StorageError> {
    let Some(meta) = read(dir, META)? else { return Ok(None) };
    for file in &meta.files {
        let path = dir.join(&file.name);
        let found = unless_absent(&path, fs::metadata(&path))?;
        if found.is_none_or(|found| found.len() != file.bytes) {
            return Ok(None);
        }
    }
    Ok(Some(meta))
}

/// What was read; `None` when there is no such file, or it could only be in a directory that is none.
fn unless_absent<T>(path: &Path, read: io::Result<T>) -> Result<Option<T>, StorageError> {
    match read {
        Ok(read) => Ok(Some(read)),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(StorageError::io(format!("cannot read {}", path.display()))(error)),
    }
}
