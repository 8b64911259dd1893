//! The ring of what the supervisor saw and did: bounded, oldest dropped first.
//!
//! Shared, so that it can be read and waited on while the supervisor itself hangs.

use std::collections::{BTreeMap, VecDeque};

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::slot::{unix_ms, ComponentId};
use crate::status::{Event, EventKind};

/// Most events that are kept.
pub const EVENTS_MAX: usize = 1000;

#[derive(Debug, Default)]
pub struct EventRing {
    inner: Mutex<Inner>,
    /// The number of the last event. Changed while `inner` is locked, so that it is never ahead of what can
    /// be read.
    news: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Inner {
    last_seq: u64,
    events: VecDeque<Event>,
    /// Every event since the process started, by component and kind: as many as there are names.
    counts: BTreeMap<(&'static str, &'static str), u64>,
}

/// What the ring holds from one place on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventPage {
    /// Oldest first, without a gap.
    pub events: Vec<Event>,
    /// How many there were before these, after the place asked for: the ring has dropped them.
    pub missed: u64,
    /// The number of the last event that there is, whether or not it is in this page.
    pub last_seq: u64,
}

/// How many events of one kind a component had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventCount {
    pub component: &'static str,
    pub what: &'static str,
    pub count: u64,
}

impl EventRing {
    pub(crate) fn push(&self, component: ComponentId, what: EventKind, detail: String) {
        let level = match what {
            EventKind::Started
            | EventKind::Recovered
            | EventKind::Restarted
            | EventKind::FaultCleared
            | EventKind::LeaderChanged
            | EventKind::PeerBack
            | EventKind::Rebuilt
            | EventKind::Stopped => log::Level::Info,
            EventKind::Degraded
            | EventKind::Panicked
            | EventKind::Hung
            | EventKind::Failed
            | EventKind::SteppedAside
            | EventKind::FaultInjected
            | EventKind::PeerUnreachable
            | EventKind::ReadOnly => log::Level::Warn,
            EventKind::Escalated | EventKind::Quarantined => log::Level::Error,
        };
        log::log!(level, "{component}: {}: {detail}", what.as_str());
        self.record(component.name(), what, detail);
    }

    /// As the actors do for what they see, without a word in the log.
    pub fn record(&self, component: &'static str, what: EventKind, detail: String) {
        let mut inner = self.inner.lock();
        inner.last_seq += 1;
        let event = Event { seq: inner.last_seq, time_ms: unix_ms(), component, what, detail };
        if inner.events.len() == EVENTS_MAX {
            inner.events.pop_front();
        }
        inner.events.push_back(event);
        *inner.counts.entry((component, what.as_str())).or_default() += 1;
        self.news.send_replace(inner.last_seq);
    }

    /// At most `max` events with a number above `seq`.
    pub fn page(&self, seq: u64, max: usize) -> EventPage {
        let inner = self.inner.lock();
        let skip = inner.events.partition_point(|event| event.seq <= seq);
        let events: Vec<Event> = inner.events.iter().skip(skip).take(max).cloned().collect();
        let missed = events.first().map_or(0, |first| first.seq - seq - 1);
        EventPage { events, missed, last_seq: inner.last_seq }
    }

    /// Wakes with each event; the value is the number of the last one.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    pub fn counts(&self) -> Vec<EventCount> {
        let inner = self.inner.lock();
        inner
            .counts
            .iter()
            .map(|(&(component, what), &count)| EventCount { component, what, count })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The ring never grows past its bound, drops the oldest, and never reuses a number; a reader that is
    /// behind it hears how many it missed.
    #[test]
    fn ring_is_bounded_and_ordered() {
        let ring = EventRing::default();
        let mut news = ring.subscribe();
        for i in 0..EVENTS_MAX + 5 {
            ring.push(ComponentId::Raft, EventKind::Started, i.to_string());
        }
        let all = ring.page(0, usize::MAX);
        assert_eq!((all.events.len(), all.missed, all.last_seq), (EVENTS_MAX, 5, 1005));
        assert_eq!(all.events[0].seq, 6);
        assert!(all.events.windows(2).all(|w| w[1].seq == w[0].seq + 1));
        assert_eq!((ring.page(5, usize::MAX).missed, ring.page(3, 2).missed), (0, 2));
        assert_eq!(ring.page(3, 2).events.iter().map(|event| event.seq).collect::<Vec<_>>(), [6, 7]);
        assert_eq!(ring.page(1004, usize::MAX).events.len(), 1);
        for beyond in [1005, 2000, u64::MAX] {
            let page = ring.page(beyond, usize::MAX);
            assert_eq!((page.events.len(), page.missed, page.last_seq), (0, 0, 1005));
        }
        assert!(news.has_changed().expect("the ring lives"));
        assert_eq!(*news.borrow_and_update(), 1005);
        let count = EventCount { component: "raft", what: "started", count: 1005 };
        assert_eq!(ring.counts(), [count], "also of those that were dropped");
    }
}
