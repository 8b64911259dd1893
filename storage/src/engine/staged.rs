//! RocksDB behind a stage: writes gather in a hash table and go into RocksDB's memtable in sorted runs of
//! thousands, on a thread of their own.
//!
//! A skip list finds the place of a single random key by some twenty cache misses, which was a third of all
//! that a follower does for a write; neighbours in a sorted run share most of them. The Raft log is what
//! makes writes durable, so nothing is lost with the stage that would not be lost with the memtable.
//!
//! Invariant: a read looks at the active stage, then at the one that is being written out, then at RocksDB;
//! a write moves the same way and leaves a place only once it is in the next, so no read misses it. RocksDB
//! always holds the state as of one log id, which is stored in the same batch.

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use parking_lot::{Condvar, Mutex, RwLock};
use vaultdb_kv::{Key, Revision, Value, Versioned};

use super::rocks::RocksEngine;
use super::{Changes, Engine, Gauge, Meta};
use crate::chain::Chain;
use crate::error::StorageError;
use crate::state_machine::Lookup;
use crate::types::LogId;

/// From this many keys or bytes on, a stage is written out.
const STAGE_KEYS: usize = 16 * 1024;
const STAGE_BYTES: usize = 4 << 20;
/// At this many keys or bytes writes wait until RocksDB has caught up.
const STAGE_KEYS_MAX: usize = 64 * 1024;
const STAGE_BYTES_MAX: usize = 16 << 20;
/// What a staged key takes besides its bytes: slot of the table, two shared buffers.
const KEY_OVERHEAD_BYTES: usize = 128;

/// Writes that RocksDB does not have yet: what each key holds, `None` when it was deleted.
#[derive(Debug, Default)]
pub(crate) struct Stage {
    pub(crate) data: HashMap<Key, Option<(Revision, Value)>>,
    bytes: usize,
    /// When the first of them came.
    since: Option<Instant>,
    /// The state that RocksDB is at once it has this stage.
    pub(crate) log_id: LogId,
    pub(crate) revision: Revision,
    pub(crate) chain: Chain,
}

#[derive(Default)]
struct Stages {
    active: Stage,
    /// Being written out.
    leaving: Option<Arc<Stage>>,
    /// The table of an earlier stage, emptied: a new one would grow and hash all anew.
    spare: HashMap<Key, Option<(Revision, Value)>>,
}

struct Shared {
    rocks: RocksEngine,
    stages: RwLock<Stages>,
    /// Held by whoever writes to RocksDB. Taken before `stages`.
    writing: Mutex<()>,
    orders: Mutex<Orders>,
    ordered: Condvar,
    /// Why writing to RocksDB failed; everything to come fails with it.
    failure: OnceLock<String>,
}

#[derive(Default)]
struct Orders {
    write_out: bool,
    stop: bool,
}

pub(crate) struct StagedEngine {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl StagedEngine {
    pub(crate) fn new(rocks: RocksEngine) -> Result<Self, StorageError> {
        let shared = Arc::new(Shared {
            rocks,
            stages: RwLock::default(),
            writing: Mutex::default(),
            orders: Mutex::default(),
            ordered: Condvar::new(),
            failure: OnceLock::new(),
        });
        let for_thread = shared.clone();
        let thread = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || for_thread.run())
            .map_err(StorageError::io("cannot start a thread"))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// See [`RocksEngine::checkpoint`].
    pub(crate) fn checkpoint(&self, target: &Path) -> Result<(), StorageError> {
        self.shared.write_out()?;
        self.shared.rocks.checkpoint(target)
    }

    /// Returns once RocksDB has everything that was written before the call.
    pub(crate) fn write_out(&self) -> Result<(), StorageError> {
        self.shared.write_out()
    }

    /// What the stage is in front of.
    pub(crate) fn rocks(&self) -> &RocksEngine {
        &self.shared.rocks
    }

    /// See [`RocksEngine::settle`].
    pub(crate) fn settle(&self, limit: Duration) -> Result<(), StorageError> {
        self.shared.write_out()?;
        self.shared.rocks.settle(limit)
    }

