//! Takes a snapshot from another node, piece by piece.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;

use crc32fast::Hasher;

use super::partial::{self, FileProgress, Partial, PartialSlot};
use super::{meta_file, Snapshot, SnapshotMeta, Source};
use crate::durable_fs::{self, OwnedDir};
use crate::engine::memory::MemoryEngine;
use crate::engine::rocks::{RocksEngine, RocksSettings};
use crate::engine::Engine;
use crate::error::StorageError;

/// So much is written before it is synced: a small share of what a disk does in a second, so that syncs of the
/// Raft log on the same disk wait for little.
const SYNC_BYTES: u64 = 4 << 20;

/// A reception under way. What came so far is kept when it is dropped, for the next reception; on disk also
/// when the process ends.
pub struct SnapshotReceiver {
    meta: SnapshotMeta,
    progress: Vec<FileProgress>,
    /// `None` once the reception has ended.
    sink: Option<Sink>,
}

enum Sink {
    Directory(DirectorySink),
    Memory(Vec<Vec<u8>>),
}

struct DirectorySink {
    dir: OwnedDir,
    /// Where what came so far is kept.
    slot: PartialSlot,
    /// The file written last, its place in the meta, and how many bytes of it are not synced.
    open: Option<(usize, File, u64)>,
    settings: RocksSettings,
    /// A write or a sync failed: what is on disk is not known.
    is_broken: bool,
}

impl std::fmt::Debug for SnapshotReceiver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SnapshotReceiver")
            .field("id", &self.meta.id)
            .field("received", &self.received())
            .finish_non_exhaustive()
    }
}

impl SnapshotReceiver {
    pub(crate) fn into_directory(partial: Partial, slot: PartialSlot, settings: RocksSettings) -> Self {
        let Partial { dir, meta, progress } = partial;
        let progress = progress.unwrap_or_else(|| vec![FileProgress::default(); meta.files.len()]);
        let sink = DirectorySink { dir, slot, open: None, settings, is_broken: false };
        Self { meta, progress, sink: Some(Sink::Directory(sink)) }
    }

    pub(crate) fn into_memory(meta: SnapshotMeta) -> Self {
        let count = meta.files.len();
        let progress = vec![FileProgress::default(); count];
        Self { meta, progress, sink: Some(Sink::Memory(vec![Vec::new(); count])) }
    }

    pub fn meta(&self) -> &SnapshotMeta {
        &self.meta
    }

    /// Bytes of each file that are there already, in the order of the meta. More than none at the beginning when
    /// an earlier reception was interrupted: those need not be sent again.
    pub fn received(&self) -> Vec<u64> {
        self.progress.iter().map(|file| file.bytes).collect()
    }

    /// Takes the next piece of a file; pieces of one file come in order. The last one makes sure that the whole
    /// file is what was announced.
    ///
    /// # Errors
    /// [`StorageError::Refused`] when the checksum does not match, the piece is not the next one or goes
    /// beyond the file: nothing was taken; or when the whole file's checksum does not match: nothing is left of
    /// the file. [`StorageError::Io`].
    pub fn write_chunk(
        &mut self,
        file: usize,
        offset: u64,
        data: &[u8],
        crc32: u32,
    ) -> Result<(), StorageError> {
        let id = &self.meta.id;
        let refused = |reason: String| StorageError::refused(format!("snapshot {id}, file {file}: {reason}"));
        let described = self.meta.files.get(file).ok_or_else(|| refused("there is no such file".into()))?;
        let progress = &mut self.progress[file];
        if offset != progress.bytes {
            return Err(refused(format!("got offset {offset}, expected {}", progress.bytes)));
        }
        let end = offset + data.len() as u64;
        if end > described.bytes {
            return Err(refused(format!("{end} bytes are more than the {} announced", described.bytes)));
        }
        let mut hasher = Hasher::new();
        hasher.update(data);
        let actual = hasher.clone().finalize();
        if actual != crc32 {
            return Err(refused(format!(
                "checksum {actual:08x} of the piece at {offset} is not {crc32:08x}"
            )));
        }
        match self.sink.as_mut().expect("it ends with `finish`, which takes the receiver") {
            Sink::Directory(sink) => sink.write(file, &described.name, offset, data)?,
            Sink::Memory(files) => {
                files[file].truncate(usize::try_from(offset).expect("within a file in memory"));
                files[file].extend_from_slice(data);
            }
        }
        progress.bytes = end;
        progress.hasher.combine(&hasher);
        if end == described.bytes && !progress.is_whole(described) {
            let actual = std::mem::take(progress).hasher.finalize();
            let (name, crc32) = (&described.name, described.crc32);
            return Err(refused(format!("checksum {actual:08x} of {name} is not {crc32:08x}")));
        }
        Ok(())
    }

