//! Whether the election timeouts fit this network and this disk: measured while the node runs, told in the log.
//!
//! A round trip is that of a heartbeat, the follower's own fsync included. Judged is the slowest twentieth of an
//! interval, so that single outliers, of which any machine has some, are no news.

use std::sync::Arc;
use std::time::{Duration, Instant};

use vaultdb_kv::HistogramSnapshot;

use crate::core::Core;

/// How often the figures are judged.
const INTERVAL: Duration = Duration::from_secs(10);
/// Fewer records in an interval say nothing.
const RECORDS_MIN: u64 = 20;
/// Of the shortest election timeout a round trip and an fsync may each take a quarter.
const PARTS: u32 = 4;
/// Shortest time between two warnings.
const WARN_EVERY: Duration = Duration::from_secs(300);

/// Judges for as long as consensus runs.
pub async fn watch_pace(core: Arc<Core>) {
    let timeout = Duration::from_millis(core.timing.election_timeout_ms_min);
    let mut tick = tokio::time::interval(INTERVAL);
    let mut last = core.stages.snapshot();
    let mut warned: Option<Instant> = None;
    while core.fatal.borrow().is_none() {
        tick.tick().await;
        let now = core.stages.snapshot();
        let trips = slow(&last.round_trips, &now.round_trips);
        let fsyncs = last.wal_fsync.as_ref().zip(now.wal_fsync.as_ref()).and_then(|(a, b)| slow(a, b));
        let due = warned.is_none_or(|warned| warned.elapsed() >= WARN_EVERY);
        for (what, took) in [("heartbeats of this leader", trips), ("fsyncs of this node", fsyncs)] {
            let Some(took) = took.filter(|took| due && *took > timeout / PARTS) else { continue };
            log::warn!(
                "one in twenty {what} takes {took:?} or longer: for calm elections set election_timeout_ms_min to \
                 {} or more on all nodes, and the other timeouts in proportion (it is {})",
                (took * PARTS).as_millis(),
                timeout.as_millis()
            );
            warned = Some(Instant::now());
        }
        last = now;
    }
}

/// What the slowest twentieth of the records between two moments took at least: the lower bound of its bucket.
fn slow(before: &HistogramSnapshot, after: &HistogramSnapshot) -> Option<Duration> {
    let counts: Vec<u64> = after
        .counts
        .iter()
        .zip(&before.counts)
        .map(|(after, before)| after.saturating_sub(*before))
        .collect();
    let all: u64 = counts.iter().sum();
    if all < RECORDS_MIN {
        return None;
    }
    let mut slower = 0;
    let bucket = (0..counts.len()).rev().find(|bucket| {
        slower += counts[*bucket];
        slower * 20 >= all
    })?;
    let us = bucket.checked_sub(1).map_or(0, |below| after.bounds_us[below]);
    Some(Duration::from_micros(us))
}

#[cfg(test)]
mod tests {
    use vaultdb_kv::Histogram;

    use super::*;

    /// One outlier is no news, a twentieth is; what was before the interval does not count.
    #[test]
    fn the_slowest_twentieth_is_judged() {
        let histogram = Histogram::new(&[1_000, 10_000, 100_000]);
        let record = |count, ms| (0..count).for_each(|_| histogram.record(Duration::from_millis(ms)));
        record(100, 50);
        let before = histogram.snapshot();
        assert_eq!(slow(&before, &before), None, "nothing was recorded");
        record(98, 1);
        record(2, 50);
        assert_eq!(slow(&before, &histogram.snapshot()), Some(Duration::ZERO));
        record(4, 50);
        assert_eq!(slow(&before, &histogram.snapshot()), Some(Duration::from_millis(10)));
    }
}
