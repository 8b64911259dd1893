//! Keeps the Raft log short: has snapshots built as it grows, and purges what they cover.
//!
//! Invariant: only entries in a durable snapshot are purged (openraft purges nothing else); and as long as that
//! stays within a bound, no entry that a member which is being brought up will want next.

use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use vaultdb_storage::log::LogStore;

use crate::codec::LogPayload;
use crate::core::Core;
use crate::membership::CONTACT_MS_MAX;
use crate::node::RaftOptions;

/// How often the log is looked at, in milliseconds: what it grows meanwhile is small against what is kept.
const LOOK_MS: u64 = 200;
/// For a member that is being brought up the log keeps as much as the snapshot holds, and at least so many
/// times what it keeps otherwise: less would save little, and might have the member begin anew for ever.
const CATCH_UP_FACTOR: u64 = 4;

/// What decides up to where the log may be purged. Indexes; what is kept begins at each, unless said otherwise.
#[derive(Debug, Clone)]
struct Bounds {
    /// Last entry in the snapshot.
    snapshot: u64,
    /// Last entry that was purged.
    purged: u64,
    /// By the number of entries.
    by_count: u64,
    /// By their bytes.
    by_bytes: u64,
    /// Last entries that members have who will want the next ones.
    awaited: Vec<u64>,
    /// Before it nobody is waited for.
    awaited_from: u64,
}

impl Bounds {
    /// Up to which entry to purge now, inclusive.
    fn purge_upto(&self) -> Option<u64> {
        let keep_from = self.by_count.max(self.by_bytes).min(self.snapshot + 1);
        // Whose next entry is gone already needs a snapshot anyway.
        let wanted = self.awaited.iter().filter(|last| **last >= self.purged).map(|last| last + 1).min();
        let wanted = wanted.map_or(u64::MAX, |wanted| wanted.max(self.awaited_from));
        let upto = keep_from.min(wanted).checked_sub(1)?;
        (upto > self.purged).then_some(upto)
    }
}

/// Runs for as long as consensus does.
pub async fn keep_log_short(core: Arc<Core>, log: Arc<dyn LogStore<LogPayload>>, options: RaftOptions) {
    loop {
        tokio::time::sleep(Duration::from_millis(LOOK_MS)).await;
        let metrics = core.raft.metrics().borrow_watched().clone();
        let index = |id: &Option<crate::types::RaftLogId>| id.as_ref().map_or(0, |id| id.index());
        let (snapshot, applied) = (index(&metrics.snapshot), index(&metrics.last_applied));
        let since_snapshot = log.bytes_behind(snapshot);
        if since_snapshot.saturating_sub(log.bytes_behind(applied)) >= options.snapshot_bytes_since_last {
            // Ignored while one is being built. An error means that consensus has stopped, which others report.
            drop(core.raft.trigger().snapshot().await);
        }
        let bytes_to_keep = options.snapshot_bytes_to_keep.saturating_add(since_snapshot);
        let current = core.store.current_snapshot().map_or(0, |snapshot| snapshot.bytes());
        let catch_up_bytes = current.max(options.snapshot_bytes_to_keep.saturating_mul(CATCH_UP_FACTOR));
        let bounds = Bounds {
            snapshot,
            purged: index(&metrics.purged),
            by_count: (snapshot + 1).saturating_sub(options.snapshot_logs_to_keep),
            by_bytes: log.first_within(bytes_to_keep),
            awaited: awaited(&core, &metrics),
            awaited_from: log.first_within(catch_up_bytes.saturating_add(since_snapshot)),
        };
        if let Some(upto) = bounds.purge_upto() {
            drop(core.raft.trigger().purge_log(upto).await);
        }
    }
}

/// Last entries of those who are being brought up: snapshots under way, and members that answer and lag.
fn awaited(core: &Core, metrics: &openraft::RaftMetrics<crate::types::TypeConfig>) -> Vec<u64> {
    let mut awaited = core.transfers.awaited();
    let lives =
        |id| core.contacts.since(id).is_some_and(|since| since < Duration::from_millis(CONTACT_MS_MAX));
    for (id, matched) in metrics.replication.iter().flatten() {
        // One that has nothing of the log either gets a snapshot or is streamed to from the beginning.
        awaited.extend(matched.as_ref().filter(|_| lives(*id)).map(|matched| matched.index()));
    }
    awaited
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is kept is bounded by count and by bytes, whichever is less; never is more purged than the snapshot
    /// holds, and not what somebody waits for, unless that is too much.
    #[test]
    fn purges_by_count_and_bytes() {
        let bounds = Bounds {
            snapshot: 1000,
            purged: 100,
            by_count: 901,
            by_bytes: 500,
            awaited: vec![],
            awaited_from: 0,
        };
        let upto = |bounds: Bounds| bounds.purge_upto();
        assert_eq!(upto(bounds.clone()), Some(900), "by count");
        assert_eq!(upto(Bounds { by_bytes: 950, ..bounds.clone() }), Some(949), "by bytes");
        assert_eq!(upto(Bounds { by_bytes: 5000, ..bounds.clone() }), Some(1000), "not beyond the snapshot");
        assert_eq!(upto(Bounds { by_count: 0, by_bytes: 0, ..bounds.clone() }), None);
        assert_eq!(upto(Bounds { purged: 900, ..bounds.clone() }), None, "done");

        let waited_for = Bounds { awaited: vec![2000, 300, 99], ..bounds };
        assert_eq!(upto(waited_for.clone()), Some(300), "entry 301 is wanted; who wants 100 comes too late");
        assert_eq!(upto(Bounds { awaited_from: 400, ..waited_for.clone() }), Some(399), "too much to keep");
        assert_eq!(upto(Bounds { awaited_from: 5000, ..waited_for.clone() }), Some(900));
        assert_eq!(upto(Bounds { purged: 300, ..waited_for }), None);
    }
}
