//! The crate raft-log behind our trait: a second opinion in tests, and what the bench compares with.
//!
//! Checks nothing and repairs nothing. Who uses it asks only for what is accepted.
#![allow(dead_code)]

use std::cmp::Ordering;
use std::fmt::Debug;
use std::io;
use std::marker::PhantomData;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use raft_log::api::raft_log_writer::RaftLogWriter;
use raft_log::codeq::{Decode, Encode};
use raft_log::RaftLog;
use vaultdb_storage::log::{LogBounds, LogStore, OnDurable, Payload};
use vaultdb_storage::{LogId, Vote};

/// The settings that were found best before our own log: longer than 20 µs, for its deadline is checked before its
/// queue is drained; small chunks, for the entries of one are evicted all at once.
const FLUSH_BATCH_WAIT: Duration = Duration::from_micros(30);
const CHUNK_BYTES: usize = 8 << 20;
const CACHE_BYTES: usize = 8 << 20;

pub struct RaftLogOracle<P: Payload> {
    log: Mutex<RaftLog<Types<P>>>,
}

impl<P: Payload> RaftLogOracle<P> {
    pub fn open(dir: &Path, chunk_bytes: usize) -> Self {
        std::fs::create_dir_all(dir).expect("create the directory");
        let mut config = raft_log::Config::new(dir.to_str().expect("UTF-8"));
        config.log_cache_capacity = Some(CACHE_BYTES);
        config.log_cache_max_items = Some(usize::MAX);
        config.wal.chunk_max_size = Some(chunk_bytes);
        config.wal.flush_batch_wait = Some(FLUSH_BATCH_WAIT);
        config.wal.flush_queue_max_bytes = Some(usize::MAX / 2);
        Self { log: Mutex::new(RaftLog::open(Arc::new(config)).expect("open raft-log")) }
    }

    pub fn open_tuned(dir: &Path) -> Self {
        Self::open(dir, CHUNK_BYTES)
    }

    fn lock(&self) -> MutexGuard<'_, RaftLog<Types<P>>> {
        self.log.lock().expect("no panic under the lock")
    }
}

impl<P: Payload> LogStore<P> for RaftLogOracle<P> {
    fn bounds(&self) -> LogBounds {
        let log = self.lock();
        let state = log.log_state();
        LogBounds { purged: state.purged().map(|id| id.0), last: state.last().map(|id| id.0) }
    }

    fn vote(&self) -> Option<Vote> {
        self.lock().log_state().vote().map(|vote| vote.0)
    }

    fn committed(&self) -> Option<LogId> {
        let log = self.lock();
        log.log_state().committed().min(log.log_state().last()).map(|id| id.0)
    }

    fn save_vote(&self, vote: Vote, done: OnDurable) -> io::Result<()> {
        let mut log = self.lock();
        log.save_vote(WalVote(vote))?;
        log.flush(true, Some(Done(Some(done))))
    }

    fn save_committed(&self, committed: Option<LogId>) -> io::Result<()> {
        let mut log = self.lock();
        if let Some(committed) = committed {
            log.commit(WalLogId(committed))?;
            log.flush(false, Some(Done(None)))?;
        }
        Ok(())
    }

    fn append(&self, entries: Vec<(LogId, P)>, done: OnDurable) -> io::Result<()> {
        let mut log = self.lock();
        if !entries.is_empty() {
            log.append(entries.iter().map(|(id, payload)| (WalLogId(*id), WalPayload(payload.clone()))))?;
        }
        log.flush(true, Some(Done(Some(done))))
    }

    fn truncate_after(&self, last: Option<LogId>) -> io::Result<()> {
        let mut log = self.lock();
        if log.log_state().last().is_none_or(|end| last.is_some_and(|last| last.index >= end.0.index)) {
            return Ok(());
        }
        log.truncate(last.map_or(0, |last| last.index + 1))?;
        log.flush(false, Some(Done(None)))
    }

    fn purge(&self, upto: LogId) -> io::Result<()> {
        let mut log = self.lock();
        let state = log.log_state();
        let (last, keep) =
            (state.last().map(|id| id.0), state.committed().max(state.purged()).map(|id| id.0));
        // Beyond the end nothing may be left, whatever the terms.
        if last.is_some_and(|last| upto.index >= last.index && upto != last) {
            log.truncate(keep.map_or(0, |keep| keep.index + 1))?;
        }
        log.purge(WalLogId(upto))?;
        log.flush(true, Some(Done(None)))
    }

