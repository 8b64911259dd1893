//! The writes that wait in the dispatcher, and the lanes that carry them away.
//!
//! Lives on the dispatcher's arbiter only. Invariant: at most [`LANES_MAX`] lanes take from the queue,
//! so that what arrives while a batch is on its way forms the next one.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use actix::{Addr, WeakAddr};
use tokio::sync::Notify;
use vaultdb_consensus::stages::Stage;
use vaultdb_kv::{failpoint, Command, Room, Shortage, WriteError};

use crate::dispatcher::{Outcome, ReplicationDispatcher};
use crate::gate::{Answers, Reply};
use crate::lane;
use crate::messages::{LaneEnded, PeerUnreachable};
use crate::pending::{Ack, Pending};
use crate::port::Node;
use crate::raft_node::RaftNodeActor;
use crate::shared::Shared;
use crate::slot::Slot;
use crate::status::ReplicationStatus;
use crate::totals::Totals;

/// Most bytes of commands in one batch; a single larger command goes alone.
const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Batches on their way at once, stalled ones apart. One: while it is on its way the next one grows,
/// and larger batches cost less for each write than more of them (design.md, prototype).
const LANES_MAX: usize = 1;

/// A write with the way back to its caller. Dropping it unanswered tells the caller, who asks the write's
/// state what that means.
pub(crate) struct Item {
    pub write: Arc<Pending>,
    reply: Reply,
}

impl Item {
    pub fn new(write: Arc<Pending>, reply: Reply) -> Self {
        Self { write, reply }
    }
}

/// Writes of one kind, so that a batch is answered as one.
pub(crate) struct Queue {
    pub ack: Ack,
    node: Arc<dyn Node>,
    room: Arc<Room>,
    pub raft: Slot<RaftNodeActor>,
    address: RefCell<Option<WeakAddr<ReplicationDispatcher>>>,
    commands_max: usize,
    bytes_max: usize,
    batch_commands_max: usize,
    waiting: RefCell<VecDeque<Item>>,
    /// Admitted and not answered yet: waiting ones and those on their way.
    pending: Cell<usize>,
    pending_bytes: Cell<usize>,
    lanes: Cell<usize>,
    /// Workers with answers that they were not told of yet.
    answered: RefCell<Vec<Arc<Answers>>>,
    closed: Cell<bool>,
    pub leader_changed: Notify,
    pub totals: Arc<Totals>,
}

impl Queue {
    pub fn new(ack: Ack, node: Arc<dyn Node>, shared: &Shared) -> Rc<Self> {
        let options = &shared.options;
        Rc::new(Self {
            ack,
            node,
            room: options.room.clone(),
            raft: shared.raft.clone(),
            address: RefCell::default(),
            commands_max: options.pending_commands_max,
            bytes_max: options.pending_bytes_max,
            batch_commands_max: options.batch_commands_max.max(1),
            waiting: RefCell::default(),
            pending: Cell::default(),
            pending_bytes: Cell::default(),
            lanes: Cell::default(),
            answered: RefCell::default(),
            closed: Cell::default(),
            leader_changed: Notify::new(),
            totals: shared.totals.clone(),
        })
    }

    pub fn node(&self) -> &Arc<dyn Node> {
        &self.node
    }

    pub fn set_address(&self, address: WeakAddr<ReplicationDispatcher>) {
        *self.address.borrow_mut() = Some(address);
    }

    fn address(&self) -> Option<Addr<ReplicationDispatcher>> {
        self.address.try_borrow().ok()?.as_ref()?.upgrade()
    }

    /// Takes writes in, or refuses those that are too many, and those that grow the data of a node without room.
    pub fn admit(self: &Rc<Self>, items: Vec<Item>) {
        for item in items {
            let bytes = self.pending_bytes.get() + item.write.bytes;
            let refusal = if self.pending.get() >= self.commands_max || bytes > self.bytes_max {
                Some(WriteError::Overloaded)
            } else {
                self.shortage(&item.write).map(WriteError::OutOfSpace)
            };
            if let Some(refusal) = refusal {
                self.totals.count_failed();
                self.reply(item, Err(refusal));
                continue;
            }
            self.pending.set(self.pending.get() + 1);
            self.pending_bytes.set(bytes);
            self.waiting.borrow_mut().push_back(item);
        }
        failpoint::reach("write-queued");
        self.deliver();
        self.pump();
    }

    fn shortage(&self, write: &Pending) -> Option<Shortage> {
        write.command.grows().then(|| self.room.take(write.bytes as u64)).flatten()
    }

    fn reply(&self, item: Item, outcome: Outcome) {
        let answers = item.reply.send(outcome);
        let mut answered = self.answered.borrow_mut();
        // As many as there are web workers, so a search is short.
        if !answered.iter().any(|known| Arc::ptr_eq(known, &answers)) {
            answered.push(answers);
        }
    }

    /// Tells each worker once of all answers since the last call.
    pub fn deliver(&self) {
        for answers in self.answered.take() {
            answers.deliver();
        }
    }

    /// Starts a lane when one is free. The lane takes its first batch once the dispatcher has worked
    /// off its mailbox, so that all that arrived together goes together.
    pub fn pump(self: &Rc<Self>) {
        if self.lanes.get() < LANES_MAX && !self.closed.get() && !self.waiting.borrow().is_empty() {
            self.lanes.set(self.lanes.get() + 1);
            actix_rt::spawn(lane::run(LaneGuard(self.clone())));
        }
    }

