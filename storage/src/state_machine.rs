//! The replicated state of one node: the engine, the cache over it, and the snapshots of it.
//!
//! Invariant: a write is published (`revision`, `applied`) only after the engine and the cache have it,
//! so whoever waits for an applied id and then reads sees every write up to it.
//!
//! Entries are applied by one thread at a time; everything else may be called from any thread.

use std::cell::Cell;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use vaultdb_kv::{Applied, Key, MemberAddr, NodeId, Revision, Versioned};

use crate::attempts::AttemptLimits;
use crate::cache::{Cache, Found};
use crate::chain::{Checkpoint, Checkpoints};
use crate::durable_fs;
use crate::engine::generations::Generations;
use crate::engine::memory::MemoryEngine;
use crate::engine::rocks::{RocksEngine, RocksSettings};
use crate::engine::staged::StagedEngine;
use crate::engine::{Changes, Engine, EngineHandle, Meta};
use crate::error::StorageError;
use crate::gauges::Gauges;
use crate::options::StoreOptions;
use crate::run;
use crate::scrub::{self, Pace};
use crate::snapshot::receiver::SnapshotReceiver;
use crate::snapshot::shelf::{self, Shelf};
use crate::snapshot::{Snapshot, SnapshotFile, SnapshotMeta, Source, MEMORY_FILE};
use crate::stats::StoreStats;
use crate::terms::{EntryFate, TermHistory};
use crate::types::{AppliedState, LogId, Op};
use crate::view::View;

/// The answer to a read that must not touch the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup {
    Ready(Option<Versioned>),
    /// Only [`StateMachine::get`], on a thread that may block, can tell.
    NeedsDisk,
}

/// The replicated state of one node. Shared as an `Arc`.
pub struct StateMachine {
    core: Arc<Core>,
    home: Home,
    gauges: Gauges,
    /// Held while a snapshot is built or installed: one at a time.
    snapshotting: Mutex<()>,
}

/// What reads and applies need; shared with the thread that watches the engine.
pub(crate) struct Core {
    engine: RwLock<EngineHandle>,
    cache: Cache,
    /// The state as of the last applied entry, and the right to apply.
    applying: Mutex<Meta>,
    applied: RwLock<AppliedState>,
    /// At least as far as `applied`.
    terms: RwLock<Arc<TermHistory>>,
    attempt_limits: AttemptLimits,
    revision: AtomicU64,
    checkpoints: Mutex<Checkpoints>,
    poison: OnceLock<String>,
    /// What was found that is not what was written, here or by others.
    corruption: OnceLock<String>,
}

enum Home {
    Disk { generations: Generations, number: AtomicU64, shelf: Shelf, settings: RocksSettings },
    Memory { current: Mutex<Option<Snapshot>> },
}

impl std::fmt::Debug for StateMachine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StateMachine").field("applied", &self.applied().log_id).finish_non_exhaustive()
    }
}

impl StateMachine {
    /// Opens `<data_dir>/rocksdb` and `<data_dir>/snapshots`, or makes them. What was not flushed before
    /// a crash is missing: apply the log again from after [`StateMachine::applied`].
    ///
    /// # Errors
    /// [`StorageError::Corrupt`], [`StorageError::Rocks`] (also when another process has it open),
    /// [`StorageError::Io`].
    pub fn open(data_dir: &Path, options: StoreOptions) -> Result<Self, StorageError> {
        durable_fs::create_dir(data_dir)?;
        let settings = RocksSettings::new(&options);
        let generations = Generations::new(data_dir.join("rocksdb"))?;
        let (number, engine) = generations.open_current(&settings)?;
        let meta = engine.load_meta()?;
        let shelf = Shelf::open(data_dir.join("snapshots"), settings.clone(), meta.applied.log_id)?;
        let home = Home::Disk { generations, number: AtomicU64::new(number), shelf, settings };
        Self::new(EngineHandle::Rocks(Arc::new(StagedEngine::new(engine)?)), meta, home, &options)
    }