    fn read(&self, range: Range<u64>, bytes_max: usize) -> io::Result<Vec<(LogId, P)>> {
        let mut entries = Vec::new();
        if range.is_empty() {
            return Ok(entries);
        }
        let mut log = self.lock();
        // It reads back only what is flushed.
        log.flush(true, Some(Done(None)))?;
        log.wait_worker_idle()?;
        let mut weight = 0;
        for item in log.read(range.start, range.end) {
            let (id, payload) = item?;
            weight += payload.0.weight();
            entries.push((id.0, payload.0));
            if weight >= bytes_max {
                break;
            }
        }
        Ok(entries)
    }
}

struct Done(Option<OnDurable>);

impl raft_log::Callback for Done {
    fn send(self, result: io::Result<()>) {
        if let Some(done) = self.0 {
            done(result);
        }
    }
}

struct Types<P>(PhantomData<fn() -> P>);

// By hand: derived, they would ask the same of `P`.
impl<P> Debug for Types<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Types")
    }
}

impl<P> Default for Types<P> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<P> Clone for Types<P> {
    fn clone(&self) -> Self {
        Self(PhantomData)
    }
}

impl<P> PartialEq for Types<P> {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl<P> Eq for Types<P> {}

impl<P: Payload> raft_log::Types for Types<P> {
    type LogId = WalLogId;
    type LogPayload = WalPayload<P>;
    type Vote = WalVote;
    type Callback = Done;
    type UserData = ();

    fn log_index(log_id: &WalLogId) -> u64 {
        log_id.0.index
    }

    fn payload_size(payload: &WalPayload<P>) -> u64 {
        payload.0.weight() as u64
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct WalLogId(LogId);

impl Encode for WalLogId {
    fn encode<W: io::Write>(&self, mut w: W) -> io::Result<usize> {
        Ok(self.0.term.encode(&mut w)? + self.0.index.encode(&mut w)?)
    }
}

impl Decode for WalLogId {
    fn decode<R: io::Read>(mut r: R) -> io::Result<Self> {
        Ok(Self(LogId { term: u64::decode(&mut r)?, index: u64::decode(&mut r)? }))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct WalVote(Vote);

/// Always not less: whether a vote may follow another is not asked here.
impl PartialOrd for WalVote {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(if self == other { Ordering::Equal } else { Ordering::Greater })
    }
}

impl Encode for WalVote {
    fn encode<W: io::Write>(&self, mut w: W) -> io::Result<usize> {
        let Vote { term, node_id, committed } = self.0;
        Ok(term.encode(&mut w)? + node_id.encode(&mut w)? + u8::from(committed).encode(&mut w)?)
    }
}

impl Decode for WalVote {
    fn decode<R: io::Read>(mut r: R) -> io::Result<Self> {
        let (term, node_id) = (u64::decode(&mut r)?, u64::decode(&mut r)?);
        Ok(Self(Vote { term, node_id, committed: u8::decode(&mut r)? == 1 }))
    }
}

/// Length, then the payload's own encoding; each record has a checksum anyway.
#[derive(Debug, Clone)]
struct WalPayload<P>(P);

impl<P: Payload> Encode for WalPayload<P> {
    fn encode<W: io::Write>(&self, mut w: W) -> io::Result<usize> {
        let mut bytes = Vec::with_capacity(4 + self.0.weight());
        bytes.extend_from_slice(&[0; 4]);
        self.0.encode(&mut bytes);
        let len = u32::try_from(bytes.len() - 4).map_err(io::Error::other)?;
        bytes[..4].copy_from_slice(&len.to_be_bytes());
        w.write_all(&bytes)?;
        Ok(bytes.len())
    }
}

impl<P: Payload> Decode for WalPayload<P> {
    fn decode<R: io::Read>(mut r: R) -> io::Result<Self> {
        let mut body = vec![0; u32::decode(&mut r)? as usize];
        r.read_exact(&mut body)?;
        P::decode(&body).map(Self)
    }
}
