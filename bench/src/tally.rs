//! Counts what a run's requests came to: successes with their latency, failures by name.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::time::{clock_gettime, ClockId};

/// Longest latency that is told apart, in microseconds; longer ones count as this.
const LATENCY_US_MAX: u64 = 3_600_000_000;
/// Significant decimal digits of a latency.
const LATENCY_DIGITS: u8 = 3;
/// Most names of failures that are told apart; the rest count as [`OTHER`].
const NAMES_MAX: usize = 64;
const OTHER: &str = "other";

/// When the measured part of a run begins and ends.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    pub begin: Instant,
    pub end: Instant,
}

impl Window {
    pub fn contains(&self, at: Instant) -> bool {
        self.begin <= at && at < self.end
    }
}

/// The requests of one run.
///
/// A request belongs to the window in which it *started*: its answer may come later, and a request that
/// was under way when the window began is not counted. Only the rate counts answers by when they came.
#[derive(Debug, Clone)]
pub struct Tally {
    window: Window,
    latency_us: Histogram<u64>,
    pub(crate) successes: u64,
    pub(crate) failures: BTreeMap<String, u64>,
    /// Successes that were answered within the window, whenever they started.
    pub(crate) answered: u64,
    /// Answers and failures within the window, whenever they started.
    pub(crate) ended: u64,
}

impl Tally {
    pub fn new(window: Window) -> Self {
        let latency_us = Histogram::new_with_bounds(1, LATENCY_US_MAX, LATENCY_DIGITS)
            .expect("the bounds are constants that the histogram accepts");
        Self { window, latency_us, successes: 0, failures: BTreeMap::new(), answered: 0, ended: 0 }
    }

    /// `started`: when the request was sent, or, in an open loop, when it should have been.
    pub fn succeed(&mut self, started: Instant, ended: Instant) {
        if self.window.contains(ended) {
            self.answered += 1;
            self.ended += 1;
        }
        if self.window.contains(started) {
            self.successes += 1;
            let us = u64::try_from((ended - started).as_micros()).unwrap_or(u64::MAX);
            self.latency_us.saturating_record(us);
        }
    }

    pub fn fail(&mut self, started: Instant, ended: Instant, name: &str) {
        if self.window.contains(ended) {
            self.ended += 1;
        }
        if self.window.contains(started) {
            match self.failures.get_mut(name) {
                Some(count) => *count += 1,
                None => {
                    let name = if self.failures.len() < NAMES_MAX { name } else { OTHER };
                    *self.failures.entry(name.to_owned()).or_default() += 1;
                }
            }
        }
    }

    pub fn errors(&self) -> u64 {
        self.failures.values().sum()
    }

    pub fn latency_us(&self) -> &Histogram<u64> {
        &self.latency_us
    }
}

/// What this process has used of all processors, in user and kernel mode.
pub fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.try_into().unwrap_or(0), time.tv_nsec.try_into().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A request counts where it started, the rate where it was answered.
    #[test]
    fn window() {
        let at = |base: Instant, ms| base + Duration::from_millis(ms);
        let base = Instant::now();
        let mut tally = Tally::new(Window { begin: at(base, 100), end: at(base, 200) });
        tally.succeed(at(base, 50), at(base, 90));
        assert_eq!((tally.successes, tally.answered), (0, 0));
        tally.succeed(at(base, 90), at(base, 110));
        assert_eq!((tally.successes, tally.answered), (0, 1));
        tally.succeed(at(base, 110), at(base, 120));
        assert_eq!((tally.successes, tally.answered), (1, 2));
        tally.succeed(at(base, 190), at(base, 250));
        assert_eq!((tally.successes, tally.answered), (2, 2));
        tally.fail(at(base, 199), at(base, 300), "timeout");
        tally.fail(at(base, 200), at(base, 300), "timeout");
        assert_eq!((tally.errors(), tally.ended), (1, 2));
        assert_eq!(tally.latency_us().max(), 60_031, "60 ms to three digits");
    }

    /// A server that invents names cannot make the tally grow without bound.
    #[test]
    fn names_are_bounded() {
        let base = Instant::now();
        let mut tally = Tally::new(Window { begin: base, end: base + Duration::from_secs(1) });
        for i in 0..1_000 {
            tally.fail(base, base, &format!("code_{i}"));
        }
        assert!(tally.failures.len() <= NAMES_MAX + 1);
        assert_eq!(tally.errors(), 1_000);
        assert_eq!(tally.failures[OTHER], 1_000 - NAMES_MAX as u64);
    }

    #[test]
    fn cpu_time_grows() {
        let before = cpu_time();
        let began = Instant::now();
        while cpu_time() == before {
            assert!(began.elapsed() < Duration::from_secs(10), "a busy process used no time");
        }
    }
}
