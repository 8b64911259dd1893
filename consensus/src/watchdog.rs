//! A leader whose disk stands still gives its place away: it can be heard, so nobody else would take it.
//!
//! Runs beside the disk, on the consensus thread, and must never touch it: it only reads when the log last got
//! something done.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::interval;

use crate::api::Leadership;
use crate::core::Core;
use crate::types::Raft;

/// Looks at the log in each election timeout.
const LOOKS_PER_TIMEOUT: u32 = 10;
/// Shortest election timeouts that pass without any progress of the log before a leader steps aside.
const TIMEOUTS: u32 = 2;
/// Longest election timeouts for which a leader whose handover failed stays silent.
const SILENCE_TIMEOUTS_MAX: u32 = 10;

/// How much the log was given to make durable, and since when nothing of it was.
#[derive(Debug, Default)]
pub struct LogProgress(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    count: u64,
    /// When it was handed over or, if later, when the last of the others was done.
    since: Option<Instant>,
}

impl LogProgress {
    /// Something is handed to the log; the answer goes to what this returns.
    pub fn begin(self: &Arc<Self>) -> impl FnOnce() + Send + 'static {
        let mut waiting = self.0.lock();
        waiting.count += 1;
        waiting.since.get_or_insert_with(Instant::now);
        let progress = self.clone();
        move || {
            let mut waiting = progress.0.lock();
            waiting.count -= 1;
            waiting.since = (waiting.count > 0).then(Instant::now);
        }
    }

    /// For how long nothing became durable though something waits for it.
    pub fn standstill(&self) -> Duration {
        self.0.lock().since.map_or(Duration::ZERO, |since| since.elapsed())
    }
}

/// Wraps the callback of a vote or an append, so that the log's progress is known.
pub fn watched(
    progress: &Arc<LogProgress>,
    done: impl FnOnce(io::Result<()>) + Send + 'static,
) -> Box<dyn FnOnce(io::Result<()>) + Send> {
    let ended = progress.begin();
    Box::new(move |result| {
        ended();
        done(result);
    })
}

/// Hands leadership over when the log stands still, or falls silent where nobody can take it, so that the others
/// elect once they can.
pub async fn watch_disk(core: Arc<Core>, progress: Arc<LogProgress>) {
    let timeout = Duration::from_millis(core.timing.election_timeout_ms_min);
    let mut tick = interval(timeout / LOOKS_PER_TIMEOUT);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while core.fatal.borrow().is_none() {
        tick.tick().await;
        let standstill = progress.standstill();
        if standstill <= timeout * TIMEOUTS || !core.leadership().is_local {
            continue;
        }
        log::warn!("the log has written nothing for {standstill:?}: leadership moves away");
        let result = match core.best_successor() {
            Some(successor) => core.hand_over(successor, Instant::now() + timeout).await,
            None => {
                fall_silent(&core.raft, core.leadership.subscribe(), timeout * TIMEOUTS).await;
                Ok(())
            }
        };
        if let Err(e) = result {
            log::warn!("leadership was not handed over: {e}");
        }
    }
}

/// Sees a handover through that has begun. A leader takes no writes from then on, so it must not go on leading
/// when its successor fails: it falls silent, and the others elect.
pub async fn see_through(raft: Raft, mut leadership: watch::Receiver<Arc<Leadership>>, timeout: Duration) {
    let late = tokio::time::timeout(timeout, leadership.wait_for(|l| !l.is_local)).await.is_err();
    if late {
        log::warn!("the successor did not lead within {timeout:?}: the others are to elect");
        fall_silent(&raft, leadership, timeout * SILENCE_TIMEOUTS_MAX).await;
    }
}

/// Sends no heartbeats until this node leads no longer, or for the time given.
async fn fall_silent(raft: &Raft, mut leadership: watch::Receiver<Arc<Leadership>>, longest: Duration) {
    raft.runtime_config().heartbeat(false);
    // Whether it was of use shows at the next look.
    drop(tokio::time::timeout(longest, leadership.wait_for(|l| !l.is_local)).await);
    raft.runtime_config().heartbeat(true);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Only time in which something waits and nothing is done counts.
    #[test]
    fn progress_ends_a_standstill() {
        let progress = Arc::new(LogProgress::default());
        assert_eq!(progress.standstill(), Duration::ZERO);
        let (first, second) = (progress.begin(), progress.begin());
        let begun = progress.0.lock().since.expect("something waits");
        first();
        let later = progress.0.lock().since.expect("something waits still");
        assert!(later >= begun);
        second();
        assert_eq!(progress.standstill(), Duration::ZERO);
    }
}