    /// Ends the reception: everything must be there, durable, and hold the state that was announced.
    ///
    /// # Errors
    /// [`StorageError::Refused`] when a file is not whole or the state is another one,
    /// [`StorageError::Corrupt`], [`StorageError::Rocks`] when the content does not open.
    pub fn finish(mut self) -> Result<Snapshot, StorageError> {
        for (file, progress) in self.meta.files.iter().zip(&self.progress) {
            if !progress.is_whole(file) {
                return Err(StorageError::refused(format!(
                    "snapshot {}: {} has {} of {} bytes",
                    self.meta.id, file.name, progress.bytes, file.bytes
                )));
            }
        }
        let meta = self.meta.clone();
        match self.sink.take().expect("it ends here") {
            Sink::Directory(sink) => sink.finish(meta),
            Sink::Memory(files) => {
                let content = files.first().map(Vec::as_slice).unwrap_or_default();
                check_applied(&meta, MemoryEngine::from_dump(content)?.load_meta()?.applied)?;
                Ok(Snapshot::new(meta, Source::Memory(files.into_iter().map(Into::into).collect())))
            }
        }
    }
}

impl Drop for SnapshotReceiver {
    fn drop(&mut self) {
        if let Some(Sink::Directory(sink)) = self.sink.take() {
            sink.keep(self.meta.clone(), std::mem::take(&mut self.progress));
        }
    }
}

impl DirectorySink {
    fn write(&mut self, index: usize, name: &str, offset: u64, data: &[u8]) -> Result<(), StorageError> {
        let result = self.try_write(index, name, offset, data);
        self.is_broken |= result.is_err();
        result
    }

    fn try_write(&mut self, index: usize, name: &str, offset: u64, data: &[u8]) -> Result<(), StorageError> {
        let path = self.dir.path().join(name);
        let context = || StorageError::io(format!("cannot write {}", path.display()));
        if self.open.as_ref().is_some_and(|(open, ..)| *open != index) {
            self.close()?;
        }
        let (_, file, unsynced) = match &mut self.open {
            Some(open) => open,
            None => {
                let mut options = OpenOptions::new();
                let file = options.write(true).create(true).truncate(false).open(&path).map_err(context())?;
                self.open.insert((index, file, 0))
            }
        };
        file.write_all_at(data, offset).map_err(context())?;
        *unsynced += data.len() as u64;
        if *unsynced >= SYNC_BYTES {
            file.sync_data().map_err(context())?;
            *unsynced = 0;
        }
        Ok(())
    }

    fn close(&mut self) -> Result<(), StorageError> {
        match self.open.take() {
            Some((_, file, _)) => {
                file.sync_all().map_err(StorageError::io("cannot sync a file of a snapshot"))
            }
            None => Ok(()),
        }
    }

    /// A directory that fails here is removed: what it holds is not what was announced.
    fn finish(mut self, meta: SnapshotMeta) -> Result<Snapshot, StorageError> {
        self.dir.set_keep(false);
        self.close()?;
        let path = self.dir.path();
        // Also what came before an interruption, of which nobody knows whether it was synced.
        for file in &meta.files {
            let path = path.join(&file.name);
            if file.bytes == 0 {
                File::create(&path).map_err(StorageError::io(format!("cannot create {}", path.display())))?;
            }
            durable_fs::sync(&path)?;
        }
        durable_fs::sync(&path)?;
        check_applied(&meta, RocksEngine::read_applied_at(&self.settings, &path)?)?;
        meta_file::write(&path, meta_file::META, &meta)?;
        Ok(Snapshot::new(meta, Source::Directory(self.dir)))
    }

    fn keep(self, meta: SnapshotMeta, progress: Vec<FileProgress>) {
        if self.is_broken {
            self.dir.set_keep(false);
        } else {
            partial::put_back(&self.slot, Partial { dir: self.dir, meta, progress: Some(progress) });
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
