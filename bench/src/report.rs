//! What a run measured, and how it is printed.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// Latencies and failures of one worker, or of all.
#[derive(Default)]
pub struct Sample {
    latency_us: Vec<u32>,
    failures: BTreeMap<String, u64>,
}

impl Sample {
    pub fn record(&mut self, latency: Duration) {
        self.latency_us.push(u32::try_from(latency.as_micros()).unwrap_or(u32::MAX));
    }

    pub fn fail(&mut self, what: String) {
        *self.failures.entry(what).or_default() += 1;
    }

    pub fn merge(&mut self, other: Sample) {
        self.latency_us.extend(other.latency_us);
        for (what, count) in other.failures {
            *self.failures.entry(what).or_default() += count;
        }
    }
}

/// One line of the table.
pub struct Report {
    connections: usize,
    per_second: u64,
    /// p50, p99 and the largest, in microseconds.
    latency_us: [u32; 3],
    failures: BTreeMap<String, u64>,
}

impl Report {
    pub fn new(connections: usize, seconds: u64, mut sample: Sample) -> Self {
        sample.latency_us.sort_unstable();
        let count = sample.latency_us.len();
        // Nearest rank: the smallest value that at least this share of the sample does not exceed.
        let rank = |percent: usize| {
            let index = (count * percent).div_ceil(100).saturating_sub(1);
            sample.latency_us.get(index).copied().unwrap_or(0)
        };
        Self {
            connections,
            per_second: count as u64 / seconds.max(1),
            latency_us: [rank(50), rank(99), rank(100)],
            failures: sample.failures,
        }
    }

    pub fn header() -> &'static str {
        "| connections | writes/s | p50 ms | p99 ms | max ms | failures |\n|---|---|---|---|---|---|"
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [p50, p99, max] = self.latency_us.map(|us| f64::from(us) / 1000.0);
        let failures: Vec<_> =
            self.failures.iter().map(|(what, count)| format!("{count} × {what}")).collect();
        let failures = if failures.is_empty() { "none".to_owned() } else { failures.join(", ") };
        write!(
            f,
            "| {} | {} | {p50:.2} | {p99:.2} | {max:.2} | {failures} |",
            self.connections, self.per_second
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Percentiles are nearest ranks of all workers together.
    #[test]
    fn percentiles() {
        let mut all = Sample::default();
        for us in (1..=100).rev() {
            let mut one = Sample::default();
            one.record(Duration::from_micros(us));
            all.merge(one);
        }
        let report = Report::new(4, 10, all);
        assert_eq!((report.latency_us, report.per_second), ([50, 99, 100], 10));
    }
}
