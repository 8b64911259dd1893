//! The stores of a node on disk or in memory, and what must hold before consensus starts over them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use vaultdb_storage::log::LogStore;
use vaultdb_storage::{DiskLog, LogOptions, MemLog, StateMachine, StorageError, StoreOptions};

use crate::codec::LogPayload;
use crate::node::StartError;

/// The log and the state machine of a node, open. Opening them reads the disk and replays the log's files, which a node
/// that waits for others may do meanwhile.
pub struct Stores {
    pub(crate) log: Arc<dyn LogStore<LogPayload>>,
    pub(crate) store: Arc<StateMachine>,
}

/// Where the Raft log lives in a data directory.
pub fn wal_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("wal")
}

/// Creates the log of a new data directory, so that from then on a missing one is noticed. Tells
/// whether it is empty, as a new one is.
///
/// # Errors
/// When the log cannot be created or read.
pub fn create_log(data_dir: &Path, options: LogOptions) -> Result<bool, StorageError> {
    let log = DiskLog::<LogPayload>::open(&wal_dir(data_dir), options)?;
    Ok(log.bounds().last.is_none() && log.vote().is_none())
}

impl Stores {
    /// `data_dir`: `None` keeps everything in memory.
    ///
    /// # Errors
    /// [`StartError::LogMissing`], and what the stores fail with.
    pub fn open(data_dir: Option<&Path>, store: StoreOptions, log: LogOptions) -> Result<Stores, StartError> {
        let Some(dir) = data_dir else {
            let log: Arc<dyn LogStore<LogPayload>> = Arc::new(MemLog::new());
            return Ok(Stores { log, store: Arc::new(StateMachine::in_memory(store)) });
        };
        let wal = wal_dir(dir);
        let has_files = std::fs::read_dir(&wal).is_ok_and(|mut files| files.next().is_some());
        if !has_files {
            return Err(StartError::LogMissing(wal));
        }
        let log: Arc<dyn LogStore<LogPayload>> = Arc::new(DiskLog::open(&wal, log)?);
        let store = Arc::new(StateMachine::open(dir, store)?);
        check_reach(&*log, &store)?;
        renew_snapshot(&*log, &store)?;
        Ok(Stores { log, store })
    }
}

/// The log is purged only up to what the state durably holds: a state that ends before has lost something.
fn check_reach(log: &dyn LogStore<LogPayload>, store: &StateMachine) -> Result<(), StorageError> {
    let (purged, applied) = (log.bounds().purged, store.applied().log_id);
    if applied < purged {
        return Err(StorageError::Corrupt {
            what: "the state under rocksdb/".into(),
            reason: format!("it ends at {applied:?}, but the log begins after {purged:?}"),
        });
    }
    Ok(())
}

/// Makes sure that a snapshot reaches as far as the log is, or is about to be, purged.
///
/// A state that is ahead of the log comes from a snapshot whose installation a crash cut short: the data
/// had been switched, the log not purged nor the older snapshot replaced. openraft then purges the log up
/// to the applied id, and takes a snapshot that ends before that for damage.
fn renew_snapshot(log: &dyn LogStore<LogPayload>, store: &StateMachine) -> Result<(), StorageError> {
    let bounds = log.bounds();
    let applied = store.applied().log_id;
    let purged = if applied > bounds.last { applied } else { bounds.purged };
    let reaches = store.current_snapshot().and_then(|snapshot| snapshot.meta().applied.log_id);
    if reaches < purged {
        log::info!("building a snapshot up to {applied:?}: the last one reaches {reaches:?}");
        store.build_snapshot()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use vaultdb_kv::{Command, Key};
    use vaultdb_storage::{LogId, Op};

    use super::*;

    /// After a crash between the switch to an installed snapshot's data and the rest of the installation,
    /// the snapshot that openraft finds covers everything that it is about to purge.
    #[test]
    fn a_snapshot_reaches_as_far_as_the_log_is_purged() {
        let id = |index| LogId { term: 1, index };
        let set = Op::Command(Arc::new(Command::Delete { key: Key::new("k").unwrap() }));
        let store = StateMachine::in_memory(StoreOptions::default());
        store.apply(&[(id(100), set.clone())]).unwrap();
        store.build_snapshot().unwrap();
        store.apply(&[(id(2993), set)]).unwrap();
        let log = MemLog::<LogPayload>::new();
        log.append(vec![(id(0), LogPayload::Blank)], Box::new(|_| {})).unwrap();
        renew_snapshot(&log, &store).unwrap();
        let reaches = store.current_snapshot().unwrap().meta().applied.log_id;
        assert_eq!(reaches, Some(id(2993)));
    }
}
