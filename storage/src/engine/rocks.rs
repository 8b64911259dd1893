//! RocksDB as the engine.
//!
//! Its own write-ahead log is off: the Raft log is the write-ahead log, and what was not flushed is
//! applied again after a crash.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rocksdb::checkpoint::Checkpoint;
use rocksdb::{
    properties, BlockBasedOptions, Cache, DBCompressionType, Direction, ErrorKind, FlushOptions,
    IteratorMode, LogLevel, Options, ReadOptions, ReadTier, Snapshot, WaitForCompactOptions, WriteBatch,
    WriteOptions, DB,
};
use vaultdb_kv::{Key, KeyBounds, Revision, Value, Versioned};

use super::staged::Stage;
use super::{layout, manifest, Changes, Gauge, Meta};
use crate::chain::{self, Chain};
use crate::durable_fs::{self, OwnedDir};
use crate::error::StorageError;
use crate::options::StoreOptions;
use crate::scrub::PIECE_BYTES;
use crate::state_machine::Lookup;
use crate::types::{AppliedState, LogId};

const BLOCK_BYTES: usize = 8 << 10;
/// About one false positive in a hundred lookups of an absent key.
const BLOOM_BITS_PER_KEY: f64 = 10.0;
/// Room below the 1024 open files that many systems allow a process.
const OPEN_FILES_MAX: i32 = 512;
const MEMTABLES_MAX: i32 = 3;
/// RocksDB's own diary, for post-mortems.
const DIARY_FILES_MAX: usize = 2;
const DIARY_BYTES_MAX: usize = 4 << 20;
const BYTES_PER_SYNC: u64 = 1 << 20;
/// For indexes alone while everything is read once.
const SCRUB_CACHE_BYTES: usize = 4 << 20;
/// How RocksDB tells of a file that is not there or has no usable name.
const MISSING: [&str; 3] = ["No such file or directory", "Is a directory", "Not a directory"];

/// What each generation of the data is opened with; the block cache is shared by them.
#[derive(Clone)]
pub(crate) struct RocksSettings {
    block_cache: Cache,
    write_buffer_bytes: usize,
    background_jobs: i32,
}

impl RocksSettings {
    pub(crate) fn new(options: &StoreOptions) -> Self {
        Self {
            block_cache: Cache::new_lru_cache(options.block_cache_bytes),
            write_buffer_bytes: options.write_buffer_bytes,
            background_jobs: options.background_jobs,
        }
    }

    fn options(&self) -> Options {
        let mut table = BlockBasedOptions::default();
        table.set_block_cache(&self.block_cache);
        table.set_block_size(BLOCK_BYTES);
        table.set_bloom_filter(BLOOM_BITS_PER_KEY, false);
        // Bounds memory by the block cache alone.
        table.set_cache_index_and_filter_blocks(true);
        table.set_pin_l0_filter_and_index_blocks_in_cache(true);

        let mut options = Options::default();
        options.set_block_based_table_factory(&table);
        options.set_compression_type(DBCompressionType::Lz4);
        options.set_write_buffer_size(self.write_buffer_bytes);
        options.set_max_write_buffer_number(MEMTABLES_MAX);
        options.set_level_compaction_dynamic_level_bytes(true);
        options.set_max_background_jobs(self.background_jobs);
        options.set_max_open_files(OPEN_FILES_MAX);
        options.set_bytes_per_sync(BYTES_PER_SYNC);
        options.set_paranoid_checks(true);
        options.set_log_level(LogLevel::Warn);
        options.set_keep_log_file_num(DIARY_FILES_MAX);
        options.set_max_log_file_size(DIARY_BYTES_MAX);
        options
    }
}

pub(crate) struct RocksEngine {
    // Before `dir`: fields are dropped in this order, and the database must be closed before its
    // directory is removed.
    db: DB,
    dir: OwnedDir,
    write_options: WriteOptions,
    memory_only: ReadOptions,
    /// Writes since it was opened, and those of them under 0x00: tells keys from overhead in estimates.
    writes: AtomicU64,
    meta_writes: AtomicU64,
    /// Records of named writes, which RocksDB counts among its keys.
    attempt_records: AtomicU64,
}

