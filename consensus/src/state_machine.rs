//! openraft's state machine over [`vaultdb_storage::StateMachine`].
//!
//! RocksDB is only ever touched on the blocking pool: a write stall must not delay heartbeats.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use futures::{Stream, StreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{OptionalSend, RaftSnapshotBuilder};
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use vaultdb_kv::failpoint;
use vaultdb_storage::log::LogStore;
use vaultdb_storage::{AppliedState, LogId, Op, Snapshot, StateMachine, StorageError};

use crate::codec::{self, LogPayload};
use crate::snapshot::transfers::Transfers;
use crate::stages::Stages;
use crate::types::{
    log_id, raft_log_id, Entry, EntryPayload, RaftLogId, RaftSnapshot, RaftSnapshotMeta, StoredMembership,
    TypeConfig,
};

/// Most entries in one write to the engine.
const RUN_ENTRIES_MAX: usize = 1024;
/// Most bytes of commands in one write to the engine.
const RUN_BYTES_MAX: usize = 4 * 1024 * 1024;

#[derive(Clone)]
pub struct StateMachineAdapter {
    store: Arc<StateMachine>,
    /// Index of the last applied entry, sent after its effect is readable.
    applied: Arc<watch::Sender<u64>>,
    stages: Arc<Stages>,
    /// The log, and transfers of snapshots that may have been interrupted. `None` in a node without peers.
    resumable: Option<(Arc<dyn LogStore<LogPayload>>, Arc<Transfers>)>,
}

impl StateMachineAdapter {
    pub fn new(store: Arc<StateMachine>, applied: Arc<watch::Sender<u64>>, stages: Arc<Stages>) -> Self {
        applied.send_replace(store.applied().log_id.map_or(0, |id| id.index));
        Self { store, applied, stages, resumable: None }
    }

    /// Offers the snapshot of an interrupted transfer again, as long as the log goes on from it.
    pub fn resuming(self, log: Arc<dyn LogStore<LogPayload>>, transfers: Arc<Transfers>) -> Self {
        Self { resumable: Some((log, transfers)), ..self }
    }

    fn interrupted(&self) -> Option<Snapshot> {
        let (log, transfers) = self.resumable.as_ref()?;
        transfers.interrupted(log.bounds().purged.map_or(0, |purged| purged.index))
    }

    async fn blocking<T, F>(&self, work: F) -> io::Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&StateMachine) -> Result<T, StorageError> + Send + 'static,
    {
        let store = self.store.clone();
        spawn_blocking(move || work(&store)).await.map_err(io::Error::other)?.map_err(io::Error::other)
    }

    /// `committed` is when openraft passed the entries on.
    async fn apply_run(&self, run: &mut Run, committed: Instant) -> io::Result<()> {
        let (Some((first, _)), Some((last, _))) = (run.entries.first(), run.entries.last()) else {
            return Ok(());
        };
        let (first, last) = (first.index, last.index);
        let entries = std::mem::take(&mut run.entries);
        failpoint::reach("committed-unapplied");
        let answers = match self.store.try_apply(&entries).map_err(io::Error::other)? {
            Some(answers) => answers,
            None => self.blocking(move |store| store.apply(&entries)).await?,
        };
        self.applied.send_replace(last);
        // Before the answers, whose way is counted from here.
        self.stages.applied(first, last, committed);
        failpoint::reach("applied-unanswered");
        for (responder, answer) in run.responders.drain(..).zip(answers) {
            if let Some(responder) = responder {
                responder.send(answer);
            }
        }
        run.bytes = 0;
        Ok(())
    }
}

/// Consecutive entries that become one write, and who waits for them.
#[derive(Default)]
struct Run {
    entries: Vec<(LogId, Op)>,
    responders: Vec<Option<openraft::storage::ApplyResponder<TypeConfig>>>,
    bytes: usize,
}

fn op(entry: Entry) -> (Op, usize) {
    match entry.payload {
        EntryPayload::Blank => (Op::Blank, 0),
        EntryPayload::Normal(command) => {
            let bytes = command.0.payload_bytes();
            (Op::Command(command.0), bytes)
        }
        EntryPayload::Membership(m) => (Op::Membership(codec::encode_membership(&m).into()), 0),
    }
}

/// What openraft wants to know of an applied state.
fn applied_parts(state: &AppliedState) -> io::Result<(Option<RaftLogId>, StoredMembership)> {
    let membership = match &state.membership {
        None => StoredMembership::default(),
        Some((id, bytes)) => StoredMembership::new(Some(raft_log_id(*id)), codec::decode_membership(bytes)?),
    };
    Ok((state.log_id.map(raft_log_id), membership))
}

/// Wraps a snapshot of ours for openraft.
///
/// # Errors
/// When the membership in it cannot be decoded.
pub fn raft_snapshot(snapshot: Snapshot) -> io::Result<RaftSnapshot> {
    let (last_log_id, last_membership) = applied_parts(&snapshot.meta().applied)?;
    Ok(RaftSnapshot { meta: RaftSnapshotMeta { last_log_id, last_membership }, snapshot })
}

impl RaftSnapshotBuilder<TypeConfig> for StateMachineAdapter {
    type SnapshotData = Snapshot;

    async fn build_snapshot(&mut self) -> Result<RaftSnapshot, io::Error> {
        let began = Instant::now();
        let snapshot = self.blocking(StateMachine::build_snapshot).await?;
        let (id, bytes, took_ms) = (&snapshot.meta().id, snapshot.bytes(), began.elapsed().as_millis());
        log::info!("built snapshot {id} of {bytes} bytes in {took_ms} ms");
        raft_snapshot(snapshot)
    }
}

impl RaftStateMachine<TypeConfig> for StateMachineAdapter {
    type SnapshotData = Snapshot;
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Result<(Option<RaftLogId>, StoredMembership), io::Error> {
        applied_parts(&self.store.applied())
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        let committed = Instant::now();
        let mut run = Run::default();
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            let id = log_id(&entry.log_id);
            let (op, bytes) = op(entry);
            run.entries.push((id, op));
            run.responders.push(responder);
            run.bytes += bytes;
            if run.entries.len() >= RUN_ENTRIES_MAX || run.bytes >= RUN_BYTES_MAX {
                self.apply_run(&mut run, committed).await?;
            }
        }
        self.apply_run(&mut run, committed).await
    }

    async fn get_snapshot_builder(&mut self) -> Self::SnapshotBuilder {
        self.clone()
    }

    async fn install_snapshot(&mut self, _: &RaftSnapshotMeta, snapshot: Snapshot) -> Result<(), io::Error> {
        let index = snapshot.meta().applied.log_id.map_or(0, |id| id.index);
        self.blocking(move |store| store.install_snapshot(&snapshot)).await?;
        failpoint::reach("snapshot-installed");
        self.applied.send_replace(index);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<RaftSnapshot>, io::Error> {
        self.interrupted().or_else(|| self.store.current_snapshot()).map(raft_snapshot).transpose()
    }
}
