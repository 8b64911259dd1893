//! The way of writes: admission, batching of concurrent writes, and the leader that takes them.
//!
//! Invariant: what waits here was never handed to consensus, so when the dispatcher dies its callers
//! are told "not applied"; what was handed over ends as committed, definitely refused, or unknown.
//! An unknown write is never sent again.

use std::rc::Rc;
use std::time::{Duration, Instant};

use actix::{Actor, AsyncContext, Context, Handler, MessageResult};
use vaultdb_consensus::api::Committed;
use vaultdb_kv::WriteError;

use crate::messages::{
    impl_common_handlers, GetReplicationStatus, LaneEnded, LeaderChanged, PeerUnreachable, Submit,
};
use crate::pending::Ack;
use crate::queue::{Item, Queue};
use crate::sentinel::Sentinel;
use crate::slot::unbound_mailbox;
use crate::status::UnreachablePeer;

/// Most unreachable leaders that are remembered until leadership changes.
const UNREACHABLE_PEERS_MAX: usize = 16;
/// How long after its last failure a leader is still reported as unreachable.
const UNREACHABLE_REMEMBERED: Duration = Duration::from_secs(10);

pub(crate) type Outcome = Result<Committed, WriteError>;

pub(crate) struct ReplicationDispatcher {
    queue: Rc<Queue>,
    /// Writes that are answered before they are committed.
    early: Rc<Queue>,
    /// With the time of the last failure.
    unreachable: Vec<(UnreachablePeer, Instant)>,
    _sentinel: Sentinel,
}

impl ReplicationDispatcher {
    /// `early` takes the writes that are answered before they are committed.
    pub fn new(queue: Rc<Queue>, early: Rc<Queue>, sentinel: Sentinel) -> Self {
        Self { queue, early, unreachable: Vec::new(), _sentinel: sentinel }
    }
}

impl Drop for ReplicationDispatcher {
    fn drop(&mut self) {
        // Tasks of batches in flight hold the queue, too; nobody would serve what waits in it.
        self.queue.close();
        self.early.close();
    }
}

impl Actor for ReplicationDispatcher {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        unbound_mailbox(ctx);
        self.queue.set_address(ctx.address().downgrade());
        self.early.set_address(ctx.address().downgrade());
        let address = ctx.address().downgrade();
        let mut leadership = self.queue.node().subscribe_leadership();
        actix_rt::spawn(async move {
            // Ends with the actor or with consensus.
            while leadership.changed().await.is_ok() {
                match address.upgrade() {
                    Some(address) => address.do_send(LeaderChanged),
                    None => return,
                }
            }
        });
    }
}

impl_common_handlers!(ReplicationDispatcher);

impl Handler<Submit> for ReplicationDispatcher {
    type Result = ();

    fn handle(&mut self, msg: Submit, _: &mut Context<Self>) {
        let is_early = |item: &Item| item.write.ack == Ack::Leader;
        if !msg.0.iter().any(is_early) {
            return self.queue.admit(msg.0);
        }
        let (early, majority) = msg.0.into_iter().partition(is_early);
        self.early.admit(early);
        self.queue.admit(majority);
    }
}

impl Handler<LeaderChanged> for ReplicationDispatcher {
    type Result = ();

    fn handle(&mut self, _: LeaderChanged, _: &mut Context<Self>) {
        self.queue.totals.count_leader_change();
        self.unreachable.clear();
        self.queue.leader_changed();
        self.early.leader_changed();
    }
}

impl Handler<LaneEnded> for ReplicationDispatcher {
    type Result = ();

    fn handle(&mut self, _: LaneEnded, _: &mut Context<Self>) {
        self.queue.pump();
        self.early.pump();
    }
}

impl Handler<PeerUnreachable> for ReplicationDispatcher {
    type Result = ();

    fn handle(&mut self, msg: PeerUnreachable, _: &mut Context<Self>) {
        let now = Instant::now();
        match self.unreachable.iter_mut().find(|(peer, _)| peer.name == msg.name) {
            Some((peer, last)) => {
                peer.failures += 1;
                peer.reason = msg.reason;
                *last = now;
            }
            None => {
                if self.unreachable.len() == UNREACHABLE_PEERS_MAX {
                    self.unreachable.remove(0);
                }
                let peer = UnreachablePeer { name: msg.name, failures: 1, reason: msg.reason };
                self.unreachable.push((peer, now));
            }
        }
    }
}

impl Handler<GetReplicationStatus> for ReplicationDispatcher {
    type Result = MessageResult<GetReplicationStatus>;

    fn handle(&mut self, _: GetReplicationStatus, _: &mut Context<Self>) -> Self::Result {
        let mut status = self.queue.status();
        let early = self.early.status();
        status.pending += early.pending;
        status.pending_bytes += early.pending_bytes;
        self.unreachable.retain(|(_, last)| last.elapsed() < UNREACHABLE_REMEMBERED);
        status.unreachable_peers = self.unreachable.iter().map(|(peer, _)| peer.clone()).collect();
        MessageResult(status)
    }
}