impl RocksEngine {
    /// Makes an empty database in `dir`, which must not hold one.
    pub(crate) fn create(settings: &RocksSettings, dir: &Path) -> Result<Self, StorageError> {
        let mut options = settings.options();
        options.create_if_missing(true);
        options.set_error_if_exists(true);
        let engine = Self::new(&options, dir)?;
        for name in durable_fs::names(dir)? {
            durable_fs::sync(&dir.join(name))?;
        }
        durable_fs::sync(dir)?;
        Ok(engine)
    }

    /// Opens the database in `dir`, which must exist.
    pub(crate) fn open(settings: &RocksSettings, dir: &Path) -> Result<Self, StorageError> {
        Self::new(&settings.options(), dir)
    }

    /// Reads all of a database that nobody has open from the disk. Tells whether it came to the end.
    pub(crate) fn verify(
        settings: &RocksSettings,
        dir: &Path,
        pace: crate::scrub::Pace<'_>,
    ) -> Result<bool, StorageError> {
        let alone =
            RocksSettings { block_cache: Cache::new_lru_cache(SCRUB_CACHE_BYTES), ..settings.clone() };
        manifest::check(dir)?;
        let db = DB::open_for_read_only(&alone.options(), dir, false).map_err(|e| open_error(dir, e))?;
        let mut options = ReadOptions::default();
        options.fill_cache(false);
        options.set_verify_checksums(true);
        options.set_readahead_size(PIECE_BYTES);
        let mut items = db.raw_iterator_opt(options);
        items.seek_to_first();
        let mut read = 0;
        while let Some((key, stored)) = items.item() {
            if key.first() == Some(&layout::DATA) {
                layout::split_value(stored)?;
            }
            read += key.len() + stored.len();
            if read >= PIECE_BYTES && !pace(std::mem::take(&mut read) as u64) {
                return Ok(false);
            }
            items.next();
        }
        items.status()?;
        Ok(pace(read as u64))
    }

    fn new(options: &Options, dir: &Path) -> Result<Self, StorageError> {
        manifest::check(dir)?;
        let db = DB::open(options, dir).map_err(|e| open_error(dir, e))?;
        let mut write_options = WriteOptions::default();
        write_options.disable_wal(true);
        let mut memory_only = ReadOptions::default();
        memory_only.set_read_tier(ReadTier::BlockCache);
        Ok(Self {
            db,
            dir: OwnedDir::new(dir.to_path_buf(), true),
            write_options,
            memory_only,
            writes: AtomicU64::new(0),
            meta_writes: AtomicU64::new(0),
            attempt_records: AtomicU64::new(0),
        })
    }

    /// Reads how far a database that nobody has open has come, without changing it.
    pub(crate) fn read_applied_at(
        settings: &RocksSettings,
        dir: &Path,
    ) -> Result<AppliedState, StorageError> {
        let before = durable_fs::names(dir)?;
        let mut options = settings.options();
        options.set_skip_stats_update_on_db_open(true);
        let db = DB::open_for_read_only(&options, dir, false).map_err(|e| open_error(dir, e))?;
        let applied = load_applied(&db);
        drop(db);
        // RocksDB begins a diary even here; it is no part of the data.
        for name in durable_fs::names(dir)?.iter().filter(|name| !before.contains(name)) {
            durable_fs::remove_leftover(&dir.join(name));
        }
        applied
    }

    /// Puts a copy of the whole database into `target`, which must not exist: hard links where files
    /// never change. Flushes first, so that the copy holds everything written before the call, and what
    /// it holds is durable in this database, too.
    pub(crate) fn checkpoint(&self, target: &Path) -> Result<(), StorageError> {
        self.flush()?;
        Checkpoint::new(&self.db)?.create_checkpoint(target)?;
        Ok(())
    }

    /// Has its directory removed once its last user is gone.
    pub(crate) fn retire(&self) {
        self.dir.set_keep(false);
    }

    pub(crate) fn dir(&self) -> PathBuf {
        self.dir.path()
    }

    pub(super) fn property(&self, name: &properties::PropName) -> Result<u64, StorageError> {
        Ok(self.db.property_int_value(name)?.unwrap_or(0))
    }