    /// Keeps everything in memory; for tests.
    pub fn in_memory(options: StoreOptions) -> Self {
        let engine = EngineHandle::Memory(Arc::new(MemoryEngine::default()));
        let home = Home::Memory { current: Mutex::new(None) };
        Self::new(engine, Meta::default(), home, &options).expect("a map in memory has figures at any time")
    }

    fn new(
        engine: EngineHandle,
        meta: Meta,
        home: Home,
        options: &StoreOptions,
    ) -> Result<Self, StorageError> {
        let core = Arc::new(Core {
            engine: RwLock::new(engine),
            cache: Cache::new(options.cache_bytes),
            applied: RwLock::new(meta.applied.clone()),
            terms: RwLock::new(Arc::new(meta.terms.clone())),
            attempt_limits: options.attempts,
            revision: AtomicU64::new(meta.applied.revision),
            checkpoints: Mutex::new(Checkpoints::starting(meta.applied.log_id, meta.chain)),
            applying: Mutex::new(meta),
            poison: OnceLock::new(),
            corruption: OnceLock::new(),
        });
        let gauges = Gauges::start(&core)?;
        Ok(Self { core, home, gauges, snapshotting: Mutex::new(()) })
    }

    /// How far entries have been applied; every read that begins now sees them.
    pub fn applied(&self) -> AppliedState {
        self.core.applied.read().clone()
    }

    /// Revision of the state that every read that begins now sees at least.
    pub fn revision(&self) -> Revision {
        self.core.revision.load(Ordering::Acquire)
    }

    /// Applies a run of entries in one atomic write; one answer an entry, in order. Not durable when it
    /// returns: the log is what makes it durable.
    ///
    /// # Errors
    /// [`StorageError::OutOfOrder`]: nothing was changed. After any other error the store is poisoned.
    pub fn apply(&self, run: &[(LogId, Op)]) -> Result<Vec<Applied>, StorageError> {
        let core = &*self.core;
        core.check()?;
        if run.is_empty() {
            return Ok(Vec::new());
        }
        let mut meta = core.applying.lock();
        let engine = core.engine();
        let stored = |key: &[u8]| match core.cache.revision_of(key) {
            None => engine.revision_of(key),
            known => Ok(known),
        };
        let evaluated = run::evaluate(&meta, &core.attempt_limits, run, stored);
        let (changes, answers) = evaluated.map_err(|error| core.fail(error))?;
        engine.write(&meta, &changes).map_err(|error| core.fail(error))?;
        core.finish(&mut meta, &changes);
        Ok(answers)
    }

    /// Writes a part of a state that is not the outcome of entries, to a store that holds nothing else.
    pub(crate) fn take_in(&self, changes: &Changes<'_>) -> Result<(), StorageError> {
        let core = &*self.core;
        core.check()?;
        let mut meta = core.applying.lock();
        if meta.applied.log_id.is_some_and(|applied| applied != changes.log_id) {
            return Err(StorageError::refused("the store is not empty"));
        }
        core.engine().write(&meta, changes).map_err(|error| core.fail(error))?;
        core.finish(&mut meta, changes);
        Ok(())
    }

    /// Applies a run like [`StateMachine::apply`] if that takes memory alone: no read of the disk, no wait
    /// for a flush, a compaction or another thread. `None` when it would, and then nothing was changed.
    ///
    /// # Errors
    /// As [`StateMachine::apply`].
    pub fn try_apply(&self, run: &[(LogId, Op)]) -> Result<Option<Vec<Applied>>, StorageError> {
        let core = &*self.core;
        core.check()?;
        if run.is_empty() {
            return Ok(Some(Vec::new()));
        }
        let Some(mut meta) = core.applying.try_lock() else { return Ok(None) };
        let engine = core.engine();
        let needs_disk = Cell::new(false);
        let stored = |key: &[u8]| match core.cache.revision_of(key) {
            Some(revision) => Ok(Some(revision)),
            None => match engine.try_get(key)? {
                Lookup::Ready(found) => Ok(found.map(|found| found.revision)),
                Lookup::NeedsDisk => {
                    needs_disk.set(true);
                    Ok(None)
                }
            },
        };
        let evaluated = run::evaluate(&meta, &core.attempt_limits, run, stored);
        let (changes, answers) = evaluated.map_err(|error| core.fail(error))?;
        if needs_disk.get() || !engine.try_write(&meta, &changes).map_err(|error| core.fail(error))? {
            return Ok(None);
        }
        core.finish(&mut meta, &changes);
        Ok(Some(answers))
    }

