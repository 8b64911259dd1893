//! Tells the callers of the log what became of their operations: each exactly once, in their order.
//!
//! raft-log's flush thread drops the operations that wait when it fails; here none is forgotten.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::log::OnDurable;

/// Flushes under way at most. raft-log's own queue takes 1024 requests, then blocks without limit;
/// a flush is one request, and a few more when a chunk ends.
pub(crate) const FLUSHES_MAX: usize = 512;

#[derive(Default)]
pub(crate) struct Delivery {
    waiting: Mutex<Waiting>,
    room: Condvar,
    /// Held while callbacks run, so that they run one after the other.
    calling: Mutex<()>,
    failure: OnceLock<String>,
}

#[derive(Default)]
struct Waiting {
    next: u64,
    /// Operations below this number are durable.
    durable_end: u64,
    callbacks: VecDeque<Pending>,
    flushes: usize,
    bytes: usize,
}

struct Pending {
    number: u64,
    done: OnDurable,
    /// Why it never entered the log; answered in its turn all the same.
    refused: Option<io::Error>,
}

/// Goes through raft-log with one flush. If raft-log drops it, the flush has failed.
pub(crate) struct Mark {
    delivery: Arc<Delivery>,
    number: u64,
    bytes: usize,
    answered: bool,
}

impl Delivery {
    /// # Errors
    /// When the log has failed before.
    pub(crate) fn check(&self) -> io::Result<()> {
        match self.failure.get() {
            None => Ok(()),
            Some(reason) => Err(failed(reason)),
        }
    }

    /// Waits until the disk has caught up enough for another operation.
    ///
    /// # Errors
    /// When the log has failed, or the disk has not caught up after `wait_max`: then it has failed, too.
    pub(crate) fn wait_for_room(&self, bytes_max: usize, wait_max: Duration) -> io::Result<()> {
        let mut waiting = self.waiting.lock();
        if waiting.has_room(bytes_max) {
            return self.check();
        }
        let deadline = Instant::now() + wait_max;
        while !waiting.has_room(bytes_max) {
            self.check()?;
            if self.room.wait_until(&mut waiting, deadline).timed_out() && !waiting.has_room(bytes_max) {
                let reason = format!(
                    "{} flushes of {} bytes are not done after {} ms",
                    waiting.flushes,
                    waiting.bytes,
                    wait_max.as_millis()
                );
                drop(waiting);
                return Err(self.fail(&reason));
            }
        }
        self.check()
    }

    pub(crate) fn has_room(&self, bytes_max: usize) -> bool {
        self.waiting.lock().has_room(bytes_max)
    }

    /// Registers the next operation, which writes `bytes`; `done` is `None` when nobody asks.
    pub(crate) fn register(self: &Arc<Self>, bytes: usize, done: Option<OnDurable>) -> Mark {
        let mut waiting = self.waiting.lock();
        let number = waiting.next;
        waiting.next += 1;
        waiting.flushes += 1;
        waiting.bytes += bytes;
        waiting.callbacks.extend(done.map(|done| Pending { number, done, refused: None }));
        Mark { delivery: self.clone(), number, bytes, answered: false }
    }

    /// Answers an operation that never entered the log, after those before it.
    pub(crate) fn refuse(&self, done: OnDurable, error: io::Error) -> io::Error {
        {
            let mut waiting = self.waiting.lock();
            let number = waiting.next;
            waiting.next += 1;
            waiting.callbacks.push_back(Pending { number, done, refused: Some(copy(&error)) });
        }
        self.deliver();
        error
    }

    /// Ends the log: everything that waits has failed, and everything to come.
    pub(crate) fn fail(&self, reason: &str) -> io::Error {
        let reason = self.failure.get_or_init(|| {
            log::error!("the Raft log has failed: {reason}");
            reason.to_owned()
        });
        self.room.notify_all();
        self.deliver();
        failed(reason)
    }

    /// Answers what can be answered by now, in order.
    fn deliver(&self) {
        let _calling = self.calling.lock();
        loop {
            let (done, result) = {
                let mut waiting = self.waiting.lock();
                let durable_end = waiting.durable_end;
                let failure = self.failure.get();
                let Some(first) = waiting.callbacks.front_mut() else { return };
                let result = match (first.refused.take(), failure) {
                    (Some(error), _) => Err(error),
                    (None, _) if first.number < durable_end => Ok(()),
                    (None, Some(reason)) => Err(failed(reason)),
                    (None, None) => return,
                };
                let first = waiting.callbacks.pop_front().expect("looked at above");
                (first.done, result)
            };
            done(result);
        }
    }
}

