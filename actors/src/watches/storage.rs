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
        self.slow = are_slow(before, &syncs, seen.options.fsync_degraded);
        self.window = Some((syncs, seen.now));
    }
}

/// Whether the syncs between two moments were slow.
fn are_slow(before: &HistogramSnapshot, after: &HistogramSnapshot, limit: Duration) -> bool {
    let slow = slower_than(after, limit).saturating_sub(slower_than(before, limit));
    let all = after.count().saturating_sub(before.count());
    slow >= SLOW_SYNCS_MIN && slow * 100 > all * SLOW_SYNCS_PERCENT_MAX
}

/// Records that certainly took longer: those of the buckets that begin at the limit or above it.
fn slower_than(times: &HistogramSnapshot, limit: Duration) -> u64 {
    let limit_us = u64::try_from(limit.as_micros()).unwrap_or(u64::MAX);
    let first = 1 + times.bounds_us.partition_point(|bound| *bound < limit_us);
    times.counts.iter().skip(first).sum()
}

#[cfg(test)]
mod tests {
    use vaultdb_kv::histogram::IO_BOUNDS_US;
    use vaultdb_kv::Histogram;

    use super::*;

    /// The 99th percentile of the syncs since the last look decides: not one among a hundred, not what was before,
    /// and not a single one that happened to be alone.
    #[test]
    fn few_slow_syncs_are_forgiven() {
        let limit = Duration::from_millis(250);
        let times = Histogram::new(IO_BOUNDS_US);
        let record = |count: u32, time| (0..count).for_each(|_| times.record(time));
        let begun = times.snapshot();
        record(1, limit + Duration::from_micros(1));
        assert!(!are_slow(&begun, &times.snapshot(), limit), "alone");
        record(1, limit + Duration::from_micros(1));
        let later = times.snapshot();
        assert!(are_slow(&begun, &later, limit));
        record(1_000, limit);
        assert!(!are_slow(&begun, &times.snapshot(), limit), "two of a thousand");
        assert!(!are_slow(&later, &times.snapshot(), limit), "the limit itself is kept");
        record(20, limit * 3);
        assert!(are_slow(&later, &times.snapshot(), limit));
    }
}