    /// The value of a key; may read the disk.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`], [`StorageError::Rocks`], [`StorageError::Poisoned`].
    pub fn get(&self, key: &Key) -> Result<Option<Versioned>, StorageError> {
        match self.look_up(key, |engine, key| engine.get(key).map(Lookup::Ready))? {
            Lookup::Ready(found) => Ok(found),
            Lookup::NeedsDisk => unreachable!("a read that may use the disk is always answered"),
        }
    }

    /// The value of a key, unless telling it takes a read of the disk.
    ///
    /// # Errors
    /// As [`StateMachine::get`].
    pub fn try_get(&self, key: &Key) -> Result<Lookup, StorageError> {
        self.look_up(key, |engine, key| engine.try_get(key))
    }

    fn look_up(
        &self,
        key: &Key,
        read: impl FnOnce(&dyn Engine, &[u8]) -> Result<Lookup, StorageError>,
    ) -> Result<Lookup, StorageError> {
        self.core.check()?;
        let key = key.as_bytes();
        let token = match self.core.cache.begin_fill(key) {
            Found::Hit(found) => return Ok(Lookup::Ready(Some(found))),
            Found::Miss(token) => token,
        };
        // After the token: an engine that was replaced before it is not the one read here.
        let engine = self.core.engine();
        let answer = read(&*engine, key).map_err(|error| self.core.fail_read(error))?;
        if let Lookup::Ready(Some(found)) = &answer {
            self.core.cache.complete_fill(token, key, found);
        }
        Ok(answer)
    }

    /// The state as it is now, which stays as it is: holds every write that was applied before the call.
    /// Writes what is staged to RocksDB, so it may wait for the disk.
    ///
    /// # Errors
    /// [`StorageError::Rocks`], [`StorageError::Poisoned`]: the store has failed. [`StorageError::Io`] when
    /// there is no thread for it.
    pub fn view(&self) -> Result<View, StorageError> {
        self.core.check()?;
        let core = Arc::downgrade(&self.core);
        match self.core.engine() {
            EngineHandle::Rocks(engine) => {
                engine.write_out().map_err(|error| self.core.fail(error))?;
                View::on_disk(engine, core)
            }
            EngineHandle::Memory(engine) => {
                let (data, applied) = engine.copy();
                Ok(View::in_memory(data, &applied, core))
            }
        }
    }

    /// What was found corrupt, if anything was: the data must not be used again.
    pub fn corruption(&self) -> Option<String> {
        self.core.corruption.get().cloned()
    }

    /// Something of this node is not what was written, so nothing is answered from its data any more.
    pub fn condemn(&self, reason: &str) {
        // What it answers is what it was told.
        let _ = self.core.fail(StorageError::corrupt("this node's data", reason));
    }

    /// The latest registration of a node name.
    pub fn registered(&self, name: &str) -> Option<(NodeId, Option<String>, MemberAddr)> {
        let meta = self.core.applying.lock();
        let latest = meta.registrations.get(name)?;
        Some((latest.id, latest.instance.clone(), latest.addr.clone()))
    }

