//! What came so far of a snapshot from another node, kept so that the transfer can go on where it stopped.
//!
//! A file is what it is by name, size and checksum: what came of one snapshot serves another that has the
//! same file. Invariant: the directory's `OFFER` describes every file in it, and a file holds nothing but the
//! beginning of what is described; whether it does is checked once it is all there.

use std::fs;
use std::sync::Arc;

use crc32fast::Hasher;
use parking_lot::Mutex;

use super::{checksums, meta_file, SnapshotFile, SnapshotMeta};
use crate::durable_fs::{self, OwnedDir};
use crate::error::StorageError;

/// At most one interrupted reception.
pub(crate) type PartialSlot = Arc<Mutex<Option<Partial>>>;

pub(crate) struct Partial {
    pub(crate) dir: OwnedDir,
    pub(crate) meta: SnapshotMeta,
    /// What is there of each file; `None` after a restart, before anybody looked.
    pub(crate) progress: Option<Vec<FileProgress>>,
}

/// What is there of a file.
#[derive(Clone, Default)]
pub(crate) struct FileProgress {
    pub(crate) bytes: u64,
    /// Over those bytes.
    pub(crate) hasher: Hasher,
}

impl FileProgress {
    /// Whether all of the file is there, as it was announced.
    pub(crate) fn is_whole(&self, file: &SnapshotFile) -> bool {
        self.bytes == file.bytes && self.hasher.clone().finalize() == file.crc32
    }
}

impl Partial {
    /// Begins in an empty directory.
    pub(crate) fn begin(dir: OwnedDir, meta: SnapshotMeta) -> Result<Self, StorageError> {
        meta_file::write(&dir.path(), meta_file::OFFER, &meta)?;
        let progress = Some(vec![FileProgress::default(); meta.files.len()]);
        dir.set_keep(true);
        Ok(Self { dir, meta, progress })
    }

    /// What an earlier process left in a directory, which is kept; `None` when it is of no use.
    pub(crate) fn reopen(dir: OwnedDir) -> Result<Option<Self>, StorageError> {
        let read = meta_file::read(&dir.path(), meta_file::OFFER);
        dir.set_keep(!matches!(read, Ok(None)));
        Ok(read?.map(|meta| Self { dir, meta, progress: None }))
    }

    /// Goes on with another snapshot, or the same: keeps what is there of files that both have.
    pub(crate) fn rebase(mut self, meta: SnapshotMeta) -> Result<Self, StorageError> {
        // Until it is done the directory is neither the one nor the other.
        self.dir.set_keep(false);
        let dir = self.dir.path();
        let mut progress = Vec::with_capacity(meta.files.len());
        for file in &meta.files {
            let same = self.meta.files.iter().position(|known| known == file);
            let found = match (same, &self.progress) {
                (None, _) => None,
                (Some(index), Some(known)) => Some(known[index].clone()),
                (Some(_), None) => self.look_at(file)?,
            };
            progress.push(found.unwrap_or_default());
        }
        // Before the new offer, which must not claim what is there of another file.
        for name in durable_fs::names(&dir)? {
            let index = meta.files.iter().position(|file| file.name == name);
            if index.is_none_or(|index| progress[index].bytes == 0) && name != meta_file::OFFER {
                durable_fs::remove_leftover(&dir.join(name));
            }
        }
        durable_fs::sync(&dir)?;
        meta_file::write(&dir, meta_file::OFFER, &meta)?;
        self.meta = meta;
        self.progress = Some(progress);
        self.dir.set_keep(true);
        Ok(self)
    }

    /// Reads what is on disk of a file; `None` when that is nothing, or not what was announced.
    fn look_at(&self, file: &SnapshotFile) -> Result<Option<FileProgress>, StorageError> {
        let path = self.dir.path().join(&file.name);
        if !fs::metadata(&path).is_ok_and(|found| found.len() <= file.bytes) {
            return Ok(None);
        }
        let (bytes, hasher) = checksums::read_through(&path)?;
        let found = FileProgress { bytes, hasher };
        Ok((bytes < file.bytes || found.is_whole(file)).then_some(found))
    }

    /// Has the directory removed.
    pub(crate) fn discard(self) {
        self.dir.set_keep(false);
    }
}

/// Keeps it for the next reception, in place of an earlier one.
pub(crate) fn put_back(slot: &PartialSlot, partial: Partial) {
    let before = slot.lock().replace(partial);
    if let Some(before) = before {
        before.discard();
    }
}
