//! Takes a snapshot from another node, piece by piece.

use std::fs::{File, OpenOptions};
use std::io::Write;

use super::{shelf, Snapshot, SnapshotMeta, Source};
use crate::durable_fs::{self, OwnedDir};
use crate::engine::memory::MemoryEngine;
use crate::engine::rocks::{RocksEngine, RocksSettings};
use crate::engine::Engine;
use crate::error::StorageError;

/// A reception under way. Dropping it removes what came so far.
pub struct SnapshotReceiver {
    meta: SnapshotMeta,
    received_bytes: Vec<u64>,
    sink: Sink,
}

enum Sink {
    Directory { dir: OwnedDir, files: Vec<File>, settings: RocksSettings },
    Memory(Vec<Vec<u8>>),
}

impl std::fmt::Debug for SnapshotReceiver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SnapshotReceiver")
            .field("id", &self.meta.id)
            .field("received_bytes", &self.received_bytes)
            .finish_non_exhaustive()
    }
}

impl SnapshotReceiver {
    pub(crate) fn into_directory(
        meta: SnapshotMeta,
        dir: OwnedDir,
        settings: RocksSettings,
    ) -> Result<Self, StorageError> {
        let path = dir.path();
        let create = |name: &String| {
            let file = path.join(name);
            OpenOptions::new()
                .write(true)
                .create_new(true)
                .open(&file)
                .map_err(StorageError::io(format!("cannot create {}", file.display())))
        };
        let files = meta.files.iter().map(|file| create(&file.name)).collect::<Result<_, _>>()?;
        let received_bytes = vec![0; meta.files.len()];
        Ok(Self { meta, received_bytes, sink: Sink::Directory { dir, files, settings } })
    }

    pub(crate) fn into_memory(meta: SnapshotMeta) -> Self {
        let count = meta.files.len();
        Self { meta, received_bytes: vec![0; count], sink: Sink::Memory(vec![Vec::new(); count]) }
    }

    /// Takes the next piece of a file; pieces of one file come in order.
    ///
    /// # Errors
    /// [`StorageError::Refused`] when the checksum does not match, the piece is not the next one or goes
    /// beyond the file: nothing was taken. [`StorageError::Io`].
    pub fn write_chunk(
        &mut self,
        file: usize,
        offset: u64,
        data: &[u8],
        crc32: u32,
    ) -> Result<(), StorageError> {
        let refused = |reason: String| {
            StorageError::refused(format!("snapshot {}, file {file}: {reason}", self.meta.id))
        };
        let described = self.meta.files.get(file).ok_or_else(|| refused("there is no such file".into()))?;
        let received = self.received_bytes[file];
        if offset != received {
            return Err(refused(format!("got offset {offset}, expected {received}")));
        }
        let end = offset + data.len() as u64;
        if end > described.bytes {
            return Err(refused(format!("{end} bytes are more than the {} announced", described.bytes)));
        }
        let actual = crc32fast::hash(data);
        if actual != crc32 {
            return Err(refused(format!(
                "checksum {actual:08x} of the piece at {offset} is not {crc32:08x}"
            )));
        }
        match &mut self.sink {
            Sink::Directory { files, .. } => files[file].write_all(data).map_err(StorageError::io(
                format!("cannot write {} of snapshot {}", described.name, self.meta.id),
            ))?,
            Sink::Memory(files) => files[file].extend_from_slice(data),
        }
        self.received_bytes[file] = end;
        Ok(())
    }

    /// Ends the reception: everything must be there, durable, and hold the state that was announced.
    ///
    /// # Errors
    /// [`StorageError::Refused`] when a file is short or the state is another one,
    /// [`StorageError::Corrupt`], [`StorageError::Rocks`] when the content does not open.
    pub fn finish(self) -> Result<Snapshot, StorageError> {
        let meta = self.meta;
        for (file, received) in meta.files.iter().zip(&self.received_bytes) {
            if *received != file.bytes {
                return Err(StorageError::refused(format!(
                    "snapshot {}: {} has {received} of {} bytes",
                    meta.id, file.name, file.bytes
                )));
            }
        }
        match self.sink {
            Sink::Directory { dir, files, settings } => {
                for (file, described) in files.iter().zip(&meta.files) {
                    file.sync_all().map_err(StorageError::io(format!("cannot sync {}", described.name)))?;
                }
                drop(files);
                let path = dir.path();
                durable_fs::sync(&path)?;
                check_applied(&meta, RocksEngine::read_applied_at(&settings, &path)?)?;
                shelf::write_meta(&path, &meta)?;
                Ok(Snapshot::new(meta, Source::Directory(dir)))
            }
            Sink::Memory(files) => {
                let content = files.first().map(Vec::as_slice).unwrap_or_default();
                check_applied(&meta, MemoryEngine::from_dump(content)?.load_meta()?.applied)?;
                Ok(Snapshot::new(meta, Source::Memory(files.into_iter().map(Into::into).collect())))
            }
        }
    }
}

fn check_applied(meta: &SnapshotMeta, found: crate::types::AppliedState) -> Result<(), StorageError> {
    if found == meta.applied {
        return Ok(());
    }
    Err(StorageError::refused(format!(
        "snapshot {} holds the state at {:?}, announced was {:?}",
        meta.id, found.log_id, meta.applied.log_id
    )))
}
