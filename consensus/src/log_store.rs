//! openraft's log storage over [`vaultdb_storage::log::LogStore`].
//!
//! Invariant: a vote is durable before `save_vote` returns, an append before its callback is called.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, Range, RangeBounds};
use std::sync::Arc;
use std::time::Instant;

use futures::Stream;
use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::{LogState, OptionalSend, RaftLogReader};
use tokio::sync::oneshot;
use vaultdb_kv::failpoint;
use vaultdb_storage::log::LogStore;
use vaultdb_storage::{LogId, StateMachine};

use crate::codec::LogPayload;
use crate::stages::{Stage, Stages};
use crate::types::{log_id, raft_log_id, raft_vote, vote, Entry, RaftLogId, RaftVote, TypeConfig};
use crate::watchdog::{watched, LogProgress};

/// Most bytes of entries in one append request or one step of replay.
pub const READ_BYTES_MAX: usize = 2 * 1024 * 1024;

/// Also the log's reader: a clone of the handle.
#[derive(Clone)]
pub struct LogAdapter {
    log: Arc<dyn LogStore<LogPayload>>,
    stages: Arc<Stages>,
    progress: Arc<LogProgress>,
    /// Whose data must not be used once an entry is not what was written.
    store: Option<Arc<StateMachine>>,
}

impl LogAdapter {
    pub fn new(log: Arc<dyn LogStore<LogPayload>>, stages: Arc<Stages>) -> Self {
        Self { log, stages, progress: Arc::default(), store: None }
    }

    /// Condemns the whole node's data when the log is found damaged.
    pub fn condemning(self, store: Arc<StateMachine>) -> Self {
        Self { store: Some(store), ..self }
    }

    /// What the watchdog looks at.
    pub fn progress(&self) -> Arc<LogProgress> {
        self.progress.clone()
    }

    fn read(&self, range: Range<u64>, bytes_max: usize) -> io::Result<Vec<Entry>> {
        let read = self.log.read(range, bytes_max).and_then(|entries| {
            let entry =
                |(id, payload): (LogId, LogPayload)| Ok(Entry::new(raft_log_id(id), payload.try_into()?));
            entries.into_iter().map(entry).collect()
        });
        read.inspect_err(|error: &io::Error| {
            if let (io::ErrorKind::InvalidData, Some(store)) = (error.kind(), &self.store) {
                store.condemn(&format!("the Raft log: {error}"));
            }
        })
    }
}

fn to_range(bounds: &impl RangeBounds<u64>) -> Range<u64> {
    let start = match bounds.start_bound() {
        Bound::Included(i) => *i,
        Bound::Excluded(i) => i + 1,
        Bound::Unbounded => 0,
    };
    let end = match bounds.end_bound() {
        Bound::Included(i) => i + 1,
        Bound::Excluded(i) => *i,
        Bound::Unbounded => u64::MAX,
    };
    start..end
}

impl RaftLogReader<TypeConfig> for LogAdapter {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> Result<Vec<Entry>, io::Error>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        self.read(to_range(&range), usize::MAX)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        self.read(start..end, READ_BYTES_MAX)
    }

    // In steps, so that replaying a long log after a restart needs little memory.
    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = Result<Entry, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        EntryStream { log: self.clone(), range: to_range(&range), step: Vec::new().into_iter() }
    }

    async fn read_vote(&mut self) -> Result<Option<RaftVote>, io::Error> {
        Ok(self.log.vote().map(raft_vote))
    }
}

struct EntryStream {
    log: LogAdapter,
    range: Range<u64>,
    step: std::vec::IntoIter<Entry>,
}

impl Stream for EntryStream {
    type Item = Result<Entry, io::Error>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        use std::task::Poll::Ready;
        if let Some(entry) = self.step.next() {
            return Ready(Some(Ok(entry)));
        }
        if self.range.is_empty() {
            return Ready(None);
        }
        let entries = match self.log.read(self.range.clone(), READ_BYTES_MAX) {
            Ok(entries) => entries,
            Err(e) => {
                self.range = 0..0;
                return Ready(Some(Err(e)));
            }
        };
        self.range.start = entries.last().map_or(self.range.end, |e| e.log_id().index() + 1);
        self.step = entries.into_iter();
        Ready(self.step.next().map(Ok))
    }
}

