//! Counters of the HTTP edge.
//!
//! Each web worker counts into a shard of its own, so that workers never share a cache line on the way
//! of a request; a scrape adds the shards up. Series are bounded: route, method and status are words
//! from fixed lists, never a client's input.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use actix_web::http::StatusCode;

use crate::route::{Route, Verb};

/// Upper bounds of the latency buckets, in microseconds: from a cached read to the longest timeout.
pub(crate) const LATENCY_BOUNDS_US: [u64; 17] = [
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 60_000_000,
];
/// Every status that the edge answers.
const STATUSES: [u16; 22] = [
    200,
    202,
    304,
    307,
    400,
    404,
    405,
    406,
    408,
    409,
    410,
    412,
    413,
    415,
    422,
    429,
    431,
    500,
    503,
    504,
    507,
    OTHER_STATUS,
];
/// Stands for a status that is missing above; shown as such, so that a scrape tells.
const OTHER_STATUS: u16 = 0;

#[derive(Debug, Default)]
pub(crate) struct Metrics {
    shards: Mutex<Vec<Arc<Shard>>>,
}

/// The counters of one web worker.
#[derive(Debug)]
pub(crate) struct Shard {
    /// By route, then method, then status.
    requests: Box<[AtomicU64]>,
    /// By route.
    latency: Box<[Latency]>,
}

#[derive(Debug, Default)]
struct Latency {
    /// Requests in each bucket, not cumulative; the last is for what is beyond every bound.
    buckets: [AtomicU64; LATENCY_BOUNDS_US.len() + 1],
    sum_us: AtomicU64,
}

/// One series of `vaultdb_http_requests_total`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct RequestCount {
    pub(crate) route: &'static str,
    pub(crate) method: &'static str,
    pub(crate) status: u16,
    pub(crate) count: u64,
}

/// One series of `vaultdb_http_request_duration_seconds`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct LatencySum {
    pub(crate) route: &'static str,
    pub(crate) buckets: [u64; LATENCY_BOUNDS_US.len() + 1],
    pub(crate) sum_us: u64,
}

/// The routes on which clients work with keys.
const CLIENT_ROUTES: [Route; 4] = [Route::Keys, Route::Key, Route::Kv, Route::List];

/// What all requests of clients come to. Grows only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct ClientTotals {
    pub(crate) requests: u64,
    /// Writes that were acknowledged.
    pub(crate) writes: u64,
    /// Requests that the node failed or refused for want of room: 429 and 5xx.
    pub(crate) errors: u64,
    /// As [`LatencySum::buckets`].
    pub(crate) buckets: [u64; LATENCY_BOUNDS_US.len() + 1],
}

impl ClientTotals {
    fn add(&mut self, shard: &Shard, route: Route) {
        for verb in Verb::ALL {
            let is_write = matches!(verb, Verb::Put | Verb::Post | Verb::Delete);
            for (index, status) in STATUSES.into_iter().enumerate() {
                let count = shard.requests[place(route, verb, index)].load(Ordering::Relaxed);
                self.requests += count;
                self.writes += if is_write && matches!(status, 200 | 202) { count } else { 0 };
                self.errors += if status == 429 || status >= 500 { count } else { 0 };
            }
        }
        for (sum, bucket) in self.buckets.iter_mut().zip(&shard.latency[route as usize].buckets) {
            *sum += bucket.load(Ordering::Relaxed);
        }
    }
}

