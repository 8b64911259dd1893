//! The Raft log behind one trait, so that the store under it can be replaced.
//!
//! Invariant: `done` is called exactly once for each operation, in the order of the calls, and with
//! `Ok` only after an fdatasync that covers it. A failed fsync is final: every later operation fails.

use std::fmt::Debug;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use vaultdb_kv::Histogram;

use crate::error::StorageError;
use crate::scrub::Pace;
use crate::types::{LogId, Vote};

/// Called when an operation is durable, or has failed or been refused. Runs on the log's own thread or the
/// caller's, while the log may be locked: must neither block nor call the log.
pub type OnDurable = Box<dyn FnOnce(io::Result<()>) + Send>;

/// What an entry carries. Cloning must be cheap: recent entries are kept decoded.
pub trait Payload: Clone + Debug + Send + Sync + 'static {
    fn encode(&self, out: &mut Vec<u8>);
    /// # Errors
    /// When `bytes` is not an encoding of a payload.
    fn decode(bytes: &[u8]) -> io::Result<Self>;
    /// About how many bytes it holds in memory.
    fn weight(&self) -> usize;
}

/// First and last of what the log holds. `last` equals `purged` when it holds nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogBounds {
    pub purged: Option<LogId>,
    pub last: Option<LogId>,
}

/// The log and the vote of one node. Calls that change it come from one thread, in order.
pub trait LogStore<P: Payload>: Send + Sync + 'static {
    fn bounds(&self) -> LogBounds;
    fn vote(&self) -> Option<Vote>;
    fn committed(&self) -> Option<LogId>;

    /// # Errors
    /// When the log has failed before; `done` is then called with the error, too.
    fn save_vote(&self, vote: Vote, done: OnDurable) -> io::Result<()>;
    /// Best effort: written with what is written next. Losing it costs only replay after a restart.
    fn save_committed(&self, committed: Option<LogId>) -> io::Result<()>;
    /// Entries are readable as soon as this returns, durable when `done` is called. Consecutive.
    fn append(&self, entries: Vec<(LogId, P)>, done: OnDurable) -> io::Result<()>;
    /// Removes everything after `last`, or everything when it is `None`.
    fn truncate_after(&self, last: Option<LogId>) -> io::Result<()>;
    /// Removes everything up to and including `upto`, which may lie beyond the end.
    fn purge(&self, upto: LogId) -> io::Result<()>;
    /// The entries of `range` that exist, in order, without a hole; stops early once `bytes_max` is
    /// reached, but never before the first entry.
    fn read(&self, range: Range<u64>, bytes_max: usize) -> io::Result<Vec<(LogId, P)>>;

    /// About how many bytes the entries behind `index` take. 0 when the log does not know.
    fn bytes_behind(&self, index: u64) -> u64 {
        let _ = index;
        0
    }

    /// Index of the first of the newest entries that take about `bytes_max` together, at most. 0 when all do, or
    /// the log does not know.
    fn first_within(&self, bytes_max: u64) -> u64 {
        let _ = bytes_max;
        0
    }

    /// Reads what is not written to any more and compares it with its checksums. Tells whether it came to the end.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`], [`StorageError::Io`].
    fn scrub(&self, pace: Pace<'_>) -> Result<bool, StorageError> {
        let _ = pace;
        Ok(true)
    }

    /// How long the syncs of the log took; `None` when there are none.
    fn fsync_histogram(&self) -> Option<Arc<Histogram>> {
        None
    }
}
