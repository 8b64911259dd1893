//! From what is measured to a verdict: worse at once, better only after good looks in a row.
//!
//! Must never read a clock: whoever looks says what time it is, so that a test can.

use std::time::{Duration, Instant};

use vaultdb_kv::Health;

use crate::slot::{Condition, STARTING};

/// What one look at a component found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    pub state: Health,
    /// Holds no figure that changes by itself: each change of it is an event.
    pub reason: Option<String>,
}

impl Finding {
    pub fn healthy() -> Self {
        Self { state: Health::Healthy, reason: None }
    }

    pub fn degraded(reason: impl Into<String>) -> Self {
        Self { state: Health::Degraded, reason: Some(reason.into()) }
    }

    pub fn failed(reason: impl Into<String>) -> Self {
        Self { state: Health::Failed, reason: Some(reason.into()) }
    }

    /// How bad a wait is.
    pub fn of_wait(waited: Duration, degraded: Duration, failed: Duration, what: &str) -> Self {
        if waited >= failed {
            Self::failed(format!("{what} for over {} ms", failed.as_millis()))
        } else if waited >= degraded {
            Self::degraded(format!("{what} for over {} ms", degraded.as_millis()))
        } else {
            Self::healthy()
        }
    }
}

/// What is said of one component.
#[derive(Debug)]
pub(crate) struct Hysteresis {
    said: Finding,
    /// Looks in a row that were better than what is said.
    better: u32,
}

impl Hysteresis {
    /// Goes on from what was said before. A component that was not looked at yet needs no second look.
    pub fn after(condition: Condition) -> Self {
        let better = if condition.reason.as_deref() == Some(STARTING) { u32::MAX } else { 0 };
        Self { said: Finding { state: condition.state, reason: condition.reason }, better }
    }

    /// What is to be said now, if that is news.
    pub fn take(&mut self, found: Finding, better_looks_min: u32) -> Option<Finding> {
        if found.state < self.said.state {
            self.better = self.better.saturating_add(1);
            if self.better < better_looks_min {
                return None;
            }
        }
        self.better = 0;
        if found == self.said {
            return None;
        }
        self.said = found.clone();
        Some(found)
    }
}

/// The time for which its owner was run. What stands still with the whole process does not count: nobody else could
/// do anything either.
#[derive(Debug)]
pub(crate) struct RunningTime {
    last: Instant,
    step_max: Duration,
    total: Duration,
}

impl RunningTime {
    /// It is looked at more often than once in `step_max`.
    pub fn new(now: Instant, step_max: Duration) -> Self {
        Self { last: now, step_max, total: Duration::ZERO }
    }

    pub fn advance(&mut self, now: Instant) -> Duration {
        self.total += now.saturating_duration_since(self.last).min(self.step_max);
        self.last = now;
        self.total
    }

    pub fn get(&self) -> Duration {
        self.total
    }
}

/// The probe of one actor's mailbox that is on its way, and good looks at it.
#[derive(Debug)]
pub(crate) struct Mailbox {
    generation: u64,
    /// In the monitor's running time.
    sent: Option<Duration>,
    /// Looks in a row that were better than what is said of the actor.
    better: u32,
}

impl Mailbox {
    /// A newly built actor is not judged by what its predecessor left unanswered.
    pub fn new(generation: u64) -> Self {
        Self { generation, sent: None, better: 0 }
    }

    pub fn generation(&self) -> u64 {
        self.generation
    }

    pub fn send(&mut self, now: Duration) {
        self.sent = Some(now);
    }

    /// For how long a probe has been unanswered.
    pub fn outstanding(&self, now: Duration) -> Option<Duration> {
        self.sent.map(|sent| now.saturating_sub(sent))
    }

    pub fn clear(&mut self) {
        self.sent = None;
    }