    /// What became of an entry that a leader once had in its log, as far as this node has applied. From
    /// memory.
    pub fn fate(&self, entry: LogId) -> EntryFate {
        // Read first: the history may be ahead of it, not behind.
        let applied = self.core.applied.read().log_id;
        let terms = self.core.terms.read().clone();
        terms.fate(entry, applied)
    }

    /// The chain of hashes at some of the last entries and at the very last one, in their order. From memory.
    pub fn checkpoints(&self) -> Vec<Checkpoint> {
        self.core.checkpoints.lock().list()
    }

    /// The same, for another node: the last one stays in the list when more is applied, within a bound.
    pub fn tell_checkpoints(&self) -> Vec<Checkpoint> {
        self.core.checkpoints.lock().tell()
    }

    /// Figures, read from memory.
    pub fn stats(&self) -> StoreStats {
        let (keys_estimate, disk_bytes) = self.gauges.read(&self.core);
        StoreStats { revision: self.revision(), keys_estimate, disk_bytes, cache: self.core.cache.stats() }
    }

    /// For how long the oldest applied write that RocksDB does not have has been waiting. From memory.
    pub fn writes_waiting(&self) -> Duration {
        match self.core.engine() {
            EngineHandle::Rocks(engine) => engine.waiting(),
            EngineHandle::Memory(_) => Duration::ZERO,
        }
    }

    /// Returns once everything applied so far is durable in the engine itself.
    ///
    /// # Errors
    /// [`StorageError::Rocks`]; the store is then poisoned.
    pub fn flush(&self) -> Result<(), StorageError> {
        self.core.check()?;
        self.core.engine().flush().map_err(|error| self.core.fail(error))
    }

    /// As [`Self::flush`]; returns once nothing changes the files either, unless more is written. Condemns nothing.
    ///
    /// # Errors
    /// [`StorageError::Rocks`], also when it is not so within `limit`.
    pub fn settle(&self, limit: Duration) -> Result<(), StorageError> {
        self.core.check()?;
        match self.core.engine() {
            EngineHandle::Rocks(engine) => engine.settle(limit),
            EngineHandle::Memory(_) => Ok(()),
        }
    }

    /// A snapshot of what is applied, which becomes the current one. When this returns, the state up to
    /// the snapshot's applied id is durable twice: in the snapshot and in the engine itself, so the log
    /// may be purged up to it. Entries may be applied meanwhile. Reads and writes the disk.
    ///
    /// # Errors
    /// [`StorageError::Rocks`], [`StorageError::Io`]; the store is then poisoned.
    pub fn build_snapshot(&self) -> Result<Snapshot, StorageError> {
        let core = &*self.core;
        core.check()?;
        let _one_at_a_time = self.snapshotting.lock();
        if let Some(current) = self.current_snapshot() {
            if current.meta().applied == self.applied() {
                return Ok(current);
            }
        }
        match (&self.home, core.engine()) {
            (Home::Disk { shelf, .. }, EngineHandle::Rocks(engine)) => {
                shelf.build(&engine).map_err(|error| core.fail(error))
            }
            (Home::Memory { current }, EngineHandle::Memory(engine)) => {
                let (meta, dump) = engine.dump();
                let (bytes, crc32) = (dump.len() as u64, crc32fast::hash(&dump));
                let file = SnapshotFile { name: MEMORY_FILE.into(), bytes, crc32 };
                let id = shelf::new_id(&meta.applied);
                let meta = SnapshotMeta { id, applied: meta.applied, files: vec![file] };
                let snapshot = Snapshot::new(meta, Source::Memory(vec![dump]));
                *current.lock() = Some(snapshot.clone());
                Ok(snapshot)
            }
            (Home::Disk { .. }, EngineHandle::Memory(_)) | (Home::Memory { .. }, EngineHandle::Rocks(_)) => {
                unreachable!("home and engine are made together")
            }
        }
    }

    /// The snapshot that was built or installed last, if any.
    pub fn current_snapshot(&self) -> Option<Snapshot> {
        match &self.home {
            Home::Disk { shelf, .. } => shelf.current(),
            Home::Memory { current } => current.lock().clone(),
        }
    }

