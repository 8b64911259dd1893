//! The ways of writes to the disk: into the Raft log and into the store's engine.

use std::time::Duration;

use vaultdb_kv::HistogramSnapshot;

use super::{Seen, Watch};
use crate::judge::Finding;

/// Of the recent syncs, this part may be slow: what is judged is the 99th percentile.
const SLOW_SYNCS_PERCENT_MAX: u64 = 1;
/// Fewer slow syncs than this are chance, however few there were in all.
const SLOW_SYNCS_MIN: u64 = 2;

/// Applied writes that do not reach the engine: memory grows, and in the end applying stops.
pub(super) struct StoreWrites;

impl Watch for StoreWrites {
    fn look(&mut self, seen: &Seen<'_>) -> Option<Finding> {
        let (node, _) = seen.node?;
        let options = seen.options;
        let what = "a write to the store has been waiting to be written out";
        let waited = node.standstill().store;
        Some(Finding::of_wait(waited, options.store_write_degraded, options.store_failed, what))
    }
}

/// Syncs of the Raft log: one that does not end, and recent ones that took long. Moving leadership away from a disk
/// that stands still is consensus's own: see its `watchdog.rs`.
#[derive(Default)]
pub(super) struct Wal {
    /// What the syncs were when the window began, and when that was.
    window: Option<(HistogramSnapshot, Duration)>,
    /// Whether the syncs of the last window were slow.
    slow: bool,
}

impl Watch for Wal {
    fn look(&mut self, seen: &Seen<'_>) -> Option<Finding> {
        let (node, _) = seen.node?;
        let options = seen.options;
        self.count_slow(node.stages().snapshot().wal_fsync, seen);
        let what = "the log has written nothing though something waits for it";
        let waited = node.standstill().log;
        let standstill = Finding::of_wait(waited, options.fsync_degraded, options.fsync_failed, what);
        if self.slow && standstill == Finding::healthy() {
            let limit_ms = options.fsync_degraded.as_millis();
            return Some(Finding::degraded(format!(
                "of the recent fsyncs of the log more than {SLOW_SYNCS_PERCENT_MAX} % took over {limit_ms} ms"
            )));
        }
        Some(standstill)
    }
}

impl Wal {
    fn count_slow(&mut self, syncs: Option<HistogramSnapshot>, seen: &Seen<'_>) {
        // A log in memory has none.
        let Some(syncs) = syncs else { return };
        let Some((before, since)) = &self.window else {
            self.window = Some((syncs, seen.now));
            return;
        };
        if seen.now.saturating_sub(*since) < seen.options.fsync_window {
            return;
        }
        let slow = slower_than(&syncs, seen.options.fsync_degraded)
            - slower_than(before, seen.options.fsync_degraded);
        let all = syncs.count() - before.count();
        self.slow = slow >= SLOW_SYNCS_MIN && slow * 100 > all * SLOW_SYNCS_PERCENT_MAX;
        self.window = Some((syncs, seen.now));
    }
}

/// Records that certainly took longer: those of the buckets that begin at the limit or above it.
fn slower_than(times: &HistogramSnapshot, limit: Duration) -> u64 {
    let limit_us = u64::try_from(limit.as_micros()).unwrap_or(u64::MAX);
    let first = 1 + times.bounds_us.partition_point(|bound| *bound < limit_us);
    times.counts.iter().skip(first).sum()
}