impl Metrics {
    pub(crate) fn add_shard(&self) -> Arc<Shard> {
        let shard = Arc::new(Shard::new());
        // A panic between two pushes leaves a valid list.
        self.shards.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&shard));
        shard
    }

    fn sum(&self, counter: impl Fn(&Shard) -> &AtomicU64) -> u64 {
        let shards = self.shards.lock().unwrap_or_else(PoisonError::into_inner);
        shards.iter().map(|shard| counter(shard).load(Ordering::Relaxed)).sum()
    }

    /// What clients asked of keys since the start; probes, scrapes and watching do not count.
    pub(crate) fn client_totals(&self) -> ClientTotals {
        let shards = self.shards.lock().unwrap_or_else(PoisonError::into_inner);
        let mut totals = ClientTotals::default();
        for shard in shards.iter() {
            for route in CLIENT_ROUTES {
                totals.add(shard, route);
            }
        }
        totals
    }

    /// Every series that was counted at least once.
    pub(crate) fn requests(&self) -> Vec<RequestCount> {
        let mut counts = Vec::new();
        for route in Route::ALL {
            for verb in Verb::ALL {
                for (index, status) in STATUSES.into_iter().enumerate() {
                    let count = self.sum(|shard| &shard.requests[place(route, verb, index)]);
                    if count > 0 {
                        let (route, method) = (route.pattern(), verb.as_str());
                        counts.push(RequestCount { route, method, status, count });
                    }
                }
            }
        }
        counts
    }

    pub(crate) fn latencies(&self) -> Vec<LatencySum> {
        let sums = Route::ALL.into_iter().map(|route| LatencySum {
            route: route.pattern(),
            buckets: std::array::from_fn(|i| self.sum(|shard| &shard.latency[route as usize].buckets[i])),
            sum_us: self.sum(|shard| &shard.latency[route as usize].sum_us),
        });
        sums.filter(|sum| sum.buckets.iter().any(|count| *count > 0)).collect()
    }
}

impl Shard {
    fn new() -> Self {
        let requests = Route::ALL.len() * Verb::ALL.len() * STATUSES.len();
        Self {
            requests: (0..requests).map(|_| AtomicU64::new(0)).collect(),
            latency: Route::ALL.iter().map(|_| Latency::default()).collect(),
        }
    }

    pub(crate) fn record(&self, route: Route, verb: Verb, status: StatusCode, took: Duration) {
        let known = STATUSES.iter().position(|known| *known == status.as_u16());
        let status_index = known.unwrap_or(STATUSES.len() - 1);
        self.requests[place(route, verb, status_index)].fetch_add(1, Ordering::Relaxed);
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = LATENCY_BOUNDS_US.partition_point(|bound| *bound < took_us);
        let latency = &self.latency[route as usize];
        latency.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        latency.sum_us.fetch_add(took_us, Ordering::Relaxed);
    }
}

fn place(route: Route, verb: Verb, status_index: usize) -> usize {
    (route as usize * Verb::ALL.len() + verb as usize) * STATUSES.len() + status_index
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Shards add up, and a latency falls into the first bucket whose bound is not below it.
    #[test]
    fn shards_add_up() {
        let metrics = Metrics::default();
        let (one, two) = (metrics.add_shard(), metrics.add_shard());
        one.record(Route::Kv, Verb::Put, StatusCode::OK, Duration::from_micros(50));
        two.record(Route::Kv, Verb::Put, StatusCode::OK, Duration::from_micros(51));
        two.record(Route::Unknown, Verb::Other, StatusCode::IM_A_TEAPOT, Duration::from_secs(3_600));
        assert_eq!(
            metrics.requests(),
            [
                RequestCount { route: "/v1/kv/{key}", method: "PUT", status: 200, count: 2 },
                RequestCount { route: "unknown", method: "other", status: OTHER_STATUS, count: 1 },
            ]
        );
        let totals = metrics.client_totals();
        assert_eq!((totals.requests, totals.writes, totals.errors), (2, 2, 0));
        assert_eq!(totals.buckets[..2], [1, 1]);
        let latencies = metrics.latencies();
        assert_eq!((latencies[0].buckets[0], latencies[0].buckets[1], latencies[0].sum_us), (1, 1, 101));
        assert_eq!(latencies[1].buckets[LATENCY_BOUNDS_US.len()], 1);
    }
}
