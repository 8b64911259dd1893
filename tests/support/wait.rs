//! Waiting on conditions, and saying what was skipped.

use std::thread;
use std::time::{Duration, Instant};

/// Pause between two looks at a condition.
const POLL: Duration = Duration::from_millis(20);

/// Looks at `check` until it answers `Ok`; panics with the last reason once `limit` has passed.
pub fn eventually<T>(what: &str, limit: Duration, check: impl FnMut() -> Result<T, String>) -> T {
    match eventually_ok(limit, check) {
        Ok(value) => value,
        Err(reason) => panic!("not within {limit:?}: {what}; last seen: {reason}"),
    }
}

/// As [`eventually`], with the last reason as the answer.
pub fn eventually_ok<T>(limit: Duration, mut check: impl FnMut() -> Result<T, String>) -> Result<T, String> {
    let end = Instant::now() + limit;
    loop {
        let reason = match check() {
            Ok(value) => return Ok(value),
            Err(reason) => reason,
        };
        if Instant::now() >= end {
            return Err(reason);
        }
        thread::sleep(POLL);
    }
}

/// One clear line for what this machine cannot run.
pub fn skip(what: &str, why: &str) {
    eprintln!("SKIPPED: {what}: {why}");
}