    /// For how long the oldest write that RocksDB does not have has been waiting. From memory.
    pub(crate) fn waiting(&self) -> Duration {
        let stages = self.shared.stages.read();
        let leaving = stages.leaving.as_ref().and_then(|stage| stage.since);
        leaving.or(stages.active.since).map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// See [`RocksEngine::retire`].
    pub(crate) fn retire(&self) {
        self.shared.rocks.retire();
    }
}

impl Stage {
    fn look_up(&self, key: &[u8]) -> Option<Option<Versioned>> {
        let staged = self.data.get(key)?.as_ref();
        Some(staged.map(|(revision, value)| Versioned { value: value.clone(), revision: *revision }))
    }

    fn take_in(&mut self, changes: &Changes<'_>) {
        self.since.get_or_insert_with(Instant::now);
        for (key, change) in &changes.data {
            let owned = change.map(|(revision, value)| (revision, value.clone()));
            self.bytes +=
                key.as_bytes().len() + change.map_or(0, |(_, value)| value.len()) + KEY_OVERHEAD_BYTES;
            self.data.insert((*key).clone(), owned);
        }
        self.log_id = changes.log_id;
        self.revision = changes.revision;
        self.chain = changes.chain;
    }

    fn is_worth_writing(&self) -> bool {
        self.data.len() >= STAGE_KEYS || self.bytes >= STAGE_BYTES
    }

    fn is_full(&self) -> bool {
        self.data.len() >= STAGE_KEYS_MAX || self.bytes >= STAGE_BYTES_MAX
    }
}

impl Shared {
    fn run(&self) {
        let mut orders = self.orders.lock();
        loop {
            while !orders.write_out && !orders.stop {
                self.ordered.wait(&mut orders);
            }
            if orders.stop {
                return;
            }
            orders.write_out = false;
            parking_lot::MutexGuard::unlocked(&mut orders, || {
                if let Err(error) = self.write_out() {
                    log::error!("writing to RocksDB: {error}");
                }
            });
        }
    }

    fn check(&self) -> Result<(), StorageError> {
        match self.failure.get() {
            None => Ok(()),
            Some(reason) => Err(StorageError::Poisoned { reason: reason.clone() }),
        }
    }

    /// Returns once RocksDB has everything that was staged before the call.
    fn write_out(&self) -> Result<(), StorageError> {
        let _writing = self.writing.lock();
        self.write_out_with(None)
    }

    /// Writes the stage, and in the same batch what cannot be staged. The caller holds `writing`.
    fn write_out_with(&self, own: Option<(&Meta, &Changes<'_>)>) -> Result<(), StorageError> {
        self.check()?;
        let leaving = {
            let mut stages = self.stages.write();
            let next = Stage { data: std::mem::take(&mut stages.spare), ..Stage::default() };
            let leaving = Arc::new(std::mem::replace(&mut stages.active, next));
            stages.leaving = Some(leaving.clone());
            leaving
        };
        let is_idle = leaving.log_id == LogId::default() && own.is_none();
        let written = if is_idle { Ok(()) } else { self.rocks.write(&leaving, own) };
        if let Err(error) = written {
            // What was leaving stays readable: the node is unfit, and yet says nothing untrue.
            self.failure.get_or_init(|| error.to_string());
            return Err(error);
        }
        self.stages.write().leaving = None;
        if let Some(mut written) = Arc::into_inner(leaving) {
            written.data.clear();
            self.stages.write().spare = written.data;
        }
        Ok(())
    }

    fn look_up(&self, key: &[u8]) -> Option<Option<Versioned>> {
        let stages = self.stages.read();
        stages.active.look_up(key).or_else(|| stages.leaving.as_ref()?.look_up(key))
    }

    /// Takes the changes in unless there is no room; tells whether it did.
    fn stage(&self, changes: &Changes<'_>) -> bool {
        let is_worth_writing = {
            let mut stages = self.stages.write();
            if stages.active.is_full() {
                return false;
            }
            stages.active.take_in(changes);
            stages.active.is_worth_writing()
        };
        if is_worth_writing {
            self.order(|orders| orders.write_out = true);
        }
        true
    }

    fn order(&self, order: impl FnOnce(&mut Orders)) {
        order(&mut self.orders.lock());
        self.ordered.notify_one();
    }
}

impl Engine for StagedEngine {
    fn get(&self, key: &[u8]) -> Result<Option<Versioned>, StorageError> {
        match self.shared.look_up(key) {
            Some(staged) => Ok(staged),
            None => self.shared.rocks.get(key),
        }
    }