    pub fn leader_changed(self: &Rc<Self>) {
        self.leader_changed.notify_waiters();
        self.pump();
    }

    pub fn is_closed(&self) -> bool {
        self.closed.get()
    }

    /// Drops what waits. Must not panic: it runs while the dispatcher unwinds.
    pub fn close(&self) {
        self.closed.set(true);
        if let Ok(mut waiting) = self.waiting.try_borrow_mut() {
            waiting.clear();
        }
        self.leader_changed.notify_waiters();
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.borrow().is_empty()
    }

    /// The next batch: everything that waits, up to the limits. Each write in it is marked as handed
    /// over; writes that expired or were given up are settled on the way.
    pub fn take_batch(&self, now: Instant) -> (Vec<Item>, Vec<Arc<Command>>) {
        let stages = self.node.stages();
        let mut waiting = self.waiting.borrow_mut();
        let expected = waiting.len().min(self.batch_commands_max);
        let (mut items, mut commands) = (Vec::with_capacity(expected), Vec::with_capacity(expected));
        let mut bytes = 0;
        while items.len() < self.batch_commands_max {
            let Some(next) = waiting.front() else { break };
            if !items.is_empty() && bytes + next.write.bytes > BATCH_BYTES_MAX {
                break;
            }
            let Some(item) = waiting.pop_front() else { break };
            let is_new = !item.write.was_refused();
            if now >= item.write.deadline {
                self.answer_expired(item);
            } else if item.write.claim() {
                // Once a write, however often it has to be handed over.
                if is_new {
                    stages.record(Stage::Queue, now.saturating_duration_since(item.write.arrived));
                }
                bytes += item.write.bytes;
                commands.push(item.write.command.clone());
                items.push(item);
            } else {
                self.forget(&item.write);
            }
        }
        self.deliver();
        if !items.is_empty() {
            self.totals.count_batch();
        }
        (items, commands)
    }

    /// Settles what expired or was given up while nothing can be sent.
    pub fn sweep(&self, now: Instant) {
        let mut waiting = self.waiting.borrow_mut();
        if !waiting.iter().any(|item| now >= item.write.deadline || item.write.is_abandoned()) {
            return;
        }
        let (gone, kept): (VecDeque<_>, VecDeque<_>) = std::mem::take(&mut *waiting)
            .into_iter()
            .partition(|item| now >= item.write.deadline || item.write.is_abandoned());
        *waiting = kept;
        for item in gone {
            self.answer_expired(item);
        }
        self.deliver();
    }

    /// Puts definitely refused writes back to the front, in their order.
    pub fn put_back(&self, refused: Vec<Item>) {
        let mut waiting = self.waiting.borrow_mut();
        for item in refused.into_iter().rev() {
            if item.write.refuse() && !self.closed.get() {
                waiting.push_front(item);
            } else {
                self.forget(&item.write);
            }
        }
    }

    /// To be followed by [`Queue::deliver`] once the batch is answered.
    pub fn answer(&self, item: Item, outcome: Outcome) {
        match (&outcome, self.ack) {
            (Ok(_), Ack::Majority) => self.totals.count_committed(),
            // It is answered before it is known to be committed.
            (Ok(_), Ack::Leader) => {}
            (Err(_), Ack::Majority | Ack::Leader) => self.totals.count_failed(),
        }
        self.forget(&item.write);
        self.reply(item, outcome);
    }

    /// The deadline passed before the write was handed over, so the answer is definite.
    fn answer_expired(&self, item: Item) {
        let no_leader = item.write.was_refused() || self.node.leadership().leader.is_none();
        self.answer(item, Err(if no_leader { WriteError::NoLeader } else { WriteError::Overloaded }));
    }

    fn forget(&self, write: &Pending) {
        self.pending.set(self.pending.get().saturating_sub(1));
        self.pending_bytes.set(self.pending_bytes.get().saturating_sub(write.bytes));
    }

    pub fn tell_unreachable(&self, name: String, reason: String) {
        if let Some(address) = self.address() {
            address.do_send(PeerUnreachable { name, reason });
        }
    }

    pub fn status(&self) -> ReplicationStatus {
        ReplicationStatus {
            pending: self.pending.get() as u64,
            pending_bytes: self.pending_bytes.get() as u64,
            unreachable_peers: Vec::new(),
        }
    }
}

/// One of the [`LANES_MAX`] lanes; gives itself back however its task ends.
pub(crate) struct LaneGuard(pub Rc<Queue>);

impl Drop for LaneGuard {
    fn drop(&mut self) {
        let queue = &self.0;
        queue.lanes.set(queue.lanes.get().saturating_sub(1));
        // Only a lane that panicked or lost its thread leaves anything. A message, because a task
        // cannot be spawned from the drop of one on a thread that ends.
        let leaves_some = queue.waiting.try_borrow().is_ok_and(|waiting| !waiting.is_empty());
        if leaves_some && !queue.closed.get() {
            if let Some(address) = queue.address() {
                address.do_send(LaneEnded);
            }
        }
    }
}
