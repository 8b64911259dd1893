//! The Raft log on disk, on raft-log's chunked write-ahead log.
//!
//! Invariant: what a caller was told to be durable is read back after any crash, or opening fails.
//!
//! Where a caller can be held up: behind a read of old entries from the disk (they are read under the
//! same lock); while a chunk ends, for the making of a file; while the disk is so far behind that
//! [`LogOptions::queue_bytes_max`] or [`delivery::FLUSHES_MAX`] is reached, for at most
//! [`LogOptions::queue_wait_max`].

mod delivery;
mod recover;
mod wal_types;

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use raft_log::api::raft_log_writer::RaftLogWriter;
use raft_log::RaftLog;

use self::delivery::Delivery;
use self::wal_types::{WalLogId, WalPayload, WalTypes, WalVote};
use crate::durable_fs;
use crate::error::StorageError;
use crate::log::{LogBounds, LogStore, OnDurable, Payload};
use crate::log_rules;
use crate::options::LogOptions;
use crate::types::{LogId, Vote};

/// Bytes of a chunk that are read at once when the log is opened.
const READ_BUFFER_BYTES: usize = 1 << 20;

/// The Raft log on disk. One process at a time has a directory open.
pub struct DiskLog<P: Payload> {
    inner: Mutex<Inner<P>>,
    delivery: Arc<Delivery>,
    options: LogOptions,
    dir: PathBuf,
}

struct Inner<P: Payload> {
    log: RaftLog<WalTypes<P>>,
    /// Where the last record ends, counted from the beginning of the log: tells how much is written.
    end: u64,
}

impl<P: Payload> std::fmt::Debug for DiskLog<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DiskLog").field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl<P: Payload> DiskLog<P> {
    /// Opens the log in `dir`, or makes it. What a crash left of a write that nobody was told to be
    /// durable is cut off the end; everything that is left is durable.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] for any other damage, [`StorageError::Io`], also when another process
    /// has it open.
    pub fn open(dir: &Path, options: LogOptions) -> Result<Self, StorageError> {
        durable_fs::create_dir(dir)?;
        let utf8 = dir.to_str().ok_or_else(|| {
            StorageError::refused(format!("the path {} is not UTF-8, which the log needs", dir.display()))
        })?;
        let mut config = raft_log::Config::new(utf8);
        config.log_cache_capacity = Some(options.cache_bytes);
        config.log_cache_max_items = Some(usize::MAX);
        config.wal.read_buffer_size = Some(READ_BUFFER_BYTES);
        config.wal.chunk_max_size = Some(options.chunk_bytes);
        config.wal.flush_batch_wait = Some(options.flush_batch_wait);
        config.wal.truncate_incomplete_record = Some(false);
        // Bounded by `Delivery`: this bound would block without limit.
        config.wal.flush_queue_max_bytes = Some(usize::MAX / 2);
        {
            let _locked =
                raft_log::chunked_wal::ChunkedWal::<raft_log::RaftWalTypes<WalTypes<P>>>::acquire_lock(
                    &config.wal,
                )
                .map_err(StorageError::io(format!("cannot lock {utf8}")))?;
            recover::repair_tail::<P>(dir)?;
        }
        let log = RaftLog::open(Arc::new(config)).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock
            | io::ErrorKind::PermissionDenied
            | io::ErrorKind::StorageFull
            | io::ErrorKind::NotFound => {
                StorageError::io(format!("cannot open the Raft log in {utf8}"))(error)
            }
            _ => StorageError::corrupt(format!("the Raft log in {utf8}"), error),
        })?;
        let end = log.stat().open_chunk.global_end;
        let log = Self {
            inner: Mutex::new(Inner { log, end }),
            delivery: Arc::new(Delivery::default()),
            options,
            dir: dir.to_path_buf(),
        };
        log.check_ends()?;
        Ok(log)
    }

    /// raft-log finds a chunk that is missing between others, but not one missing at the beginning.
    fn check_ends(&self) -> Result<(), StorageError> {
        let bounds = self.bounds();
        let what = || format!("the Raft log in {}", self.dir.display());
        let first_index = match bounds.purged {
            Some(purged) => purged.index + 1,
            None => {
                return match recover::chunks(&self.dir)?.first() {
                    Some((start, path)) if *start > 0 => Err(StorageError::corrupt(
                        what(),
                        format!("nothing was purged, but {} is the first file", path.display()),
                    )),
                    Some(_) | None => Ok(()),
                }
            }
        };
        if bounds.last <= bounds.purged {
            return Ok(());
        }
        let first = self
            .read(first_index..first_index + 1, 1)
            .map_err(|error| StorageError::corrupt(what(), error))?;
        match first.is_empty() {
            true => Err(StorageError::corrupt(what(), format!("entry {first_index} is missing"))),
            false => Ok(()),
        }
    }

    /// Hands what was written to the flush thread; `done` is called once it is durable.
    fn flush(&self, inner: &mut Inner<P>, end: u64, done: Option<OnDurable>) -> io::Result<()> {
        let bytes = usize::try_from(end - inner.end).unwrap_or(usize::MAX);
        inner.end = end;
        let sync = done.is_some();
        let mark = self.delivery.register(bytes, done);
        inner.log.flush(sync, Some(mark)).map_err(|error| self.delivery.fail(&error.to_string()))
    }

    /// Does `write` and has it flushed; what `check` refuses changes nothing.
    fn change(
        &self,
        done: Option<OnDurable>,
        check: impl FnOnce(&RaftLog<WalTypes<P>>) -> io::Result<bool>,
        write: impl FnOnce(&mut RaftLog<WalTypes<P>>) -> io::Result<raft_log::Segment>,
    ) -> io::Result<()> {
        let ready = self.delivery.check().and_then(|()| {
            self.delivery.wait_for_room(self.options.queue_bytes_max, self.options.queue_wait_max)
        });
        let mut inner = self.inner.lock();
        let needed = match ready.and_then(|()| check(&inner.log)) {
            Ok(needed) => needed,
            Err(error) => {
                drop(inner);
                return Err(match done {
                    Some(done) => self.delivery.refuse(done, error),
                    None => error,
                });
            }
        };
        let mut end = inner.end;
        if needed {
            match write(&mut inner.log) {
                Ok(segment) => end = end_of(segment),
                Err(error) => {
                    // What was written of it cannot be taken back.
                    let error = self.delivery.fail(&error.to_string());
                    drop(inner);
                    return Err(match done {
                        Some(done) => self.delivery.refuse(done, error),
                        None => error,
                    });
                }
            }
        }
        self.flush(&mut inner, end, done)
    }

    /// Entries that raft-log keeps neither in its cache nor in a closed chunk. It lets an entry of the
    /// open chunk go when a truncated one had a higher id; reading that chunk's file brings it back.
    fn read_open_chunk(
        &self,
        inner: &mut Inner<P>,
    ) -> io::Result<std::collections::BTreeMap<u64, (LogId, P)>> {
        let end = inner.end;
        self.flush(inner, end, None)?;
        inner.log.wait_worker_idle()?;
        let (_, path) = recover::chunks(&self.dir)?.pop().ok_or(io::ErrorKind::NotFound)?;
        recover::entries(&path)
    }
}

