//! When this node campaigns: once it has heard no leader for a time drawn from the election timeouts.
//!
//! openraft's own timer waits for the leader's lease and then for an election timeout on top of it. The
//! lease alone is what safety needs, so openraft's timer is off and this one campaigns soon after its end.
//! Must never shorten a lease: openraft refuses the pre-vote while one lasts, whatever this timer thinks.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use openraft::async_runtime::WatchReceiver;
use openraft::ServerState;
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

/// The wait after a pre-vote that came to nothing, as while the others start. There is no lease to wait for, and
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

/// A campaign of this node, and the term in which it began.
#[derive(Debug, Clone, Copy)]
struct Campaign {
    at: Instant,
    term: u64,
}

impl Campaign {
    /// Whether it has come to nothing more than a pre-vote. `since`: when a leader was last heard or a vote given,
    /// which starts the wait anew.
    fn is_in_vain(&self, since: Instant, state: ServerState, term: u64) -> bool {
        // Only once the pre-vote is won is the term raised, and it remains this node's own while votes are counted.
        let is_election = state == ServerState::Candidate && term > self.term;
        since <= self.at && !is_election
    }
}

/// One timer, as long as it is for each reason.
#[derive(Debug, Clone, Copy)]
struct Draws {
    first: Duration,
    again: Duration,
}

impl Draws {
    fn new(timing: &Timing) -> Self {
        Self { first: draw(timing), again: draw_retry(timing) }
    }

    /// How long to wait, after `since`, for the next campaign. `in_vain`: nothing but the pre-vote of the last one came
    /// of it. A real election gets its time: one that is begun anew before it is counted voids the votes that others
    /// have just made durable.
    fn wait(&self, in_vain: bool) -> Duration {
        if in_vain {
            self.again
        } else {
            self.first
        }
    }
}

/// Campaigns for as long as consensus runs. `founding`: nobody can lead yet, so there is nothing to wait for.
pub async fn campaign(core: Arc<Core>, founding: bool) {
    if founding || core.is_only_voter() {
        found(&core).await;
    }
    let mut campaigned: Option<Campaign> = None;
    loop {
        let draws = Draws::new(&core.timing);
        loop {
            let since = core.election_clock.since();
            let in_vain = campaigned.is_some_and(|campaign| core.is_in_vain(campaign, since));
            let due = since + draws.wait(in_vain);
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
        let (_, term) = core.state_and_term();
        campaigned = (!core.leadership().is_local).then_some(Campaign { at: now, term });
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

    fn is_in_vain(&self, campaign: Campaign, since: Instant) -> bool {
        let (state, term) = self.state_and_term();
        self.pre_vote && campaign.is_in_vain(since, state, term)
    }

    fn state_and_term(&self) -> (ServerState, u64) {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        (metrics.state, metrics.vote.leader_id.term)
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

    /// A pre-vote that comes to nothing is tried again soon; an election that it led to has its whole timeout, as has
    /// whatever follows a sign of life.
    #[test]
    fn an_election_in_flight_is_not_cut_short() {
        let timing =
            Timing { heartbeat_interval_ms: 50, election_timeout_ms_min: 250, election_timeout_ms_max: 400 };
        let at = Instant::now();
        let campaign = Campaign { at, term: 7 };
        let heard = at + Duration::from_millis(1);
        for (state, term, since, in_vain) in [
            (ServerState::Follower, 7, at, true),
            // The term is still the one of an election that this node lost before.
            (ServerState::Candidate, 7, at, true),
            (ServerState::Candidate, 8, at, false),
            (ServerState::Follower, 8, at, true),
            (ServerState::Follower, 7, heard, false),
            (ServerState::Candidate, 8, heard, false),
        ] {
            assert_eq!(campaign.is_in_vain(since, state, term), in_vain, "{state:?} {term}");
            for _ in 0..100 {
                let wait = Draws::new(&timing).wait(in_vain);
                let (least, most) = if in_vain { (62, 213) } else { (250, 400) };
                let range = Duration::from_millis(least)..Duration::from_millis(most);
                assert!(range.contains(&wait), "{state:?} {term}: {wait:?}");
            }
        }
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