    /// RocksDB counts each write of a key in a memtable, so the applied id, which is written with every
    /// run, would drown the keys: taken out by its share of the writes.
    fn keys_estimate(&self) -> Result<u64, StorageError> {
        let in_memtables = self.property(properties::NUM_ENTRIES_ACTIVE_MEM_TABLE)?
            + self.property(properties::NUM_ENTRIES_IMM_MEM_TABLES)?;
        let writes = self.writes.load(Ordering::Relaxed).max(1);
        let meta_writes = self.meta_writes.load(Ordering::Relaxed);
        let overhead = (u128::from(in_memtables) * u128::from(meta_writes)).div_ceil(u128::from(writes));
        let estimate = self.property(properties::ESTIMATE_NUM_KEYS)?;
        let attempt_records = self.attempt_records.load(Ordering::Relaxed);
        let others = u64::try_from(overhead).unwrap_or(u64::MAX).saturating_add(attempt_records);
        Ok(estimate.saturating_sub(others))
    }
}

impl RocksEngine {
    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Versioned>, StorageError> {
        let found = layout::with_data_key(key, |key| self.db.get_pinned(key))?;
        found.map(|stored| layout::decode_value(&stored)).transpose()
    }

    /// Never reads the disk.
    pub(crate) fn try_get(&self, key: &[u8]) -> Result<Lookup, StorageError> {
        match layout::with_data_key(key, |key| self.db.get_pinned_opt(key, &self.memory_only)) {
            Ok(found) => Ok(Lookup::Ready(found.map(|stored| layout::decode_value(&stored)).transpose()?)),
            Err(error) if error.kind() == ErrorKind::Incomplete => Ok(Lookup::NeedsDisk),
            Err(error) => Err(error.into()),
        }
    }

    pub(crate) fn revision_of(&self, key: &[u8]) -> Result<Option<Revision>, StorageError> {
        let found = layout::with_data_key(key, |key| self.db.get_pinned(key))?;
        found.map(|stored| layout::decode_revision(&stored)).transpose()
    }

    /// Writes `staged`, then `own` with the meta that it was worked out from, as one.
    pub(crate) fn write(
        &self,
        staged: &Stage,
        own: Option<(&Meta, &Changes<'_>)>,
    ) -> Result<(), StorageError> {
        let mut batch = WriteBatch::default();
        let mut data: Vec<_> = staged.data.iter().collect();
        // In order, so that the memtable's skip list finds each place near the one before.
        data.sort_unstable_by_key(|(key, _)| *key);
        let mut stored = Vec::new();
        for (key, change) in data {
            put(&mut batch, key, change.as_ref().map(|(revision, value)| (*revision, value)), &mut stored);
        }
        let mut applied = (Some(staged.log_id), staged.revision);
        let mut chain = (staged.log_id.index, staged.chain);
        let mut records = (0, 0);
        let mut data_writes = batch.len();
        if let Some((before, changes)) = own {
            for (key, change) in &changes.data {
                put(&mut batch, key, *change, &mut stored);
            }
            records = put_attempts(&mut batch, before, changes);
            data_writes = batch.len();
            put_meta(&mut batch, before, changes);
            applied = (Some(changes.log_id), changes.revision);
            chain = (changes.log_id.index, changes.chain);
        }
        batch.put(layout::APPLIED, layout::encode_meta(&applied));
        batch.put(layout::CHAIN, layout::encode_as(chain::VERSION, &chain));
        let writes = batch.len();
        self.db.write_opt(batch, &self.write_options)?;
        self.writes.fetch_add(writes as u64, Ordering::Relaxed);
        self.meta_writes.fetch_add((writes - data_writes) as u64, Ordering::Relaxed);
        let (came, went) = records;
        self.attempt_records.fetch_add(came, Ordering::Relaxed);
        self.attempt_records.fetch_sub(went, Ordering::Relaxed);
        Ok(())
    }

    /// What was written so far, whatever is written later.
    pub(crate) fn view(&self) -> Result<RocksView<'_>, StorageError> {
        let snapshot = self.db.snapshot();
        // Stored with every write, in the same batch: so it tells exactly what the snapshot holds.
        let (log_id, revision) = match snapshot.get_pinned(layout::APPLIED)? {
            Some(stored) => decode_applied(&stored)?,
            None => (None, 0),
        };
        Ok(RocksView { snapshot, log_id, revision })
    }

    pub(crate) fn load_meta(&self) -> Result<Meta, StorageError> {
        let meta = load_meta(&self.db)?;
        self.attempt_records.store(meta.attempts.len() as u64, Ordering::Relaxed);
        Ok(meta)
    }

    /// Returns once everything written is durable.
    pub(crate) fn flush(&self) -> Result<(), StorageError> {
        let mut options = FlushOptions::default();
        options.set_wait(true);
        Ok(self.db.flush_opt(&options)?)
    }