fn end_of(segment: raft_log::Segment) -> u64 {
    use raft_log::codeq::OffsetSize;
    segment.end().0
}

fn bounds_of<P: Payload>(log: &RaftLog<WalTypes<P>>) -> LogBounds {
    let state = log.log_state();
    LogBounds { purged: state.purged().map(|id| id.0), last: state.last().map(|id| id.0) }
}

fn committed_of<P: Payload>(log: &RaftLog<WalTypes<P>>) -> Option<LogId> {
    let state = log.log_state();
    // Saved in the order of the entries, so never beyond them; held to it all the same.
    state.committed().min(state.last()).map(|id| id.0)
}

impl<P: Payload> LogStore<P> for DiskLog<P> {
    fn bounds(&self) -> LogBounds {
        bounds_of(&self.inner.lock().log)
    }

    fn vote(&self) -> Option<Vote> {
        self.inner.lock().log.log_state().vote().map(|vote| vote.0)
    }

    fn committed(&self) -> Option<LogId> {
        committed_of(&self.inner.lock().log)
    }

    fn save_vote(&self, vote: Vote, done: OnDurable) -> io::Result<()> {
        self.change(
            Some(done),
            |log| {
                log_rules::check_vote(log.log_state().vote().map(|vote| vote.0), vote)?;
                Ok(true)
            },
            |log| log.save_vote(WalVote(vote)),
        )
    }

