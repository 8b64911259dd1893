//! What clients got from this node in each of the last seconds, for people who come to look later.
//!
//! Sampled once a second from the counters of all workers, also while nobody looks: a fault is seen best
//! beside the minutes before it.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use tokio::time::{interval, MissedTickBehavior};

use crate::app::Shared;
use crate::metrics::{ClientTotals, LATENCY_BOUNDS_US};

/// How many samples are kept: five minutes.
pub(crate) const FIGURES_MAX: usize = 300;
const SAMPLE_INTERVAL: Duration = Duration::from_secs(1);

/// One second's requests of clients.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Figure {
    /// Unix time in milliseconds at its end.
    time_ms: u64,
    /// A second, as the next two.
    requests: u64,
    writes: u64,
    errors: u64,
    /// From the buckets of the histogram, so within a factor of 2.5; `None` without a request.
    p50_ms: Option<f64>,
    p99_ms: Option<f64>,
}

#[derive(Debug, Default)]
pub(crate) struct History {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    last: ClientTotals,
    figures: VecDeque<Figure>,
}

impl History {
    /// Takes what was counted since the last sample, `elapsed` ago.
    fn sample(&self, totals: ClientTotals, elapsed: Duration, time_ms: u64) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let last = std::mem::replace(&mut inner.last, totals);
        let mut buckets = totals.buckets;
        for (bucket, before) in buckets.iter_mut().zip(last.buckets) {
            *bucket -= before;
        }
        let rate = |now: u64, before: u64| ((now - before) as f64 / elapsed.as_secs_f64()).round() as u64;
        if inner.figures.len() == FIGURES_MAX {
            inner.figures.pop_front();
        }
        inner.figures.push_back(Figure {
            time_ms,
            requests: rate(totals.requests, last.requests),
            writes: rate(totals.writes, last.writes),
            errors: rate(totals.errors, last.errors),
            p50_ms: quantile_ms(&buckets, 0.5),
            p99_ms: quantile_ms(&buckets, 0.99),
        });
    }

    /// The samples after that time, oldest first.
    pub(crate) fn since(&self, time_ms: u64) -> Vec<Figure> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.figures.iter().filter(|figure| figure.time_ms > time_ms).copied().collect()
    }
}

/// Samples until the server is gone.
pub(crate) async fn sample_figures(shared: Weak<Shared>) {
    let mut ticks = interval(SAMPLE_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await;
    let mut last = Instant::now();
    loop {
        ticks.tick().await;
        let Some(shared) = shared.upgrade() else { return };
        let now = Instant::now();
        shared.history.sample(shared.metrics.client_totals(), now - last, unix_ms());
        last = now;
    }
}

/// Where the quantile lies, taking each bucket for evenly filled.
fn quantile_ms(buckets: &[u64; LATENCY_BOUNDS_US.len() + 1], quantile: f64) -> Option<f64> {
    let total: u64 = buckets.iter().sum();
    let rank = total as f64 * quantile;
    let mut below = 0;
    for (index, count) in buckets.iter().enumerate().filter(|(_, count)| **count > 0) {
        if (below + count) as f64 >= rank {
            let from = if index == 0 { 0 } else { LATENCY_BOUNDS_US[index - 1] } as f64;
            let to = LATENCY_BOUNDS_US.get(index).map_or(from, |bound| *bound as f64);
            let us = from + (to - from) * (rank - below as f64) / *count as f64;
            // Tenths of a microsecond would only look like precision.
            return Some((us / 10.0).round() / 100.0);
        }
        below += count;
    }
    None
}

/// Milliseconds since 1970.
pub(crate) fn unix_ms() -> u64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn totals(requests: u64, in_first_bucket: u64, in_last_bucket: u64) -> ClientTotals {
        let mut totals = ClientTotals { requests, writes: requests / 2, ..ClientTotals::default() };
        totals.buckets[0] = in_first_bucket;
        totals.buckets[LATENCY_BOUNDS_US.len()] = in_last_bucket;
        totals
    }

    /// A sample tells of its own second alone, as a rate, and the ring keeps the last ones.
    #[test]
    fn samples_are_of_their_second() {
        let history = History::default();
        history.sample(totals(100, 100, 0), Duration::from_secs(1), 1_000);
        history.sample(totals(120, 118, 2), Duration::from_secs(2), 3_000);
        let figures = history.since(1_000);
        assert_eq!(figures.len(), 1);
        assert_eq!((figures[0].requests, figures[0].writes), (10, 5));
        assert_eq!((figures[0].p50_ms, figures[0].p99_ms), (Some(0.03), Some(60_000.0)));
        for i in 0..FIGURES_MAX as u64 {
            history.sample(totals(120, 118, 2), Duration::from_secs(1), 4_000 + i);
        }
        let figures = history.since(0);
        assert_eq!((figures.len(), figures[0].time_ms, figures[0].p50_ms), (FIGURES_MAX, 4_000, None));
    }

    /// Within a bucket the quantile moves with its rank.
    #[test]
    fn quantiles_lie_in_their_bucket() {
        let mut buckets = [0; LATENCY_BOUNDS_US.len() + 1];
        buckets[4] = 100;
        assert_eq!(quantile_ms(&buckets, 0.5), Some(0.75));
        assert_eq!(quantile_ms(&buckets, 1.0), Some(1.0));
        assert_eq!(quantile_ms(&[0; LATENCY_BOUNDS_US.len() + 1], 0.5), None);
    }
}