    /// As [`Self::flush`]; returns once no compaction is under way or due, either.
    pub(crate) fn settle(&self, limit: Duration) -> Result<(), StorageError> {
        let mut options = WaitForCompactOptions::default();
        options.set_flush(true);
        options.set_timeout(u64::try_from(limit.as_micros()).unwrap_or(u64::MAX));
        Ok(self.db.wait_for_compact(&options)?)
    }

    pub(crate) fn gauge(&self) -> Result<Gauge, StorageError> {
        let background_errors = self.property(properties::BACKGROUND_ERRORS)?;
        if background_errors > 0 {
            self.check_background()?;
        }
        let dir = self.dir();
        // A file that a compaction has just removed counts for nothing.
        let size = |name: &String| std::fs::metadata(dir.join(name)).map_or(0, |file| file.len());
        Ok(Gauge {
            keys_estimate: self.keys_estimate()?,
            disk_bytes: durable_fs::names(&dir)?.iter().map(size).sum(),
            background_errors,
        })
    }

    /// Why RocksDB's own threads failed, if that made it take no more writes. Never waits.
    fn check_background(&self) -> Result<(), StorageError> {
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        options.set_no_slowdown(true);
        match self.db.write_opt(WriteBatch::default(), &options) {
            Err(error) if error.kind() != ErrorKind::Incomplete => Err(error.into()),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

/// What a database that should be there cannot be opened for. A file that is missing or says what no version writes
/// is damage; a lock that another process holds, or a disk that fails, is not.
fn open_error(dir: &Path, error: rocksdb::Error) -> StorageError {
    let text = error.to_string();
    let damaged = match error.kind() {
        ErrorKind::Corruption
        | ErrorKind::NotFound
        | ErrorKind::InvalidArgument
        | ErrorKind::NotSupported => true,
        ErrorKind::IOError => MISSING.iter().any(|missing| text.contains(missing)),
        _ => false,
    };
    match damaged {
        true => StorageError::corrupt(dir.display().to_string(), error),
        false => StorageError::Rocks(error),
    }
}

/// The database as it was at one moment.
pub(crate) struct RocksView<'e> {
    snapshot: Snapshot<'e>,
    log_id: Option<LogId>,
    revision: Revision,
}

impl RocksView<'_> {
    pub(crate) fn revision(&self) -> Revision {
        self.revision
    }

    pub(crate) fn log_id(&self) -> Option<LogId> {
        self.log_id
    }

    /// Gives `take` every key within the bounds, in order, with its value and revision, until it answers
    /// `false`.
    pub(crate) fn each(
        &self,
        bounds: &KeyBounds,
        reverse: bool,
        mut take: impl FnMut(&[u8], &[u8], Revision) -> bool,
    ) -> Result<(), StorageError> {
        let (lower, upper) = layout::data_bounds(bounds);
        let mut options = ReadOptions::default();
        // RocksDB looks at nothing outside, not even at what was deleted there.
        options.set_iterate_lower_bound(lower);
        options.set_iterate_upper_bound(upper);
        // A long listing would drive out of the block cache what single reads come back to.
        options.fill_cache(false);
        // Made for each page: an iterator that waits for the next one would hold memtables and files.
        let mut items = self.snapshot.raw_iterator_opt(options);
        if reverse {
            items.seek_to_last();
        } else {
            items.seek_to_first();
        }
        while let Some((key, stored)) = items.item() {
            let (revision, value) = layout::split_value(stored)?;
            if !take(layout::user_key(key)?, value, revision) {
                return Ok(());
            }
            if reverse {
                items.prev();
            } else {
                items.next();
            }
        }
        // It also stops where it cannot read.
        Ok(items.status()?)
    }
}

fn put(batch: &mut WriteBatch, key: &Key, change: Option<(Revision, &Value)>, stored: &mut Vec<u8>) {
    match change {
        Some((revision, value)) => {
            layout::encode_value(revision, value, stored);
            layout::with_data_key(key.as_bytes(), |key| batch.put(key, stored));
        }
        None => layout::with_data_key(key.as_bytes(), |key| batch.delete(key)),
    }
}

/// Tells how many records came and went.
fn put_attempts(batch: &mut WriteBatch, before: &Meta, changes: &Changes<'_>) -> (u64, u64) {
    let (mut came, mut went) = (0, 0);
    if !changes.attempts.is_empty(&before.attempts) {
        for (index, record) in changes.attempts.stored(&before.attempts) {
            batch.put(layout::numbered_key(layout::ATTEMPT, *index), layout::encode_meta(record));
            came += 1;
        }
        for index in changes.attempts.removed(&before.attempts) {
            batch.delete(layout::numbered_key(layout::ATTEMPT, index));
            went += 1;
        }
    }
    (came, went)
}

fn put_meta(batch: &mut WriteBatch, before: &Meta, changes: &Changes<'_>) {
    if changes.attempts.clock != before.attempts.clock {
        batch.put(layout::CLOCK, layout::encode_meta(&changes.attempts.clock));
    }
    for (term, first_index) in &changes.terms {
        batch.put(layout::numbered_key(layout::TERM, *term), layout::encode_meta(first_index));
    }
    for term in before.terms.surplus(changes.terms.len()) {
        batch.delete(layout::numbered_key(layout::TERM, term));
    }
    if let Some(membership) = &changes.membership {
        batch.put(layout::MEMBERSHIP, layout::encode_meta(membership));
    }
    for (name, registration) in &changes.registered {
        batch.put(layout::registration_key(name), layout::encode_meta(registration));
        batch.put(layout::LAST_NODE_ID, layout::encode_meta(&changes.last_node_id));
    }
}

fn decode_applied(stored: &[u8]) -> Result<(Option<LogId>, Revision), StorageError> {
    layout::decode_meta("the applied log id", stored)
}

fn load_applied(db: &DB) -> Result<AppliedState, StorageError> {
    let mut applied = AppliedState::default();
    if let Some(stored) = db.get_pinned(layout::APPLIED)? {
        (applied.log_id, applied.revision) = decode_applied(&stored)?;
    }
    if let Some(stored) = db.get_pinned(layout::MEMBERSHIP)? {
        applied.membership = Some(layout::decode_meta("the membership", &stored)?);
    }
    Ok(applied)
}

/// Begins where the state is if there is none, if it is hashed otherwise, or if an earlier version of this program,
/// which knew of none, went on without it.
fn load_chain(db: &DB, applied: Option<LogId>) -> Result<Chain, StorageError> {
    let index = applied.map_or(0, |id| id.index);
    let anew = Chain::beginning_after(index);
    let Some(stored) = db.get_pinned(layout::CHAIN)? else { return Ok(anew) };
    if stored.first() != Some(&chain::VERSION) {
        return Ok(anew);
    }
    let (at, chain): (u64, Chain) = layout::decode_as(chain::VERSION, "the chain of hashes", &stored)?;
    Ok(if at == index { chain } else { anew })
}

fn load_meta(db: &DB) -> Result<Meta, StorageError> {
    let mut meta = Meta { applied: load_applied(db)?, ..Meta::default() };
    meta.chain = load_chain(db, meta.applied.log_id)?;
    if let Some(stored) = db.get_pinned(layout::LAST_NODE_ID)? {
        meta.last_node_id = layout::decode_meta("the node-id counter", &stored)?;
    }
    if let Some(stored) = db.get_pinned(layout::CLOCK)? {
        meta.attempts.clock = layout::decode_meta("the clock", &stored)?;
    }
    each_under(db, layout::ATTEMPT, |index, stored| {
        let index = layout::decode_number("a named write", index)?;
        meta.attempts.push(index, layout::decode_meta("a named write", stored)?);
        Ok(())
    })?;
    each_under(db, layout::TERM, |term, stored| {
        let term = layout::decode_number("a term", term)?;
        meta.terms.insert(term, layout::decode_meta("a term", stored)?);
        Ok(())
    })?;
    each_under(db, layout::REGISTRATION, |name, stored| {
        let name = std::str::from_utf8(name)
            .map_err(|error| StorageError::corrupt("the name of a registration", error))?;
        meta.registrations.insert(name.to_owned(), layout::decode_meta("a registration", stored)?);
        Ok(())
    })?;
    Ok(meta)
}

/// Calls `take` with the rest of the key and the value of everything stored under `prefix`, in order.
fn each_under(
    db: &DB,
    prefix: &[u8],
    mut take: impl FnMut(&[u8], &[u8]) -> Result<(), StorageError>,
) -> Result<(), StorageError> {
    for item in db.iterator(IteratorMode::From(prefix, Direction::Forward)) {
        let (key, stored) = item?;
        let Some(rest) = key.strip_prefix(prefix) else { break };
        take(rest, &stored)?;
    }
    Ok(())
}
