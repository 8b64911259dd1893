//! The directory `<data-dir>/snapshots`: at most one snapshot, and what is in the making.
//!
//! ```text
//! <id>/             the current snapshot: files of the database and META (<id>~<n>/ if that was taken)
//! making-<n>/       one that is being built
//! incoming-<n>/     one that is being received, or received and not installed
//! ```
//! Only the first survives a restart.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

use super::{is_plain_name, Snapshot, SnapshotFile, SnapshotMeta, Source};
use crate::durable_fs::{self, OwnedDir};
use crate::engine::layout;
use crate::engine::rocks::{RocksEngine, RocksSettings};
use crate::engine::staged::StagedEngine;
use crate::error::StorageError;
use crate::types::{AppliedState, LogId};

/// The snapshot's meta and the CRC-32 over its encoding, beside the files.
const META: &str = "META";
const MAKING: &str = "making-";
const INCOMING: &str = "incoming-";

pub(crate) struct Shelf {
    dir: PathBuf,
    settings: RocksSettings,
    next: AtomicU64,
    current: Mutex<Option<Snapshot>>,
}

impl Shelf {
    /// Opens the shelf; the newest whole snapshot is current again, everything else is removed.
    /// `applied` is what the data holds: a snapshot beyond it does not belong to it.
    pub(crate) fn open(
        dir: PathBuf,
        settings: RocksSettings,
        applied: Option<LogId>,
    ) -> Result<Self, StorageError> {
        durable_fs::create_dir(&dir)?;
        let mut newest: Option<(SnapshotMeta, PathBuf)> = None;
        for name in durable_fs::names(&dir)? {
            let path = dir.join(&name);
            let meta = if name.starts_with(MAKING) || name.starts_with(INCOMING) {
                None
            } else {
                read_meta(&path).filter(|meta| meta.applied.log_id <= applied)
            };
            let outdated = match meta {
                Some(meta) if newest.as_ref().is_none_or(|(n, _)| n.applied.log_id < meta.applied.log_id) => {
                    newest.replace((meta, path)).map(|(_, older)| older)
                }
                Some(_) | None => Some(path),
            };
            if let Some(outdated) = outdated {
                durable_fs::remove_leftover(&outdated);
            }
        }
        let current =
            newest.map(|(meta, path)| Snapshot::new(meta, Source::Directory(OwnedDir::new(path, true))));
        Ok(Self { dir, settings, next: AtomicU64::new(1), current: Mutex::new(current) })
    }

    pub(crate) fn current(&self) -> Option<Snapshot> {
        self.current.lock().clone()
    }

    /// Builds a snapshot of what `engine` holds and makes it current.
    pub(crate) fn build(&self, engine: &StagedEngine) -> Result<Snapshot, StorageError> {
        let making = OwnedDir::new(self.temporary(MAKING), false);
        let path = making.path();
        engine.checkpoint(&path)?;
        durable_fs::crash_point("build-checkpointed");
        // From the copy itself: entries may have been applied since the copy was made.
        let applied = RocksEngine::read_applied_at(&self.settings, &path)?;
        let mut files = Vec::new();
        for name in durable_fs::names(&path)? {
            let file = path.join(&name);
            let size = fs::metadata(&file)
                .map_err(StorageError::io(format!("cannot read {}", file.display())))?
                .len();
            durable_fs::sync(&file)?;
            files.push(SnapshotFile { name, bytes: size });
        }
        let meta = SnapshotMeta { id: new_id(&applied), applied, files };
        write_meta(&path, &meta)?;
        let snapshot = Snapshot::new(meta, Source::Directory(making));
        self.make_current(&snapshot)?;
        Ok(snapshot)
    }

    /// A new directory for a snapshot that comes from another node.
    pub(crate) fn incoming(&self) -> Result<OwnedDir, StorageError> {
        let path = self.temporary(INCOMING);
        durable_fs::create_dir(&path)?;
        Ok(OwnedDir::new(path, false))
    }

    /// Gives the snapshot its final name; the one before goes with its last reader.
    pub(crate) fn make_current(&self, snapshot: &Snapshot) -> Result<(), StorageError> {
        let Source::Directory(dir) = &snapshot.0.source else {
            return Err(StorageError::refused("the snapshot is one of an in-memory node"));
        };
        let mut current = self.current.lock();
        if current.as_ref().is_some_and(|current| Arc::ptr_eq(&current.0, &snapshot.0)) {
            return Ok(());
        }
        dir.rename(self.final_name(&snapshot.meta().id))?;
        dir.set_keep(true);
        if let Some(before) = current.replace(snapshot.clone()) {
            if let Source::Directory(before) = &before.0.source {
                before.set_keep(false);
            }
        }
        Ok(())
    }

    /// A free name for a snapshot: the same one may have been received twice.
    fn final_name(&self, id: &str) -> PathBuf {
        let mut path = self.dir.join(id);
        while path.exists() {
            path = self.dir.join(format!("{id}~{}", self.next.fetch_add(1, Ordering::Relaxed)));
        }
        path
    }

    fn temporary(&self, prefix: &str) -> PathBuf {
        self.dir.join(format!("{prefix}{}", self.next.fetch_add(1, Ordering::Relaxed)))
    }
}

pub(crate) fn new_id(applied: &AppliedState) -> String {
    let at = applied.log_id.unwrap_or_default();
    // Tells snapshots of different nodes apart; nothing is decided by it.
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    format!("{}-{}-{clock:x}", at.term, at.index)
}

/// Checks what another node says about its snapshot before anything is made of it.
pub(crate) fn check_foreign(meta: &SnapshotMeta) -> Result<(), StorageError> {
    let reserved = meta.id.starts_with(MAKING) || meta.id.starts_with(INCOMING);
    if reserved || !is_plain_name(&meta.id) {
        return Err(StorageError::refused(format!("\"{}\" is not a snapshot id", meta.id.escape_debug())));
    }
    let mut seen = std::collections::HashSet::new();
    for file in &meta.files {
        if file.name == META || !is_plain_name(&file.name) || !seen.insert(&file.name) {
            let name = file.name.escape_debug();
            return Err(StorageError::refused(format!("\"{name}\" cannot be a file of a snapshot")));
        }
    }
    Ok(())
}

/// Writes the meta and makes the whole directory durable.
pub(crate) fn write_meta(dir: &Path, meta: &SnapshotMeta) -> Result<(), StorageError> {
    let mut content = layout::encode_meta(meta);
    content.extend_from_slice(&crc32fast::hash(&content).to_be_bytes());
    durable_fs::write_atomic(dir, META, &content)
}

/// The meta of a snapshot whose files are all there in their sizes; `None` when it is not whole.
fn read_meta(dir: &Path) -> Option<SnapshotMeta> {
    let content = fs::read(dir.join(META)).ok()?;
    let (body, crc) = content.split_last_chunk::<4>()?;
    if crc32fast::hash(body) != u32::from_be_bytes(*crc) {
        return None;
    }
    let meta: SnapshotMeta = layout::decode_meta("the meta of a snapshot", body).ok()?;
    let whole = meta
        .files
        .iter()
        .all(|file| fs::metadata(dir.join(&file.name)).is_ok_and(|found| found.len() == file.bytes));
    whole.then_some(meta)
}
