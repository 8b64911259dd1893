//! Counts what passes through the replication dispatcher, and outlives it: a counter that is read from outside must
//! never fall, whatever is rebuilt, and can be read while the dispatcher hangs.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::status::ReplicationTotals;

/// One for a process. Each dispatcher adds to it from its own thread, and one that was left behind may still do so.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    committed: AtomicU64,
    failed: AtomicU64,
    batches: AtomicU64,
    leader_changes: AtomicU64,
}

impl Totals {
    pub fn count_committed(&self) {
        self.committed.fetch_add(1, Ordering::Relaxed);
    }

    pub fn count_failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    pub fn count_batch(&self) {
        self.batches.fetch_add(1, Ordering::Relaxed);
    }

    pub fn count_leader_change(&self) {
        self.leader_changes.fetch_add(1, Ordering::Relaxed);
    }

    pub fn get(&self) -> ReplicationTotals {
        ReplicationTotals {
            committed: self.committed.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
            batches: self.batches.load(Ordering::Relaxed),
            leader_changes: self.leader_changes.load(Ordering::Relaxed),
        }
    }
}