    fn try_get(&self, key: &[u8]) -> Result<Lookup, StorageError> {
        match self.shared.look_up(key) {
            Some(staged) => Ok(Lookup::Ready(staged)),
            None => self.shared.rocks.try_get(key),
        }
    }

    fn revision_of(&self, key: &[u8]) -> Result<Option<Revision>, StorageError> {
        match self.shared.look_up(key) {
            Some(staged) => Ok(staged.map(|staged| staged.revision)),
            None => self.shared.rocks.revision_of(key),
        }
    }

    fn write(&self, before: &Meta, changes: &Changes<'_>) -> Result<(), StorageError> {
        self.shared.check()?;
        if changes.is_data_only(before) {
            while !self.shared.stage(changes) {
                self.shared.write_out()?;
            }
            return Ok(());
        }
        let _writing = self.shared.writing.lock();
        self.shared.write_out_with(Some((before, changes)))
    }

    fn try_write(&self, before: &Meta, changes: &Changes<'_>) -> Result<bool, StorageError> {
        self.shared.check()?;
        Ok(changes.is_data_only(before) && self.shared.stage(changes))
    }

    fn load_meta(&self) -> Result<Meta, StorageError> {
        self.shared.write_out()?;
        self.shared.rocks.load_meta()
    }

    fn flush(&self) -> Result<(), StorageError> {
        self.shared.write_out()?;
        self.shared.rocks.flush()
    }

    fn gauge(&self) -> Result<Gauge, StorageError> {
        // Once a second, so that an idle store has everything in RocksDB, too.
        self.shared.write_out()?;
        self.shared.rocks.gauge()
    }
}

impl Drop for StagedEngine {
    fn drop(&mut self) {
        self.shared.order(|orders| orders.stop = true);
        if let Some(thread) = self.thread.take() {
            if thread.join().is_err() {
                log::error!("the thread that writes to RocksDB panicked");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use bytes::Bytes;

    use super::*;
    use crate::engine::rocks::RocksSettings;
    use crate::options::StoreOptions;

    fn engine(dir: &Path) -> StagedEngine {
        let settings = RocksSettings::new(&StoreOptions::default());
        StagedEngine::new(RocksEngine::create(&settings, dir).unwrap()).unwrap()
    }

    /// What is staged, what is on its way and what RocksDB has are read as one state at any time, also
    /// while a full stage makes the writer wait.
    #[test]
    fn no_write_is_missed_on_its_way() {
        const KEYS: u64 = 700;
        let dir = tempfile::tempdir().unwrap();
        let engine = engine(&dir.path().join("db"));
        let keys: Vec<Key> = (0..KEYS).map(|i| Key::new(i.to_be_bytes().to_vec()).unwrap()).collect();
        let latest = std::sync::atomic::AtomicU64::new(0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let meta = Meta::default();
                for revision in 1..=60 * KEYS {
                    let value = Bytes::from(revision.to_be_bytes().repeat(200));
                    let key = &keys[(revision % KEYS) as usize];
                    let change = (revision % 5 != 0).then_some((revision, &value));
                    let log_id = LogId { term: 1, index: revision };
                    let changes = Changes { revision, log_id, ..Changes::default() };
                    let changes = Changes { data: [(key, change)].into_iter().collect(), ..changes };
                    engine.write(&meta, &changes).unwrap();
                    latest.store(revision, std::sync::atomic::Ordering::Release);
                }
            });
            loop {
                let written = latest.load(std::sync::atomic::Ordering::Acquire);
                if written >= KEYS {
                    let key = &keys[(written % KEYS) as usize];
                    let found = engine.get(key.as_bytes()).unwrap();
                    match &found {
                        Some(found) => assert!(found.revision >= written, "{found:?} after {written}"),
                        None => assert!(
                            written % 5 == 0
                                || latest.load(std::sync::atomic::Ordering::Acquire) >= written + KEYS,
                            "{written}"
                        ),
                    }
                }
                if written == 60 * KEYS {
                    break;
                }
            }
        });
        engine.flush().unwrap();
        let meta = engine.shared.rocks.load_meta().unwrap();
        assert_eq!(meta.applied.revision, 60 * KEYS);
        assert!(engine.shared.stages.read().active.data.is_empty());
    }

