//! A snapshot: the state at one applied log id, as files that can be read in pieces and sent.
//!
//! Invariant: what is under its final name is whole. Everything is made under another name first.

pub(crate) mod checksums;
pub(crate) mod meta_file;
pub(crate) mod partial;
pub(crate) mod receiver;
pub(crate) mod shelf;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::durable_fs::OwnedDir;
use crate::error::StorageError;
use crate::types::AppliedState;

pub use receiver::SnapshotReceiver;

/// The one file of a snapshot of the in-memory engine.
pub(crate) const MEMORY_FILE: &str = "memory-snapshot";

/// What a snapshot holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotMeta {
    /// Unique among the snapshots of a cluster; letters, digits, `-`, `_` and `.`.
    pub id: String,
    /// The state that it holds.
    pub applied: AppliedState,
    pub files: Vec<SnapshotFile>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotFile {
    pub name: String,
    /// Size in bytes.
    pub bytes: u64,
    /// CRC-32 (IEEE) over the whole file.
    pub crc32: u32,
}

impl SnapshotMeta {
    /// Size of all files together, in bytes.
    pub fn bytes(&self) -> u64 {
        self.files.iter().fold(0, |sum, file| sum.saturating_add(file.bytes))
    }
}

/// A snapshot that can be read. Clones share it; its files are removed with the last of them once it
/// is not the current one.
#[derive(Debug, Clone)]
pub struct Snapshot(pub(crate) Arc<SnapshotContent>);

#[derive(Debug)]
pub(crate) struct SnapshotContent {
    pub(crate) meta: SnapshotMeta,
    pub(crate) source: Source,
}

#[derive(Debug)]
pub(crate) enum Source {
    Directory(OwnedDir),
    Memory(Vec<Bytes>),
}

impl Snapshot {
    pub(crate) fn new(meta: SnapshotMeta, source: Source) -> Self {
        Self(Arc::new(SnapshotContent { meta, source }))
    }

    pub fn meta(&self) -> &SnapshotMeta {
        &self.0.meta
    }

    /// Size of all files together, in bytes.
    pub fn bytes(&self) -> u64 {
        self.0.meta.bytes()
    }

    /// Up to `bytes_max` bytes of a file, fewer only at its end. Reads the disk.
    ///
    /// # Errors
    /// [`StorageError::Refused`] when there is no such file, [`StorageError::Corrupt`] when the file is
    /// shorter than the meta says, [`StorageError::Io`].
    pub fn read_chunk(&self, file: usize, offset: u64, bytes_max: usize) -> Result<Bytes, StorageError> {
        let described = self.0.meta.files.get(file).ok_or_else(|| {
            StorageError::refused(format!("snapshot {} has no file {file}", self.0.meta.id))
        })?;
        let rest = described.bytes.saturating_sub(offset);
        let len = usize::try_from(rest).unwrap_or(usize::MAX).min(bytes_max);
        if len == 0 {
            return Ok(Bytes::new());
        }
        match &self.0.source {
            Source::Memory(files) => {
                let start = usize::try_from(offset).expect("within a file that is in memory");
                Ok(files[file].slice(start..start + len))
            }
            Source::Directory(dir) => {
                // A snapshot may be given its final name while it is read.
                let (path, opened) = dir.with_path(|dir| {
                    let path = dir.join(&described.name);
                    let opened = File::open(&path);
                    (path, opened)
                });
                let mut chunk = vec![0; len];
                opened.and_then(|file| file.read_exact_at(&mut chunk, offset)).map_err(
                    |error| match error.kind() {
                        std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::NotFound => {
                            StorageError::corrupt(path.display().to_string(), error)
                        }
                        _ => StorageError::io(format!("cannot read {}", path.display()))(error),
                    },
                )?;
                Ok(chunk.into())
            }
        }
    }
}

/// Whether a name that came from elsewhere may be used as the name of a file.
pub(crate) fn is_plain_name(name: &str) -> bool {
    (1..=128).contains(&name.len())
        && !name.starts_with('.')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}
