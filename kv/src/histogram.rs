//! Counts of durations in fixed buckets, for metrics.
//!
//! Recording is a few relaxed atomic additions: never a lock, never an allocation, from any thread.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the buckets of what takes a disk or a network, in microseconds: 50 µs to 10 s.
pub const IO_BOUNDS_US: &[u64] = &[
    50, 100, 150, 200, 300, 500, 750, 1_000, 1_500, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000,
    500_000, 1_000_000, 2_500_000, 5_000_000, 10_000_000,
];

/// How often something took how long.
#[derive(Debug)]
pub struct Histogram {
    bounds_us: &'static [u64],
    /// One for each bound, and one for what is beyond the last.
    counts: Box<[AtomicU64]>,
    sum_ns: AtomicU64,
}

/// What a [`Histogram`] held at one moment. Records made meanwhile may be missing from either part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistogramSnapshot {
    /// Largest duration that counts for a bucket, in microseconds, ascending.
    pub bounds_us: &'static [u64],
    /// Records in each bucket alone, not summed up; one more than bounds, for what is beyond the last.
    pub counts: Vec<u64>,
    pub sum: Duration,
}

impl Histogram {
    /// `bounds_us` ascend.
    pub fn new(bounds_us: &'static [u64]) -> Self {
        debug_assert!(bounds_us.is_sorted());
        let counts = (0..=bounds_us.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds_us, counts, sum_ns: AtomicU64::new(0) }
    }

    pub fn record(&self, duration: Duration) {
        let ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        // Rounded up: a duration belongs to a bucket only if it is no longer than the bucket's bound.
        let us = ns.div_ceil(1_000);
        let bucket = self.bounds_us.partition_point(|bound| *bound < us);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_ns.fetch_add(ns, Ordering::Relaxed);
    }

    pub fn snapshot(&self) -> HistogramSnapshot {
        HistogramSnapshot {
            bounds_us: self.bounds_us,
            counts: self.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect(),
            sum: Duration::from_nanos(self.sum_ns.load(Ordering::Relaxed)),
        }
    }
}

impl HistogramSnapshot {
    /// Records in all buckets.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A duration counts where Prometheus looks for it: in the first bucket whose bound is not less.
    #[test]
    fn bounds_are_inclusive() {
        let histogram = Histogram::new(&[10, 20]);
        let ns = |ns| histogram.record(Duration::from_nanos(ns));
        for duration in [0, 10_000, 10_001, 20_000, 20_001] {
            ns(duration);
        }
        histogram.record(Duration::from_secs(1));
        let snapshot = histogram.snapshot();
        assert_eq!(snapshot.counts, [2, 2, 2]);
        assert_eq!(snapshot.count(), 6);
        assert_eq!(snapshot.sum, Duration::from_nanos(1_000_000_000 + 60_002));
    }
}
