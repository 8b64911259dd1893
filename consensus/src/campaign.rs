//! When this node campaigns: once it has heard no leader for a time drawn from the election timeouts.
//!
//! openraft's own timer waits for the leader's lease and then for an election timeout on top of it. The
//! lease alone is what safety needs, so openraft's timer is off and this one campaigns soon after its end.
//! Must never shorten a lease: openraft refuses the pre-vote while one lasts, whatever this timer thinks.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use openraft::async_runtime::WatchReceiver;
use parking_lot::Mutex;
use tokio::time::sleep_until;

use crate::core::Core;
use crate::node::Timing;

/// Pause between the campaigns of a node that founds a cluster and waits for the others to listen.
const FOUNDING_RETRY: Duration = Duration::from_millis(50);

/// Since when this node has no reason to think that somebody leads.
#[derive(Debug)]
pub struct ElectionClock(Mutex<Instant>);

impl ElectionClock {
    /// `begun`: when this node began to start. What starting took counts as waiting, except for the spread of the
    /// draws, so that nodes that start together do not all campaign at once.
    pub fn new(begun: Instant, timing: &Timing) -> Self {
        let now = Instant::now();
        let counts = now.saturating_duration_since(begun).min(timing.vote_pause());
        Self(Mutex::new(now.checked_sub(counts).unwrap_or(now)))
    }

    /// A leader was heard at `at`, or this node voted then.
    pub fn heard(&self, at: Instant) {
        let mut since = self.0.lock();
        *since = at.max(*since);
    }

    fn since(&self) -> Instant {
        *self.0.lock()
    }
}

/// Part of the shortest election timeout after which a campaign is repeated at the earliest: a round trip and an
/// fsync take no longer, see `pace`.
const RETRY_DIVISOR: u64 = 4;

/// Uniform in the range of the election timeouts. Each timer is drawn apart, so that two nodes seldom
/// campaign at once.
fn draw(timing: &Timing) -> Duration {
    spread(timing.election_timeout_ms_min, timing.election_timeout_ms_max)
}

/// The wait after a campaign that came to nothing, as while the others start. There is no lease to wait for, and
/// a pre-vote disturbs nobody.
fn draw_retry(timing: &Timing) -> Duration {
    let (min, max) = (timing.election_timeout_ms_min, timing.election_timeout_ms_max);
    let least = min / RETRY_DIVISOR;
    spread(least, least + max.saturating_sub(min))
}

fn spread(min: u64, max: u64) -> Duration {
    // The keys of a `RandomState` are random; a hash of nothing is as good as a number of a generator.
    let random = RandomState::new().hash_one(());
    let micros = (max.saturating_sub(min) * 1_000).max(1);
    Duration::from_millis(min) + Duration::from_micros(random % micros)
}

/// Campaigns for as long as consensus runs. `founding`: nobody can lead yet, so there is nothing to wait for.
pub async fn campaign(core: Arc<Core>, founding: bool) {
    if founding || core.is_only_voter() {
        found(&core).await;
    }
    let mut campaigned: Option<Instant> = None;
    loop {
        let (first, again) = (draw(&core.timing), draw_retry(&core.timing));
        loop {
            let since = core.election_clock.since();
            // A leader that was heard meanwhile, or a vote that was given, starts the wait anew.
            let in_vain = core.pre_vote && campaigned.is_some_and(|campaigned| since <= campaigned);
            let due = since + if in_vain { again } else { first };
            if due <= Instant::now() {
                break;
            }
            sleep_until(due.into()).await;
        }
        if core.fatal.borrow().is_some() {
            return;
        }
        // The next wait counts from here, whatever comes of this one.
        let now = Instant::now();
        core.election_clock.heard(now);
        campaigned = (!core.leadership().is_local).then_some(now);
        if campaigned.is_some() && !core.campaign_now().await {
            return;
        }
    }
}

/// The first election of a cluster, which has no lease to wait for.
async fn found(core: &Core) {
    let end = Instant::now() + Duration::from_millis(core.timing.election_timeout_ms_max);
    let mut leadership = core.leadership.subscribe();
    while leadership.borrow_and_update().leader.is_none() && Instant::now() < end {
        // Without pre-vote each attempt raises the term, and votes for the one before are void.
        if !core.campaign_now().await || !core.pre_vote {
            return;
        }
        // Either way the loop looks again.
        drop(tokio::time::timeout(FOUNDING_RETRY, leadership.changed()).await);
    }
}

impl Core {
    /// Whether consensus still runs.
    async fn campaign_now(&self) -> bool {
        let pre_vote = self.pre_vote && !self.is_only_voter();
        self.raft.trigger().elect(pre_vote).await.is_ok()
    }

    fn is_only_voter(&self) -> bool {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        let mut voters = metrics.membership_config.voter_ids();
        voters.next() == Some(self.me.id) && voters.next().is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Draws stay within the range and differ, also where the range is a single millisecond.
    #[test]
    fn draws_are_spread_over_the_range() {
        let timing =
            Timing { heartbeat_interval_ms: 50, election_timeout_ms_min: 250, election_timeout_ms_max: 400 };
        let draws: Vec<Duration> = (0..1_000).map(|_| draw(&timing)).collect();
        let (least, most) = (Duration::from_millis(250), Duration::from_millis(400));
        assert!(draws.iter().all(|draw| (least..most).contains(draw)));
        let early = draws.iter().filter(|draw| **draw < Duration::from_millis(325)).count();
        assert!((300..700).contains(&early), "{early} of 1000 in the first half");
    }

    /// An older sign of life does not turn the clock back.
    #[test]
    fn the_clock_only_advances() {
        let timing =
            Timing { heartbeat_interval_ms: 50, election_timeout_ms_min: 250, election_timeout_ms_max: 400 };
        let clock = ElectionClock::new(Instant::now(), &timing);
        let now = Instant::now() + Duration::from_secs(1);
        clock.heard(now);
        clock.heard(now - Duration::from_millis(500));
        assert_eq!(clock.since(), now);
    }
}