    /// Reads all that is on disk and compares it with its checksums, as fast as `pace` lets it. Tells whether it came
    /// to the end.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`]: the store is then condemned. [`StorageError::Rocks`], [`StorageError::Io`].
    pub fn scrub(&self, pace: Pace<'_>) -> Result<bool, StorageError> {
        self.core.check()?;
        let Home::Disk { generations, number, shelf, settings } = &self.home else { return Ok(true) };
        let mut all = || {
            {
                // No other generation comes into force meanwhile.
                let _one_at_a_time = self.snapshotting.lock();
                generations.check_pointer(number.load(Ordering::Acquire))?;
            }
            if let Some(current) = shelf.current() {
                if !scrub::snapshot(&current, pace)? {
                    return Ok(false);
                }
            }
            let copy = shelf.scratch();
            match self.core.engine() {
                // Not held while the copy is read, which takes long: what an installed snapshot replaces goes with its
                // last user.
                EngineHandle::Rocks(engine) => engine.checkpoint(&copy.path())?,
                EngineHandle::Memory(_) => return Ok(true),
            }
            RocksEngine::verify(settings, &copy.path(), pace)
        };
        all().map_err(|error| self.core.fail_read(error))
    }

    /// Begins to take a snapshot from another node. Goes on where an interrupted reception stopped, see
    /// [`SnapshotReceiver::received`]; one reception at a time can. May read all of what is there.
    ///
    /// # Errors
    /// [`StorageError::Refused`] when the names in `meta` are not ours, or it comes from a node that keeps
    /// its data otherwise (in memory or on disk). [`StorageError::Io`].
    pub fn receive_snapshot(&self, meta: SnapshotMeta) -> Result<SnapshotReceiver, StorageError> {
        self.core.check()?;
        shelf::check_foreign(&meta)?;
        let from_memory = meta.files.len() == 1 && meta.files[0].name == MEMORY_FILE;
        match &self.home {
            Home::Disk { shelf, .. } if !from_memory => shelf.receive(meta),
            Home::Memory { .. } if from_memory => Ok(SnapshotReceiver::into_memory(meta)),
            Home::Disk { .. } | Home::Memory { .. } => Err(StorageError::refused(format!(
                "snapshot {} cannot be used here: nodes with and without -inmem do not mix",
                meta.id
            ))),
        }
    }

    /// Replaces the whole state by a snapshot's, which becomes the current one. After a kill at any
    /// moment the old state is there, or the new.
    ///
    /// # Errors
    /// [`StorageError::Refused`] when the snapshot is older than what is applied: nothing was changed.
    /// After any other error the store is poisoned.
    pub fn install_snapshot(&self, snapshot: &Snapshot) -> Result<(), StorageError> {
        let core = &*self.core;
        core.check()?;
        let _one_at_a_time = self.snapshotting.lock();
        let mut meta = core.applying.lock();
        let target = snapshot.meta();
        if target.applied.log_id < meta.applied.log_id {
            return Err(StorageError::refused(format!(
                "snapshot {} is at {:?}, already applied is {:?}",
                target.id, target.applied.log_id, meta.applied.log_id
            )));
        }
        let engine = self.open_installed(snapshot).map_err(|error| core.fail(error))?;
        let new_meta = engine.load_meta().map_err(|error| core.fail(error))?;
        let old = std::mem::replace(&mut *core.engine.write(), engine);
        // After the new engine is visible: a fill that began before read the old one and is dropped
        // here; one that begins later reads the new one.
        core.cache.clear();
        if let EngineHandle::Rocks(old) = &old {
            old.retire();
        }
        drop(old);
        *meta = new_meta;
        *core.checkpoints.lock() = Checkpoints::starting(meta.applied.log_id, meta.chain);
        core.publish(&meta, true);
        match &self.home {
            Home::Disk { shelf, .. } => shelf.make_current(snapshot).map_err(|error| core.fail(error)),
            Home::Memory { current } => {
                *current.lock() = Some(snapshot.clone());
                Ok(())
            }
        }
    }