    /// What is to be said now, if that is news after what is said already: by the supervisor, which rebuilds actors, or
    /// by a monitor before this one. So that is asked for at each look, and not remembered.
    pub fn take(&mut self, said: Condition, found: Finding, better_looks_min: u32) -> Option<Finding> {
        let said = Finding { state: said.state, reason: said.reason };
        let mut hysteresis = Hysteresis { said, better: self.better };
        let news = hysteresis.take(found, better_looks_min);
        self.better = hysteresis.better;
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slot::{ComponentId, Vitals};

    const LOOKS: u32 = 3;

    fn condition(state: Health, reason: &str) -> Condition {
        Condition { state, since_ms: 0, reason: Some(reason.into()) }
    }

    /// Bad news is told at once and once, good news after three good looks in a row; one bad look in between starts
    /// the count anew.
    #[test]
    fn better_takes_longer_than_worse() {
        let mut slow = Hysteresis::after(condition(Health::Healthy, ""));
        slow.said = Finding::healthy();
        let bad = Finding::degraded("slow");
        assert_eq!(slow.take(bad.clone(), LOOKS), Some(bad.clone()));
        assert_eq!(slow.take(bad.clone(), LOOKS), None, "no news");
        for found in
            [Finding::healthy(), Finding::healthy(), bad.clone(), Finding::healthy(), Finding::healthy()]
        {
            assert_eq!(slow.take(found, LOOKS), None);
        }
        assert_eq!(slow.take(Finding::healthy(), LOOKS), Some(Finding::healthy()));
        let worse = Finding::failed("gone");
        assert_eq!(slow.take(worse.clone(), LOOKS), Some(worse));
        assert_eq!(slow.take(bad.clone(), LOOKS), None, "better than failed, and that takes three looks too");
        assert_eq!(slow.take(bad.clone(), LOOKS), None);
        assert_eq!(slow.take(bad.clone(), LOOKS), Some(bad));
    }

    /// A new monitor goes on from what the last one said; only a start needs no second look.
    #[test]
    fn verdicts_outlive_the_monitor() {
        let mut known = Hysteresis::after(condition(Health::Failed, "gone"));
        assert_eq!(known.take(Finding::healthy(), LOOKS), None);
        let mut new = Hysteresis::after(condition(Health::Failed, STARTING));
        assert_eq!(new.take(Finding::healthy(), LOOKS), Some(Finding::healthy()));
    }

    /// What a monitor said of an actor before it was replaced itself, or said just after the actor was rebuilt, is
    /// taken back by the next one after as many good looks as ever.
    #[test]
    fn an_actor_recovers_from_what_another_monitor_said() {
        let vitals = Vitals::new(ComponentId::Raft, Health::Healthy, None);
        let look = |mailbox: &mut Mailbox, found: Finding| {
            if let Some(news) = mailbox.take(vitals.condition(), found, LOOKS) {
                vitals.set(news.state, news.reason);
            }
            vitals.condition().state
        };
        let (mut first, slow) = (Mailbox::new(1), Finding::degraded("slow"));
        assert_eq!(look(&mut first, slow.clone()), Health::Degraded);
        let mut second = Mailbox::new(1);
        assert_eq!(look(&mut second, Finding::healthy()), Health::Degraded);
        assert_eq!(look(&mut second, Finding::healthy()), Health::Degraded);
        assert_eq!(look(&mut second, Finding::healthy()), Health::Healthy);
        // The first one was only blocked, and has its last word.
        vitals.set(slow.state, slow.reason);
        for expected in [Health::Degraded, Health::Degraded, Health::Healthy] {
            assert_eq!(look(&mut second, Finding::healthy()), expected);
        }
    }

    /// While the process stands still nobody gets older; an actor that alone stands still does.
    #[test]
    fn a_pause_of_everybody_counts_for_nobody() {
        let (begun, ms) = (Instant::now(), Duration::from_millis);
        let mut time = RunningTime::new(begun, ms(200));
        let mut mailbox = Mailbox::new(1);
        mailbox.send(time.get());
        assert_eq!(mailbox.outstanding(time.advance(begun + ms(60_000))), Some(ms(200)));
        assert_eq!(mailbox.outstanding(time.advance(begun + ms(60_100))), Some(ms(300)));
        for tick in 1..=7 {
            time.advance(begun + ms(60_100 + 100 * tick));
        }
        let waited = mailbox.outstanding(time.get()).expect("unanswered");
        let found = Finding::of_wait(waited, ms(250), ms(700), "it has not answered");
        assert_eq!(found, Finding::failed("it has not answered for over 700 ms"));
        mailbox.clear();
        assert_eq!(mailbox.outstanding(time.get()), None);
    }
}