impl RaftLogStorage<TypeConfig> for LogAdapter {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let bounds = self.log.bounds();
        Ok(LogState {
            last_purged_log_id: bounds.purged.map(raft_log_id),
            last_log_id: bounds.last.map(raft_log_id),
        })
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        self.clone()
    }

    async fn save_vote(&mut self, new: &RaftVote) -> Result<(), io::Error> {
        let (tx, rx) = oneshot::channel();
        // The receiver is dropped only with this future, and then nobody waits for the answer.
        let done = move |result| drop(tx.send(result));
        self.log.save_vote(vote(new), watched(&self.progress, done))?;
        rx.await.map_err(|_| io::Error::other("the log dropped the callback of a vote"))?
    }

    async fn save_committed(&mut self, committed: Option<RaftLogId>) -> Result<(), io::Error> {
        self.log.save_committed(committed.as_ref().map(log_id))
    }

    async fn read_committed(&mut self) -> Result<Option<RaftLogId>, io::Error> {
        Ok(self.log.committed().map(raft_log_id))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        // Of writes that are answered before they are committed; mostly none, and then no allocation.
        let mut accepted = Vec::new();
        let now = Instant::now();
        let with_id = |e: Entry| {
            let (id, mut payload) = (log_id(&e.log_id), LogPayload::from(e.payload));
            if let LogPayload::Command(command) = &mut payload {
                accepted.extend(command.take_hook().map(|hook| (id, hook)));
                if let Some(handed_over) = command.take_handed_over() {
                    self.stages.record(Stage::Propose, now.saturating_duration_since(handed_over));
                }
            }
            (id, payload)
        };
        let entries: Vec<(LogId, LogPayload)> = entries.into_iter().map(with_id).collect();
        if let (Some((first, _)), Some((last, _))) = (entries.first(), entries.last()) {
            self.stages.appended(first.index, last.index, now);
        }
        let stages = self.stages.clone();
        let done = move |result: io::Result<()>| {
            if result.is_ok() {
                stages.record(Stage::Fsync, now.elapsed());
                failpoint::reach("append-synced");
                accepted.into_iter().for_each(|(id, hook)| hook.tell(id));
            }
            callback.io_completed(result);
        };
        self.log.append(entries, watched(&self.progress, done))?;
        failpoint::reach("append-unsynced");
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<RaftLogId>) -> Result<(), io::Error> {
        self.log.truncate_after(last.as_ref().map(log_id))
    }

    async fn purge(&mut self, upto: RaftLogId) -> Result<(), io::Error> {
        self.log.purge(log_id(&upto))?;
        failpoint::reach("log-purged");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use openraft::entry::RaftPayload;
    use parking_lot::Mutex;
    use tokio::sync::oneshot::error::TryRecvError;
    use vaultdb_kv::{Command, Key};
    use vaultdb_storage::log::{LogBounds, OnDurable};
    use vaultdb_storage::Vote;

    use super::*;
    use crate::acceptance::AcceptHook;
    use crate::types::{EntryPayload, SharedCommand};

    /// A log whose disk takes its time: what was appended, and the callbacks that wait for it.
    #[derive(Default)]
    struct SlowLog {
        appended: Mutex<Vec<(LogId, LogPayload)>>,
        waiting: Mutex<Vec<OnDurable>>,
    }

    impl LogStore<LogPayload> for SlowLog {
        fn bounds(&self) -> LogBounds {
            LogBounds::default()
        }
        fn vote(&self) -> Option<Vote> {
            None
        }
        fn committed(&self) -> Option<LogId> {
            None
        }
        fn save_vote(&self, _: Vote, _: OnDurable) -> io::Result<()> {
            unreachable!("no vote in this test")
        }
        fn save_committed(&self, _: Option<LogId>) -> io::Result<()> {
            Ok(())
        }
        fn append(&self, entries: Vec<(LogId, LogPayload)>, done: OnDurable) -> io::Result<()> {
            self.appended.lock().extend(entries);
            self.waiting.lock().push(done);
            Ok(())
        }
        fn truncate_after(&self, _: Option<LogId>) -> io::Result<()> {
            Ok(())
        }
        fn purge(&self, _: LogId) -> io::Result<()> {
            Ok(())
        }
        fn read(&self, _: Range<u64>, _: usize) -> io::Result<Vec<(LogId, LogPayload)>> {
            Ok(self.appended.lock().clone())
        }
    }

    /// A write counts as accepted only once its append is durable, never when that failed; and the log
    /// keeps no hook.
    #[tokio::test]
    async fn accepted_means_durable() {
        for fsync in [Ok(()), Err(io::Error::other("the disk is gone"))] {
            let succeeds = fsync.is_ok();
            let log = Arc::new(SlowLog::default());
            let mut adapter = LogAdapter::new(log.clone(), Arc::new(Stages::new(None)));
            let command = Arc::new(Command::Delete { key: Key::new("k").unwrap() });
            let (hook, mut told) = AcceptHook::new();
            let command = SharedCommand::new(command).hooked(hook);
            let id = LogId { term: 3, index: 7 };
            let entry = Entry::new(raft_log_id(id), EntryPayload::normal(command));
            adapter.append([entry], IOFlushed::noop()).await.unwrap();
            assert_eq!(told.try_recv(), Err(TryRecvError::Empty), "not durable yet");
            let (_, LogPayload::Command(mut kept)) = log.appended.lock().pop().unwrap() else {
                panic!("not a command")
            };
            assert!(kept.take_hook().is_none());
            let done = log.waiting.lock().pop().unwrap();
            done(fsync);
            let expected = if succeeds { Ok(id) } else { Err(TryRecvError::Closed) };
            assert_eq!(told.try_recv(), expected);
        }
    }
}
