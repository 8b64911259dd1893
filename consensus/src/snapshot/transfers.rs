//! The snapshots that are on their way: what the status and the log tell of them, and which of them must not be
//! forgotten because their transfer will go on.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use vaultdb_kv::NodeId;
use vaultdb_storage::{Snapshot, SnapshotMeta};

use crate::api::{TransferDirection, TransferTotals};

/// How long the snapshot of a transfer that was interrupted is offered again, instead of a newer one. A peer that
/// lives is tried at least twice a second.
const KEPT_MS_MAX: u64 = 60_000;
/// How long the log behind a snapshot stays after its transfer: until openraft streams it to the peer.
const LINGERS_MS: u64 = 2_000;
/// Percent of a snapshot after which the log tells how far it is.
const LOGGED_PERCENT: u64 = 10;

/// All transfers of this node, one for each peer and direction.
#[derive(Default)]
pub struct Transfers {
    underway: Mutex<Vec<Arc<Progress>>>,
    /// Snapshots that were sent lately, by peer: the transfer stopped, or the peer is about to go on by entries.
    sent: Mutex<Vec<Sent>>,
    sent_bytes: AtomicU64,
    received_bytes: AtomicU64,
    installed: AtomicU64,
}

/// How far a transfer is.
pub struct Progress {
    pub peer: NodeId,
    pub direction: TransferDirection,
    pub bytes_total: u64,
    snapshot_id: String,
    /// Index of the last entry in the snapshot.
    index: u64,
    bytes_done: AtomicU64,
    /// What was there from an earlier transfer.
    bytes_resumed: AtomicU64,
    began: Instant,
    logged_percent: AtomicU64,
}

struct Sent {
    peer: NodeId,
    index: u64,
    until: Instant,
    /// To go on with. `None` when it arrived.
    snapshot: Option<Snapshot>,
}

/// A transfer under way. One that is dropped before [`Transfer::complete`] was interrupted.
pub struct Transfer {
    all: Arc<Transfers>,
    progress: Arc<Progress>,
    /// What is sent.
    snapshot: Option<Snapshot>,
    is_complete: bool,
}

impl Progress {
    pub fn bytes_done(&self) -> u64 {
        self.bytes_done.load(Ordering::Relaxed)
    }

    fn words(&self) -> &'static str {
        match self.direction {
            TransferDirection::Send => "sending to",
            TransferDirection::Receive => "receiving from",
        }
    }
}

fn index_of(meta: &SnapshotMeta) -> u64 {
    meta.applied.log_id.map_or(0, |id| id.index)
}

impl Transfers {
    pub fn begin_send(self: &Arc<Self>, peer: NodeId, snapshot: &Snapshot) -> Transfer {
        let mut transfer = self.begin(peer, TransferDirection::Send, snapshot.meta());
        transfer.snapshot = Some(snapshot.clone());
        transfer
    }

    pub fn begin_receive(self: &Arc<Self>, peer: NodeId, meta: &SnapshotMeta) -> Transfer {
        self.begin(peer, TransferDirection::Receive, meta)
    }

    fn begin(self: &Arc<Self>, peer: NodeId, direction: TransferDirection, meta: &SnapshotMeta) -> Transfer {
        let progress = Arc::new(Progress {
            peer,
            direction,
            bytes_total: meta.bytes(),
            snapshot_id: meta.id.clone(),
            index: index_of(meta),
            bytes_done: AtomicU64::new(0),
            bytes_resumed: AtomicU64::new(0),
            began: Instant::now(),
            logged_percent: AtomicU64::new(0),
        });
        self.underway.lock().push(progress.clone());
        Transfer { all: self.clone(), progress, snapshot: None, is_complete: false }
    }

    pub fn underway(&self) -> Vec<Arc<Progress>> {
        self.underway.lock().clone()
    }

    pub fn totals(&self) -> TransferTotals {
        TransferTotals {
            sent_bytes: self.sent_bytes.load(Ordering::Relaxed),
            received_bytes: self.received_bytes.load(Ordering::Relaxed),
            installed: self.installed.load(Ordering::Relaxed),
        }
    }

    /// The newest snapshot whose transfer was interrupted and can go on: behind it the log, which is purged up to
    /// `purged`, still has every entry.
    pub fn interrupted(&self, purged: u64) -> Option<Snapshot> {
        let sent = self.recently_sent();
        let usable = sent.iter().filter(|sent| sent.index >= purged && sent.snapshot.is_some());
        usable.max_by_key(|sent| sent.index).and_then(|sent| sent.snapshot.clone())
    }

    /// Indexes of snapshots whose receivers will want the entries behind them.
    pub fn awaited(&self) -> Vec<u64> {
        let mut indexes: Vec<u64> = self.recently_sent().iter().map(|sent| sent.index).collect();
        let underway = self.underway.lock();
        let sends = underway.iter().filter(|progress| progress.direction == TransferDirection::Send);
        indexes.extend(sends.map(|progress| progress.index));
        indexes
    }

