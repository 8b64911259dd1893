//! The description of a snapshot beside its files: a version byte, a postcard encoding, and the CRC-32 over both.

use std::fs;
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

/// The description under that name; `None` when there is none that can be used.
pub(crate) fn read(dir: &Path, name: &str) -> Option<SnapshotMeta> {
    let content = fs::read(dir.join(name)).ok()?;
    let (body, crc) = content.split_last_chunk::<4>()?;
    if crc32fast::hash(body) != u32::from_be_bytes(*crc) {
        return None;
    }
    layout::decode_as(VERSION, "the meta of a snapshot", body).ok()
}

/// The meta of a snapshot whose files are all there in their sizes; `None` when it is not whole.
pub(crate) fn read_whole(dir: &Path) -> Option<SnapshotMeta> {
    read(dir, META).filter(|meta| {
        let is_there =
            |name: &str, bytes| fs::metadata(dir.join(name)).is_ok_and(|found| found.len() == bytes);
        meta.files.iter().all(|file| is_there(&file.name, file.bytes))
    })
}
