//! An actor as the supervisor sees it: something with a slot that can be built, cleared and struck,
//! and the thread it lives on.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use actix::{Actor, ArbiterHandle, Context, Handler};

use crate::messages::{Fault, Sabotage};
use crate::sentinel::Sentinel;
use crate::slot::{ComponentId, Slot, Vitals};

pub(crate) trait Component {
    fn vitals(&self) -> &Arc<Vitals>;
    /// Builds a new actor on `arbiter` and puts its address into the slot. Messages that arrive before
    /// the arbiter runs the factory wait in the new mailbox.
    fn build(&self, arbiter: &ArbiterHandle, sentinel: Sentinel);
    /// Callers find nobody from here on. An actor that still lives works off its mailbox and stops.
    fn clear(&self);
    fn sabotage(&self, fault: Fault);
}

/// A slot and the factory of what goes into it.
pub(crate) struct Slotted<A: Actor, F> {
    slot: Slot<A>,
    factory: F,
}

impl<A: Actor, F> Slotted<A, F> {
    pub fn new(slot: Slot<A>, factory: F) -> Self {
        Self { slot, factory }
    }
}

impl<A, F> Component for Slotted<A, F>
where
    A: Actor<Context = Context<A>> + Handler<Sabotage>,
    F: Fn(Sentinel) -> A + Clone + Send + 'static,
{
    fn vitals(&self) -> &Arc<Vitals> {
        &self.slot.vitals
    }

    fn build(&self, arbiter: &ArbiterHandle, sentinel: Sentinel) {
        let factory = self.factory.clone();
        self.slot.put(A::start_in_arbiter(arbiter, move |_| factory(sentinel)));
    }

    fn clear(&self) {
        self.slot.clear();
    }

    fn sabotage(&self, fault: Fault) {
        self.slot.tell(Sabotage(fault));
    }
}

/// Threads that the supervisor owns, apart from its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Home {
    /// `RaftNodeActor` and `ReplicationDispatcher` together: a batch changes threads once less.
    Writes,
    /// `HealthMonitor` alone: it must run while anything else hangs.
    Health,
}

pub(crate) enum Place {
    Home(Home),
    /// A web worker's own arbiter: cannot be replaced from here.
    Worker(ArbiterHandle),
}

/// One component in the supervisor's care.
pub(crate) struct Member {
    pub component: Box<dyn Component>,
    pub place: Place,
    /// Restarts within the window, oldest first.
    pub recent: VecDeque<Instant>,
    pub rebuild_pending: bool,
}

impl Member {
    pub fn new(component: Box<dyn Component>, place: Place) -> Self {
        Self { component, place, recent: VecDeque::new(), rebuild_pending: false }
    }

    pub fn id(&self) -> ComponentId {
        self.component.vitals().id
    }

    pub fn is_at(&self, home: Home) -> bool {
        matches!(self.place, Place::Home(own) if own == home)
    }
}