    fn recently_sent(&self) -> parking_lot::MutexGuard<'_, Vec<Sent>> {
        let mut sent = self.sent.lock();
        let now = Instant::now();
        sent.retain(|sent| now < sent.until);
        sent
    }

    fn remember(&self, peer: NodeId, index: u64, snapshot: Option<Snapshot>) {
        let ms = if snapshot.is_some() { KEPT_MS_MAX } else { LINGERS_MS };
        let mut sent = self.recently_sent();
        sent.retain(|sent| sent.peer != peer);
        sent.push(Sent { peer, index, until: Instant::now() + Duration::from_millis(ms), snapshot });
    }
}

impl Transfer {
    /// So many bytes were there already.
    pub fn resume(&self, bytes: u64) {
        let Progress { peer, bytes_total, snapshot_id, .. } = &*self.progress;
        self.progress.bytes_done.store(bytes, Ordering::Relaxed);
        self.progress.bytes_resumed.store(bytes, Ordering::Relaxed);
        self.progress.logged_percent.store(percent(bytes, *bytes_total), Ordering::Relaxed);
        let words = self.progress.words();
        log::info!("{words} node {peer}: snapshot {snapshot_id}, {bytes_total} bytes, {bytes} are there");
    }

    /// So many more bytes have arrived.
    pub fn advance(&self, bytes: u64) {
        let progress = &*self.progress;
        let done = progress.bytes_done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let all = match progress.direction {
            TransferDirection::Send => &self.all.sent_bytes,
            TransferDirection::Receive => &self.all.received_bytes,
        };
        all.fetch_add(bytes, Ordering::Relaxed);
        let now = percent(done, progress.bytes_total);
        if now >= progress.logged_percent.load(Ordering::Relaxed) + LOGGED_PERCENT && now < 100 {
            progress.logged_percent.store(now - now % LOGGED_PERCENT, Ordering::Relaxed);
            log::info!("{} node {}: {now} %, {}", progress.words(), progress.peer, self.rate());
        }
    }

    /// The peer has it, or this node: it is installed.
    pub fn complete(mut self) {
        self.is_complete = true;
        let Progress { peer, snapshot_id, index, direction, .. } = &*self.progress;
        let rate = self.rate();
        match direction {
            TransferDirection::Send => {
                self.all.remember(*peer, *index, None);
                log::info!("node {peer} has snapshot {snapshot_id}, {rate}");
            }
            TransferDirection::Receive => {
                self.all.installed.fetch_add(1, Ordering::Relaxed);
                log::info!("installed snapshot {snapshot_id} from node {peer}, {rate}");
            }
        }
    }

    fn rate(&self) -> String {
        let moved = self.progress.bytes_done() - self.progress.bytes_resumed.load(Ordering::Relaxed);
        let took = self.progress.began.elapsed();
        let mib_per_second = moved as f64 / took.as_secs_f64().max(0.001) / f64::from(1 << 20);
        format!("{moved} bytes in {:.1} s, {mib_per_second:.1} MiB/s", took.as_secs_f64())
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        self.all.underway.lock().retain(|other| !Arc::ptr_eq(other, &self.progress));
        if self.is_complete {
            return;
        }
        let Progress { peer, index, bytes_total, .. } = &*self.progress;
        let done = self.progress.bytes_done();
        if done > 0 {
            log::warn!("{} node {peer}: stopped at {done} of {bytes_total} bytes", self.progress.words());
        }
        if let Some(snapshot) = self.snapshot.take() {
            self.all.remember(*peer, *index, Some(snapshot));
        }
    }
}

fn percent(done: u64, total: u64) -> u64 {
    u64::try_from(u128::from(done) * 100 / u128::from(total.max(1))).unwrap_or(100)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Arc as SharedOp;

    use vaultdb_kv::{Command, Key};
    use vaultdb_storage::{LogId, Op, StateMachine, StoreOptions};

    use super::*;

    fn snapshot(store: &StateMachine, index: u64) -> Snapshot {
        let command = Command::Delete { key: Key::new("k").unwrap() };
        store.apply(&[(LogId { term: 1, index }, Op::Command(SharedOp::new(command)))]).unwrap();
        store.build_snapshot().unwrap()
    }

    /// A transfer that stopped is gone on with for as long as the log goes on from its snapshot; one that arrived
    /// is not offered again, but the log behind it stays for a moment.
    #[test]
    fn interrupted_transfers_are_gone_on_with() {
        let store = StateMachine::in_memory(StoreOptions::default());
        let transfers = Arc::new(Transfers::default());
        let (first, second) = (snapshot(&store, 5), snapshot(&store, 9));
        let (one, two) = (transfers.begin_send(1, &first), transfers.begin_send(2, &second));
        two.resume(10);
        two.advance(5);
        assert_eq!(transfers.underway().iter().map(|p| p.bytes_done()).collect::<Vec<_>>(), [0, 15]);
        assert!(transfers.interrupted(0).is_none());
        assert_eq!(transfers.awaited(), [5, 9]);
        drop(one);
        two.complete();
        assert_eq!(transfers.underway().len(), 0);
        assert_eq!(transfers.interrupted(5).unwrap().meta(), first.meta());
        assert!(transfers.interrupted(6).is_none(), "entry 6 is gone");
        let mut awaited = transfers.awaited();
        awaited.sort_unstable();
        assert_eq!(awaited, [5, 9]);
        transfers.begin_send(1, &first).complete();
        assert!(transfers.interrupted(5).is_none());
        assert_eq!(transfers.totals().sent_bytes, 5);
    }
}