    fn save_committed(&self, committed: Option<LogId>) -> io::Result<()> {
        self.delivery.check()?;
        let Some(next) = committed else { return Ok(()) };
        // Not worth a wait: losing it costs only replay.
        if !self.delivery.has_room(self.options.queue_bytes_max) {
            return Ok(());
        }
        let mut inner = self.inner.lock();
        // An entry that is there and cannot be read at the moment is taken to be the one that is meant.
        let found = || match inner.log.read(next.index, next.index.saturating_add(1)).next()? {
            Ok((id, _)) => Some(id.0),
            Err(_) => Some(next),
        };
        if !log_rules::commits(bounds_of(&inner.log), committed_of(&inner.log), next, found) {
            return Ok(());
        }
        let segment =
            inner.log.commit(WalLogId(next)).map_err(|error| self.delivery.fail(&error.to_string()))?;
        self.flush(&mut inner, end_of(segment), None)
    }

    fn append(&self, entries: Vec<(LogId, P)>, done: OnDurable) -> io::Result<()> {
        let ids: Vec<LogId> = entries.iter().map(|(id, _)| *id).collect();
        self.change(
            Some(done),
            |log| {
                log_rules::check_append(bounds_of(log).last, ids.into_iter())?;
                Ok(!entries.is_empty())
            },
            |log| {
                log.append(entries.iter().map(|(id, payload)| (WalLogId(*id), WalPayload(payload.clone()))))
            },
        )
    }

    fn truncate_after(&self, last: Option<LogId>) -> io::Result<()> {
        let found = match last {
            Some(last) => self.read(last.index..last.index.saturating_add(1), 1)?.first().map(|(id, _)| *id),
            None => None,
        };
        self.change(
            None,
            |log| log_rules::check_truncate(bounds_of(log), committed_of(log), last, found),
            |log| log.truncate(last.map_or(0, |last| last.index + 1)),
        )
    }

    fn purge(&self, upto: LogId) -> io::Result<()> {
        self.delivery.check()?;
        if self.bounds().purged.is_some_and(|purged| upto.index <= purged.index) {
            return Ok(());
        }
        // raft-log removes files only behind a sync that makes the purge durable; nobody waits for it.
        let unattended: OnDurable = Box::new(|_| {});
        self.change(
            Some(unattended),
            |_| Ok(true),
            |log| {
                // Beyond the end nothing may be left, whatever the terms: an entry of a later term that
                // was never committed would count as the last one.
                let bounds = bounds_of(log);
                if bounds.last.is_some_and(|last| upto.index >= last.index && upto != last) {
                    let keep = committed_of(log).max(bounds.purged);
                    log.truncate(keep.map_or(0, |keep| keep.index + 1))?;
                }
                log.purge(WalLogId(upto))
            },
        )
    }

    fn read(&self, range: Range<u64>, bytes_max: usize) -> io::Result<Vec<(LogId, P)>> {
        self.delivery.check()?;
        let mut entries: Vec<(LogId, P)> = Vec::new();
        if range.is_empty() {
            return Ok(entries);
        }
        let mut inner = self.inner.lock();
        let mut weight = 0;
        let mut missing = None;
        for item in inner.log.read(range.start, range.end) {
            match item {
                Ok((id, payload)) => {
                    weight += payload.0.weight();
                    entries.push((id.0, payload.0));
                }
                Err(error) => {
                    missing = Some(error);
                    break;
                }
            }
            if weight >= bytes_max {
                return Ok(entries);
            }
        }
        let Some(error) = missing else { return Ok(entries) };
        self.read_rest(&mut inner, range, bytes_max.saturating_sub(weight), entries, error)
    }
}

impl<P: Payload> DiskLog<P> {
    /// Goes on with a read that `error` ended.
    fn read_rest(
        &self,
        inner: &mut Inner<P>,
        range: Range<u64>,
        bytes_max: usize,
        mut entries: Vec<(LogId, P)>,
        error: io::Error,
    ) -> io::Result<Vec<(LogId, P)>> {
        if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof) {
            return Err(error);
        }
        let open = self.read_open_chunk(inner)?;
        let mut next = match entries.last() {
            Some((id, _)) => id.index + 1,
            None => range.start.max(bounds_of(&inner.log).purged.map_or(0, |purged| purged.index + 1)),
        };
        let end = range.end.min(bounds_of(&inner.log).last.map_or(0, |last| last.index + 1));
        let mut weight = 0;
        while next < end && (weight < bytes_max || entries.is_empty()) {
            let (id, payload) = match inner.log.read(next, next + 1).next() {
                Some(Ok((id, payload))) => (id.0, payload.0),
                Some(Err(error)) => open.get(&next).cloned().ok_or(error)?,
                None if entries.is_empty() => {
                    next += 1;
                    continue;
                }
                None => break,
            };
            weight += payload.weight();
            entries.push((id, payload));
            next += 1;
        }
        Ok(entries)
    }
}