impl Waiting {
    fn has_room(&self, bytes_max: usize) -> bool {
        self.flushes < FLUSHES_MAX && self.bytes < bytes_max
    }
}

impl Mark {
    fn answer(&mut self, result: io::Result<()>) {
        self.answered = true;
        {
            let mut waiting = self.delivery.waiting.lock();
            waiting.flushes -= 1;
            waiting.bytes -= self.bytes;
            if result.is_ok() {
                waiting.durable_end = self.number + 1;
            }
        }
        self.delivery.room.notify_all();
        match result {
            Ok(()) => self.delivery.deliver(),
            Err(error) => {
                self.delivery.fail(&error.to_string());
            }
        }
    }
}

impl raft_log::Callback for Mark {
    fn send(mut self, result: io::Result<()>) {
        self.answer(result);
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        if !self.answered {
            self.answer(Err(io::Error::other("the flush thread has stopped")));
        }
    }
}

fn failed(reason: &str) -> io::Error {
    io::Error::other(format!("the Raft log has failed and must be opened anew: {reason}"))
}

fn copy(error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), error.to_string())
}

#[cfg(test)]
mod tests {
    use raft_log::Callback;

    use super::*;

    type Calls = Arc<Mutex<Vec<(u64, bool)>>>;

    fn record(calls: &Calls, id: u64) -> Option<OnDurable> {
        let calls = calls.clone();
        Some(Box::new(move |result| calls.lock().push((id, result.is_ok()))))
    }

    /// Whatever becomes of the flushes, each operation is answered once and in order.
    #[test]
    fn every_operation_is_answered_once_in_order() {
        let (delivery, calls) = (Arc::new(Delivery::default()), Calls::default());
        let marks: Vec<Mark> = (0..5).map(|id| delivery.register(10, record(&calls, id))).collect();
        let mut marks = marks.into_iter();
        let mut next = || marks.next().expect("five marks");
        next().send(Ok(()));
        next().send(Ok(()));
        next().send(Err(io::Error::other("disk")));
        assert_eq!(*calls.lock(), [(0, true), (1, true), (2, false), (3, false), (4, false)]);
        // Later news changes nothing.
        next().send(Ok(()));
        drop(next());
        assert_eq!(calls.lock().len(), 5);
        assert!(delivery.check().is_err());
        assert_eq!(delivery.waiting.lock().bytes, 0);
    }

    /// What is refused is answered in its turn, behind what is under way.
    #[test]
    fn refusal_waits_for_its_turn() {
        let (delivery, calls) = (Arc::new(Delivery::default()), Calls::default());
        let mark = delivery.register(1, record(&calls, 0));
        delivery.refuse(record(&calls, 1).expect("one"), refusal());
        assert_eq!(calls.lock().len(), 0);
        mark.send(Ok(()));
        delivery.refuse(record(&calls, 2).expect("one"), refusal());
        assert_eq!(*calls.lock(), [(0, true), (1, false), (2, false)]);
        assert!(delivery.check().is_ok());
    }

    fn refusal() -> io::Error {
        io::ErrorKind::InvalidInput.into()
    }

    /// A mark that raft-log drops is a failure, not silence.
    #[test]
    fn dropped_mark_fails_the_log() {
        let (delivery, calls) = (Arc::new(Delivery::default()), Calls::default());
        drop(delivery.register(0, record(&calls, 7)));
        assert_eq!(*calls.lock(), [(7, false)]);
        assert!(delivery.check().is_err());
    }

    /// A disk that hangs ends the wait of the next operation with an error.
    #[test]
    fn full_queue_fails_after_its_limit() {
        let (delivery, calls) = (Arc::new(Delivery::default()), Calls::default());
        let mark = delivery.register(100, record(&calls, 1));
        assert!(delivery.wait_for_room(101, Duration::ZERO).is_ok());
        assert!(delivery.wait_for_room(100, Duration::from_millis(5)).is_err());
        assert_eq!(*calls.lock(), [(1, false)]);
        drop(mark);
    }
}
