//! A web worker's own side of the way of writes.
//!
//! What the worker's requests submit in one turn of its event loop leaves as one message, and the answers
//! to one batch come back with one wake-up: a change of threads for each write would cost more than the
//! rest of its way through this node. Lives on the worker's thread.
//!
//! Invariant: a write that never left is dropped together with its reply channel, and its caller then asks
//! the write's own state (see [`crate::pending`]).

use std::cell::RefCell;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{oneshot, Notify};
use tokio::time::sleep;

use crate::dispatcher::Outcome;
use crate::messages::Submit;
use crate::pending::Pending;
use crate::queue::Item;
use crate::shared::Shared;
use crate::slot::Absent;

/// How often it is looked whether a dispatcher that is being rebuilt is back.
pub(crate) const REBUILD_POLL: Duration = Duration::from_millis(5);

pub(crate) struct Gate {
    /// Submitted in this turn of the event loop and not sent yet.
    leaving: RefCell<Vec<Item>>,
    has_some: Rc<Notify>,
    answers: Arc<Answers>,
}

/// Answers on their way to one worker. Bounded by the writes that were admitted.
#[derive(Default)]
pub(crate) struct Answers {
    arrived: Mutex<Vec<(oneshot::Sender<Outcome>, Outcome)>>,
    /// Once when some arrived, once when the gate is gone.
    news: Notify,
}

/// The way back to one caller. Dropped unanswered, it tells the caller so at once.
pub(crate) struct Reply {
    caller: oneshot::Sender<Outcome>,
    answers: Arc<Answers>,
}

impl Reply {
    /// Lays the outcome down for the caller's worker, which is not told before [`Answers::deliver`].
    pub fn send(self, outcome: Outcome) -> Arc<Answers> {
        self.answers.arrived.lock().push((self.caller, outcome));
        self.answers
    }
}

impl Answers {
    pub fn deliver(&self) {
        self.news.notify_one();
    }
}

impl Gate {
    /// To be called on the worker's thread, whose arbiter runs the two tasks of the gate.
    pub fn open(shared: Arc<Shared>) -> Rc<Self> {
        let gate =
            Rc::new(Self { leaving: RefCell::default(), has_some: Rc::default(), answers: Arc::default() });
        actix_rt::spawn(send_all(Rc::downgrade(&gate), gate.has_some.clone(), shared));
        actix_rt::spawn(hand_out(Rc::downgrade(&gate), gate.answers.clone()));
        gate
    }

    /// The receiver fails when whoever held the write came to its end without an answer.
    pub fn submit(&self, write: Arc<Pending>) -> oneshot::Receiver<Outcome> {
        let (caller, outcome) = oneshot::channel();
        let reply = Reply { caller, answers: self.answers.clone() };
        let mut leaving = self.leaving.borrow_mut();
        leaving.push(Item::new(write, reply));
        if leaving.len() == 1 {
            // The task runs after the requests that are ready now, so that all of theirs go together.
            self.has_some.notify_one();
        }
        outcome
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.has_some.notify_one();
        self.answers.news.notify_one();
    }
}

async fn send_all(gate: Weak<Gate>, has_some: Rc<Notify>, shared: Arc<Shared>) {
    loop {
        has_some.notified().await;
        let Some(items) = gate.upgrade().map(|gate| gate.leaving.take()) else { return };
        let mut message = Submit(items);
        while let Err(Absent(back)) = shared.dispatcher.post(message) {
            message = back;
            // Those whose callers have given up meanwhile are of no use to a new dispatcher.
            message.0.retain(|item| !item.write.is_abandoned() && Instant::now() < item.write.deadline);
            if message.0.is_empty() || shared.node().is_none() || shared.is_stopping() {
                break;
            }
            sleep(REBUILD_POLL).await;
        }
    }
}

async fn hand_out(gate: Weak<Gate>, answers: Arc<Answers>) {
    while gate.strong_count() > 0 {
        answers.news.notified().await;
        let arrived = std::mem::take(&mut *answers.arrived.lock());
        for (caller, outcome) in arrived {
            // A caller that went away needs no answer.
            let _ = caller.send(outcome);
        }
    }
}
