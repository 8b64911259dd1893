//! The directory `<data-dir>/snapshots`: at most one snapshot, and what is in the making.
//!
//! ```text
//! <id>/             the current snapshot: files of the database and META (<id>~<n>/ if that was taken)
//! making-<n>/       one that is being built
//! incoming-<n>/     one that is being received, or received and not installed; OFFER tells what it is to be
//! ```
//! A restart removes the second, and keeps at most one of each other.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

use super::checksums::Checksums;
use super::partial::{self, Partial, PartialSlot};
use super::receiver::SnapshotReceiver;
use super::{is_plain_name, meta_file, Snapshot, SnapshotMeta, Source};
use crate::durable_fs::{self, OwnedDir};
use crate::engine::rocks::{RocksEngine, RocksSettings};
use crate::engine::staged::StagedEngine;
use crate::error::StorageError;
use crate::types::{AppliedState, LogId};

const MAKING: &str = "making-";
const INCOMING: &str = "incoming-";

pub(crate) struct Shelf {
    dir: PathBuf,
    settings: RocksSettings,
    next: AtomicU64,
    current: Mutex<Option<Snapshot>>,
    /// What came of a snapshot whose transfer was interrupted.
    partial: PartialSlot,
    checksums: Checksums,
}

impl Shelf {
    /// Opens the shelf; the newest whole snapshot is current again, the newest reception can go on, everything
    /// else is removed. `applied` is what the data holds: a snapshot beyond it does not belong to it. What cannot be
    /// read now may be whole: it fails the start instead of going away.
    pub(crate) fn open(
        dir: PathBuf,
        settings: RocksSettings,
        applied: Option<LogId>,
    ) -> Result<Self, StorageError> {
        durable_fs::create_dir(&dir)?;
        let mut newest: Option<(SnapshotMeta, PathBuf)> = None;
        let partial = PartialSlot::default();
        let mut next = 1;
        for name in durable_fs::names(&dir)? {
            let path = dir.join(&name);
            if let Some(number) = name.strip_prefix(INCOMING) {
                // A new one must not get the name of one that is kept.
                next = next.max(number.parse().map_or(0, |number: u64| number.saturating_add(1)));
                keep_if_newer(&partial, OwnedDir::new(path, false), applied)?;
                continue;
            }
            let meta = if name.starts_with(MAKING) {
                None
            } else {
                meta_file::read_whole(&path)?.filter(|meta| meta.applied.log_id <= applied)
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
        let checksums = Checksums::default();
        let current = newest.map(|(meta, path)| {
            checksums.remember(&path, &meta);
            Snapshot::new(meta, Source::Directory(OwnedDir::new(path, true)))
        });
        let (next, current) = (AtomicU64::new(next), Mutex::new(current));
        Ok(Self { dir, settings, next, current, partial, checksums })
    }

    pub(crate) fn current(&self) -> Option<Snapshot> {
        self.current.lock().clone()
    }

    /// A directory for a copy that nobody keeps; a restart removes what a kill leaves of it.
    pub(crate) fn scratch(&self) -> OwnedDir {
        OwnedDir::new(self.temporary(MAKING), false)
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
            durable_fs::sync(&path.join(&name))?;
            files.push(self.checksums.describe(&path, name)?);
        }
        let meta = SnapshotMeta { id: new_id(&applied), applied, files };
        meta_file::write(&path, meta_file::META, &meta)?;
        let snapshot = Snapshot::new(meta, Source::Directory(making));
        self.make_current(&snapshot)?;
        Ok(snapshot)
    }

    /// Begins to take a snapshot that comes from another node, with what is there of it.
    pub(crate) fn receive(&self, meta: SnapshotMeta) -> Result<SnapshotReceiver, StorageError> {
        let kept = self.partial.lock().take();
        let partial = match kept {
            Some(kept) => kept.rebase(meta)?,
            None => {
                let path = self.temporary(INCOMING);
                durable_fs::create_dir(&path)?;
                Partial::begin(OwnedDir::new(path, false), meta)?
            }
        };
        Ok(SnapshotReceiver::into_directory(partial, self.partial.clone(), self.settings.clone()))
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
        dir.with_path(|path| self.checksums.remember(path, snapshot.meta()));
        self.drop_outdated_partial(snapshot.meta());
        if let Some(before) = current.replace(snapshot.clone()) {
            if let Source::Directory(before) = &before.0.source {
                before.set_keep(false);
            }
        }
        Ok(())
    }

    /// A leader offers only what is beyond this node's own snapshot.
    fn drop_outdated_partial(&self, current: &SnapshotMeta) {
        let mut partial = self.partial.lock();
        if partial.as_ref().is_some_and(|partial| partial.meta.applied.log_id <= current.applied.log_id) {
            if let Some(outdated) = partial.take() {
                outdated.discard();
            }
        }
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
        let is_ours = file.name.starts_with(meta_file::META) || file.name.starts_with(meta_file::OFFER);
        if is_ours || !is_plain_name(&file.name) || !seen.insert(&file.name) {
            let name = file.name.escape_debug();
            return Err(StorageError::refused(format!("\"{name}\" cannot be a file of a snapshot")));
        }
    }
    Ok(())
}

/// Keeps what an earlier process received in `dir` if it is worth going on with.
fn keep_if_newer(slot: &PartialSlot, dir: OwnedDir, applied: Option<LogId>) -> Result<(), StorageError> {
    let Some(found) = Partial::reopen(dir)? else { return Ok(()) };
    let known = slot.lock().as_ref().and_then(|kept| kept.meta.applied.log_id).max(applied);
    if found.meta.applied.log_id > known {
        partial::put_back(slot, found);
    } else {
        found.discard();
    }
    Ok(())
}
