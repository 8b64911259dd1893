//! Tells the callers of the log what became of their operations: each exactly once, in their order; and bounds how
//! many may be under way.
//!
//! Whoever finds the log failed answers all that waits, also while the writer hangs in the disk.

use std::collections::VecDeque;
use std::io;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::log::OnDurable;

/// Operations under way at most. A batch of them costs one fdatasync, whatever its number.
pub(crate) const OPERATIONS_MAX: usize = 4096;

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
    operations: usize,
    bytes: usize,
}

struct Pending {
    number: u64,
    done: OnDurable,
    /// Why it never entered the log; answered in its turn all the same.
    refused: Option<io::Error>,
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
                    "{} operations of {} bytes are not done after {} ms",
                    waiting.operations,
                    waiting.bytes,
                    wait_max.as_millis()
                );
                drop(waiting);
                return Err(self.fail(&reason));
            }
        }
        self.check()
    }

    /// Registers the next operation, which writes `bytes`; `done` is `None` when nobody asks. Its number.
    pub(crate) fn register(&self, bytes: usize, done: Option<OnDurable>) -> u64 {
        let mut waiting = self.waiting.lock();
        let number = waiting.next;
        waiting.next += 1;
        waiting.operations += 1;
        waiting.bytes += bytes;
        waiting.callbacks.extend(done.map(|done| Pending { number, done, refused: None }));
        number
    }

    /// So many operations of so many bytes have become durable, and with them all below `durable_end`.
    pub(crate) fn complete(&self, durable_end: u64, operations: usize, bytes: usize) {
        {
            let mut waiting = self.waiting.lock();
            waiting.durable_end = durable_end;
            waiting.operations -= operations;
            waiting.bytes -= bytes;
        }
        self.room.notify_all();
        self.deliver();
    }

    /// Answers an operation that was registered while the log failed, and that nobody else would answer.
    pub(crate) fn answer_if_failed(&self) {
        if self.failure.get().is_some() {
            self.deliver();
        }
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
        // Nobody may be between looking at the failure and waiting, who would not hear of it.
        drop(self.waiting.lock());
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
        self.operations < OPERATIONS_MAX && self.bytes < bytes_max
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
    use std::sync::Arc;

    use super::*;

    type Calls = Arc<Mutex<Vec<(u64, bool)>>>;

    fn record(calls: &Calls, id: u64) -> Option<OnDurable> {
        let calls = calls.clone();
        Some(Box::new(move |result| calls.lock().push((id, result.is_ok()))))
    }

    /// Whatever becomes of the operations, each is answered once and in order.
    #[test]
    fn every_operation_is_answered_once_in_order() {
        let (delivery, calls) = (Delivery::default(), Calls::default());
        for id in 0..5 {
            assert_eq!(delivery.register(10, record(&calls, id)), id);
        }
        delivery.complete(2, 2, 20);
        delivery.fail("disk");
        assert_eq!(*calls.lock(), [(0, true), (1, true), (2, false), (3, false), (4, false)]);
        // Later news changes nothing.
        delivery.complete(5, 3, 30);
        assert_eq!(calls.lock().len(), 5);
        assert!(delivery.check().is_err());
        assert_eq!(delivery.waiting.lock().bytes, 0);
        delivery.register(10, record(&calls, 5));
        delivery.answer_if_failed();
        assert_eq!(calls.lock().last(), Some(&(5, false)));
    }

    /// What is refused is answered in its turn, behind what is under way.
    #[test]
    fn refusal_waits_for_its_turn() {
        let (delivery, calls) = (Delivery::default(), Calls::default());
        delivery.register(1, record(&calls, 0));
        delivery.refuse(record(&calls, 1).expect("one"), refusal());
        assert_eq!(calls.lock().len(), 0);
        delivery.complete(1, 1, 1);
        delivery.refuse(record(&calls, 2).expect("one"), refusal());
        assert_eq!(*calls.lock(), [(0, true), (1, false), (2, false)]);
        assert!(delivery.check().is_ok());
    }

    fn refusal() -> io::Error {
        io::ErrorKind::InvalidInput.into()
    }

    /// A disk that hangs ends the wait of the next operation with an error, and answers all others.
    #[test]
    fn full_queue_fails_after_its_limit() {
        let (delivery, calls) = (Delivery::default(), Calls::default());
        delivery.register(100, record(&calls, 1));
        assert!(delivery.wait_for_room(101, Duration::ZERO).is_ok());
        assert!(delivery.wait_for_room(100, Duration::from_millis(5)).is_err());
        assert_eq!(*calls.lock(), [(1, false)]);
    }
}
