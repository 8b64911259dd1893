//! A limit on how fast snapshots leave this node, shared by all transfers.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{sleep_until, Instant};

/// Grants bytes at a steady pace. Nothing is saved up while nobody asks, so there are no bursts: a piece of the
/// disk's or the network's time is all that a snapshot takes from the writes beside it.
pub struct Throttle {
    /// 0: no limit.
    bytes_per_second_max: u64,
    pace: Mutex<Pace>,
}

/// When the next bytes may leave.
#[derive(Default)]
struct Pace {
    free_at: Option<Instant>,
}

impl Pace {
    /// When `bytes` may leave that somebody wants to send at `now`; whoever comes next waits until they are through.
    fn reserve(&mut self, now: Instant, bytes: usize, bytes_per_second: u64) -> Instant {
        let from = self.free_at.map_or(now, |free_at| free_at.max(now));
        let nanos = bytes as u128 * 1_000_000_000 / u128::from(bytes_per_second.max(1));
        self.free_at = Some(from + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)));
        from
    }
}

impl Throttle {
    pub fn new(bytes_per_second_max: u64) -> Self {
        Self { bytes_per_second_max, pace: Mutex::default() }
    }

    /// Returns once so many bytes may leave.
    pub async fn take(&self, bytes: usize) {
        if self.bytes_per_second_max == 0 {
            return;
        }
        let from = self.pace.lock().reserve(Instant::now(), bytes, self.bytes_per_second_max);
        sleep_until(from).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever sends as fast as it may gets the rate, over any stretch of time and however many share it; what was
    /// not used is lost.
    #[test]
    fn steady_pace() {
        const RATE: u64 = 1_000_000;
        let begin = Instant::now();
        let ms = Duration::from_millis;
        let mut pace = Pace::default();
        let mut now = begin;
        for piece in 0..100 {
            let from = pace.reserve(now, 10_000, RATE);
            assert_eq!(from - begin, ms(10 * piece));
            // Woken a little late each time: the pace is kept all the same.
            now = from + ms(3);
        }
        let late = begin + ms(5_000);
        assert_eq!(pace.reserve(late, 10_000, RATE), late);
        assert_eq!(pace.reserve(late, 10_000, RATE), late + ms(10), "no burst after a pause");
    }
}
