//! The ring of what the supervisor saw and did: bounded, oldest dropped first.
//!
//! Shared, so that it can be read while the supervisor itself hangs.

use std::collections::VecDeque;

use parking_lot::Mutex;

use crate::slot::{unix_ms, ComponentId};
use crate::status::{Event, EventKind};

/// Most events that are kept.
pub const EVENTS_MAX: usize = 1000;

#[derive(Debug, Default)]
pub(crate) struct EventRing {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    last_seq: u64,
    events: VecDeque<Event>,
}

impl EventRing {
    pub fn push(&self, component: ComponentId, what: EventKind, detail: String) {
        let level = match what {
            EventKind::Started
            | EventKind::Recovered
            | EventKind::Restarted
            | EventKind::Stopped
            | EventKind::Rebuilt => log::Level::Info,
            EventKind::Degraded | EventKind::Failed | EventKind::FaultInjected => log::Level::Warn,
            EventKind::Escalated | EventKind::Quarantined => log::Level::Error,
        };
        log::log!(level, "{component}: {}: {detail}", what.as_str());
        let mut inner = self.inner.lock();
        inner.last_seq += 1;
        let event =
            Event { seq: inner.last_seq, time_ms: unix_ms(), component: component.name(), what, detail };
        if inner.events.len() == EVENTS_MAX {
            inner.events.pop_front();
        }
        inner.events.push_back(event);
    }

    /// Events with a number above `seq`, oldest first.
    pub fn since(&self, seq: u64) -> Vec<Event> {
        let inner = self.inner.lock();
        let skip = inner.events.partition_point(|event| event.seq <= seq);
        inner.events.iter().skip(skip).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The ring never grows past its bound, drops the oldest, and never reuses a number.
    #[test]
    fn ring_is_bounded_and_ordered() {
        let ring = EventRing::default();
        for i in 0..EVENTS_MAX + 5 {
            ring.push(ComponentId::Raft, EventKind::Started, i.to_string());
        }
        let all = ring.since(0);
        assert_eq!(all.len(), EVENTS_MAX);
        assert_eq!(all[0].seq, 6);
        assert!(all.windows(2).all(|w| w[1].seq == w[0].seq + 1));
        assert_eq!(ring.since(1004).len(), 1);
        assert!(ring.since(1005).is_empty());
    }
}
