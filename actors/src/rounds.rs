//! A web worker's own side of the way of reads: the reads that wait for the same proof of leadership share
//! one question to consensus and are served together once it is answered. Lives on the worker's thread.
//!
//! Invariant: a read joins only a question that is put after the read arrived.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use vaultdb_kv::{Consistency, ReadError};

use crate::port::Node;

/// Questions under way at once: reads that arrive meanwhile need not wait for a whole one.
const IN_FLIGHT_MAX: usize = 2;

/// Something that waits for a round.
pub(crate) trait Wait: 'static {
    /// Whether nobody listens any more.
    fn is_gone(&self) -> bool;

    /// The round is over. On success the local store is as fresh as its level promises to a read that began
    /// when this one joined.
    fn serve(self, fresh: &Result<(), ReadError>);
}

/// The reads of one level on one worker.
pub(crate) struct Rounds<W>(Rc<Inner<W>>);

struct Inner<W> {
    node: Arc<dyn Node>,
    level: Consistency,
    waiting: RefCell<Waiting<W>>,
    in_flight: Cell<usize>,
    /// A task that will put the next question runs as soon as the reads that are ready now have joined.
    is_due: Cell<bool>,
}

/// Bounded by the reads that were admitted.
struct Waiting<W> {
    callers: Vec<W>,
    deadline: Option<Instant>,
}

impl<W> Default for Waiting<W> {
    fn default() -> Self {
        Self { callers: Vec::new(), deadline: None }
    }
}

impl<W: Wait> Rounds<W> {
    /// To be called on the worker's thread, whose arbiter runs the questions.
    pub fn new(node: Arc<dyn Node>, level: Consistency) -> Self {
        Self(Rc::new(Inner {
            node,
            level,
            waiting: RefCell::default(),
            in_flight: Cell::new(0),
            is_due: Cell::new(false),
        }))
    }

    /// Waits for a question that is put after this call.
    pub fn join(&self, caller: W, deadline: Instant) {
        {
            let mut waiting = self.0.waiting.borrow_mut();
            waiting.callers.push(caller);
            // The latest: a caller whose own deadline is earlier stops listening.
            waiting.deadline = waiting.deadline.max(Some(deadline));
        }
        self.0.clone().ask_soon();
    }
}

impl<W: Wait> Inner<W> {
    fn ask_soon(self: Rc<Self>) {
        if self.is_due.get() || self.in_flight.get() == IN_FLIGHT_MAX {
            return;
        }
        self.is_due.set(true);
        self.in_flight.set(self.in_flight.get() + 1);
        actix_rt::spawn(async move {
            self.is_due.set(false);
            let Waiting { mut callers, deadline } = self.waiting.take();
            callers.retain(|caller| !caller.is_gone());
            if let Some(deadline) = deadline.filter(|_| !callers.is_empty()) {
                let fresh = self.node.freshen(self.level.into(), deadline).await;
                for caller in callers {
                    caller.serve(&fresh);
                }
            }
            self.in_flight.set(self.in_flight.get() - 1);
            if !self.waiting.borrow().callers.is_empty() {
                self.ask_soon();
            }
        });
    }
}