    /// A write waits from when it is staged until RocksDB has it, also while another stage is on its way out.
    #[test]
    fn staged_writes_wait_until_they_are_out() {
        let dir = tempfile::tempdir().unwrap();
        let engine = engine(&dir.path().join("db"));
        assert_eq!(engine.waiting(), Duration::ZERO);
        let (key, value) = (Key::new("k").unwrap(), Bytes::from_static(b"v"));
        let write = |revision| {
            let log_id = LogId { term: 1, index: revision };
            let data = [(&key, Some((revision, &value)))].into_iter().collect();
            let changes = Changes { data, log_id, revision, ..Changes::default() };
            assert!(engine.try_write(&Meta::default(), &changes).unwrap());
        };
        write(1);
        let staged = Instant::now();
        let writing = engine.shared.writing.lock();
        write(2);
        let (at_least, waiting) = (staged.elapsed(), engine.waiting());
        assert!(waiting >= at_least, "{waiting:?}");
        drop(writing);
        engine.write_out().unwrap();
        assert_eq!(engine.waiting(), Duration::ZERO);
    }

    /// Files make compactions due; once the engine has settled, everything is in files and none is due or under way.
    #[test]
    fn settled_files_stay() {
        use rocksdb::properties::{
            COMPACTION_PENDING, NUM_ENTRIES_ACTIVE_MEM_TABLE, NUM_RUNNING_COMPACTIONS,
        };
        let dir = tempfile::tempdir().unwrap();
        let engine = engine(&dir.path().join("db"));
        let value = Bytes::from(b"v".repeat(1 << 20));
        for revision in 1..=13 {
            let key = Key::new(format!("k{}", revision % 3)).unwrap();
            let log_id = LogId { term: 1, index: revision };
            let data = [(&key, Some((revision, &value)))].into_iter().collect();
            let changes = Changes { data, log_id, revision, ..Changes::default() };
            engine.write(&Meta::default(), &changes).unwrap();
            if revision < 13 {
                engine.flush().unwrap();
            }
        }
        engine.settle(Duration::from_secs(30)).unwrap();
        for property in [COMPACTION_PENDING, NUM_ENTRIES_ACTIVE_MEM_TABLE, NUM_RUNNING_COMPACTIONS] {
            assert_eq!(engine.shared.rocks.property(property).unwrap(), 0, "{property:?}");
        }
    }

    /// What is no plain data goes to RocksDB at once, together with all that was staged before it.
    #[test]
    fn meta_takes_the_stage_along() {
        let dir = tempfile::tempdir().unwrap();
        let engine = engine(&dir.path().join("db"));
        let (key, value) = (Key::new("k").unwrap(), Bytes::from_static(b"v"));
        let log_id = LogId { term: 1, index: 1 };
        let data = [(&key, Some((1, &value)))].into_iter().collect();
        engine.write(&Meta::default(), &Changes { data, log_id, revision: 1, ..Changes::default() }).unwrap();
        assert_eq!(engine.shared.rocks.get(b"k").unwrap(), None, "staged");
        let log_id = LogId { term: 1, index: 2 };
        let membership = Some((log_id, Bytes::from_static(b"m")));
        let changes = Changes { membership, log_id, revision: 1, ..Changes::default() };
        assert!(!engine.try_write(&Meta::default(), &changes).unwrap(), "not without a wait");
        engine.write(&Meta::default(), &changes).unwrap();
        assert!(engine.shared.rocks.get(b"k").unwrap().is_some());
        assert_eq!(engine.shared.rocks.load_meta().unwrap().applied.log_id, Some(log_id));
    }
}