    /// An engine over the snapshot's content; on disk it is the one in force from here on.
    fn open_installed(&self, snapshot: &Snapshot) -> Result<EngineHandle, StorageError> {
        match (&self.home, &snapshot.0.source) {
            (Home::Disk { generations, number, settings, .. }, Source::Directory(dir)) => {
                let next = number.load(Ordering::Acquire) + 1;
                let names: Vec<&str> = snapshot.meta().files.iter().map(|file| file.name.as_str()).collect();
                let path = generations.fill(next, &dir.path(), &names)?;
                durable_fs::crash_point("install-filled");
                let engine = RocksEngine::open(settings, &path)?;
                let found = engine.load_meta()?.applied;
                if found != snapshot.meta().applied {
                    engine.retire();
                    let reason = format!("it holds the state at {:?}", found.log_id);
                    return Err(StorageError::corrupt(format!("snapshot {}", snapshot.meta().id), reason));
                }
                durable_fs::crash_point("install-opened");
                generations.switch_to(next)?;
                durable_fs::crash_point("install-switched");
                number.store(next, Ordering::Release);
                Ok(EngineHandle::Rocks(Arc::new(StagedEngine::new(engine)?)))
            }
            (Home::Memory { .. }, Source::Memory(files)) => {
                let dump = files.first().map(AsRef::as_ref).unwrap_or_default();
                Ok(EngineHandle::Memory(Arc::new(MemoryEngine::from_dump(dump)?)))
            }
            (Home::Disk { .. }, Source::Memory(_)) | (Home::Memory { .. }, Source::Directory(_)) => {
                Err(StorageError::refused("the snapshot is of another kind of store"))
            }
        }
    }
}

impl Core {
    pub(crate) fn engine(&self) -> EngineHandle {
        self.engine.read().clone()
    }

    /// What follows a write to the engine: the cache has it, then everybody sees it.
    fn finish(&self, meta: &mut Meta, changes: &Changes<'_>) {
        for (key, change) in &changes.data {
            self.cache.update(key.as_bytes(), *change);
        }
        meta.advance(changes);
        let now = Checkpoint { index: changes.log_id.index, chain: changes.chain };
        self.checkpoints.lock().advance(&changes.checkpoints, now);
        self.publish(meta, !changes.terms.is_empty());
    }

    fn publish(&self, meta: &Meta, is_new_term: bool) {
        // Before `applied`, which must never be ahead of it.
        if is_new_term {
            *self.terms.write() = Arc::new(meta.terms.clone());
        }
        *self.applied.write() = meta.applied.clone();
        self.revision.store(meta.applied.revision, Ordering::Release);
    }

    pub(crate) fn check(&self) -> Result<(), StorageError> {
        match self.poison.get() {
            None => Ok(()),
            Some(reason) => Err(StorageError::Poisoned { reason: reason.clone() }),
        }
    }

    /// A read that failed may be tried again, but not where what is read is not what was written.
    pub(crate) fn fail_read(&self, error: StorageError) -> StorageError {
        match error {
            StorageError::Corrupt { .. } => self.fail(error),
            other => other,
        }
    }

    /// Ends the use of the store, unless the error changed nothing.
    pub(crate) fn fail(&self, error: StorageError) -> StorageError {
        if !error.is_harmless() {
            log::error!("the store has failed: {error}");
            if matches!(error, StorageError::Corrupt { .. }) {
                self.corruption.get_or_init(|| error.to_string());
            }
            // The first reason stays.
            self.poison.get_or_init(|| match &error {
                StorageError::Poisoned { reason } => reason.clone(),
                other => other.to_string(),
            });
        }
        error
    }
}

mod flip;
#[cfg(test)]
mod stale_fill_tests;
