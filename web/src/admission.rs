//! What bounds every queue behind the HTTP edge: requests in flight and the bytes of their bodies.
//!
//! Shared by all web workers. Refuses at once and never waits: a client told to come back is better
//! off than one whose request ages in a queue. actix mailboxes do not bound `Addr::send`, so this must.

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;

use crate::problem::{Code, Problem};

/// Most streams of events at once: some dashboards a node, each with one stream.
const EVENT_STREAMS_MAX: usize = 64;

#[derive(Debug)]
pub(crate) struct Admission {
    requests: Gauge,
    body_bytes: Gauge,
    event_streams: Gauge,
}

/// A counter with a limit.
#[derive(Debug)]
struct Gauge {
    used: AtomicUsize,
    max: usize,
}

impl Gauge {
    fn new(max: usize) -> Self {
        Self { used: AtomicUsize::new(0), max }
    }

    /// Takes `amount` unless that would pass the limit.
    fn take(&self, amount: usize) -> bool {
        // Relaxed: the counter guards no other memory.
        let before = self.used.fetch_add(amount, Ordering::Relaxed);
        let fits = before.checked_add(amount).is_some_and(|after| after <= self.max);
        if !fits {
            self.give_back(amount);
        }
        fits
    }

    fn give_back(&self, amount: usize) {
        self.used.fetch_sub(amount, Ordering::Relaxed);
    }
}

/// The right of one request to be in flight. Given back on drop, so also when its client goes away.
#[derive(Debug)]
pub(crate) struct Permit {
    admission: Arc<Admission>,
    body_bytes: Cell<usize>,
}

/// One of the node's places for streams of events. Given back on drop, so also when its client goes away.
#[derive(Debug)]
pub(crate) struct StreamSeat(Arc<Admission>);

impl Admission {
    pub(crate) fn new(requests_max: usize, body_bytes_max: usize) -> Self {
        Self {
            requests: Gauge::new(requests_max),
            body_bytes: Gauge::new(body_bytes_max),
            event_streams: Gauge::new(EVENT_STREAMS_MAX),
        }
    }

    /// A place that has nothing to do with those of requests: a stream lasts for as long as its client looks.
    ///
    /// # Errors
    /// 429 `overloaded` past the limit.
    pub(crate) fn admit_event_stream(self: &Arc<Self>) -> Result<StreamSeat, Problem> {
        if self.event_streams.take(1) {
            return Ok(StreamSeat(Arc::clone(self)));
        }
        let detail = format!("{EVENT_STREAMS_MAX} streams of events are open on this node");
        Err(Problem::new(Code::Overloaded, detail).with_limit(EVENT_STREAMS_MAX as u64))
    }

    pub(crate) fn event_streams(&self) -> usize {
        self.event_streams.used.load(Ordering::Relaxed)
    }

    /// # Errors
    /// 429 `overloaded` past the limit.
    pub(crate) fn admit(self: &Arc<Self>) -> Result<Permit, Problem> {
        if self.requests.take(1) {
            return Ok(Permit { admission: Arc::clone(self), body_bytes: Cell::new(0) });
        }
        let limit = self.requests.max;
        Err(Problem::new(Code::Overloaded, format!("{limit} requests are in flight on this node"))
            .with_limit(limit as u64))
    }

    pub(crate) fn requests_in_flight(&self) -> usize {
        self.requests.used.load(Ordering::Relaxed)
    }
}

impl Permit {
    /// Accounts for `bytes` more of the request's body until the permit is dropped.
    ///
    /// # Errors
    /// 429 `overloaded` when all bodies together would pass their limit.
    pub(crate) fn reserve_body(&self, bytes: usize) -> Result<(), Problem> {
        if self.admission.body_bytes.take(bytes) {
            self.body_bytes.set(self.body_bytes.get() + bytes);
            return Ok(());
        }
        let limit = self.admission.body_bytes.max;
        Err(Problem::new(Code::Overloaded, format!("bodies in flight fill their {limit} bytes"))
            .with_limit(limit as u64))
    }
}

impl Drop for StreamSeat {
    fn drop(&mut self) {
        self.0.event_streams.give_back(1);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.admission.requests.give_back(1);
        self.admission.body_bytes.give_back(self.body_bytes.get());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The limit is inclusive, and a dropped permit gives back all that it took.
    #[test]
    fn permits_come_back() {
        let admission = Arc::new(Admission::new(2, 10));
        let first = admission.admit().expect("one of two");
        let second = admission.admit().expect("two of two");
        assert_eq!(admission.admit().expect_err("three of two").code, Code::Overloaded);
        first.reserve_body(6).expect("6 of 10");
        second.reserve_body(4).expect("10 of 10");
        assert!(second.reserve_body(1).is_err());
        drop(first);
        second.reserve_body(6).expect("6 are free again");
        drop(second);
        assert_eq!(admission.requests_in_flight(), 0);
        assert_eq!(admission.body_bytes.used.load(Ordering::Relaxed), 0);
    }
}
