//! Every message that an actor takes. Commands are verb and noun, queries begin with `Get`, events are
//! in the past tense.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::{ArbiterHandle, Message};
use tokio::sync::oneshot;
use vaultdb_consensus::api::{ClusterStatus, JoinReply, JoinRequest, MemberOrder, MemberReply};
use vaultdb_kv::{
    AdminError, Command, Freshness, Health, Key, Page, PageRequest, ReadError, Revision, Versioned,
};

use crate::listings::Listing;
use crate::port::{Node, Outcomes, StoreStats};
use crate::queue::Item;
use crate::slot::{ComponentId, Slot};
use crate::status::{Event, EventKind, HealthReport, ReplicationStatus};
use crate::store::StoreActor;

// ---- RaftNodeActor

/// Replicates a batch on this node as leader; one outcome for each command.
#[derive(Debug, Message)]
#[rtype(result = "Outcomes")]
pub(crate) struct Propose {
    pub batch: Vec<Arc<Command>>,
    /// When the batch was taken from the queue.
    pub since: Instant,
    pub deadline: Instant,
    pub handed: Handed,
}

/// Whether a proposal left the mailbox for consensus. Tells the sender of a `Propose` that was dropped
/// with its actor whether the batch is certainly in no log.
#[derive(Debug, Clone, Default)]
pub(crate) struct Handed(Arc<AtomicBool>);

impl Handed {
    pub fn mark(&self) {
        self.0.store(true, Ordering::Release);
    }

    pub fn is_marked(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// Waits until the local store is as fresh as wanted.
#[derive(Debug, Message)]
#[rtype(result = "Result<(), ReadError>")]
pub(crate) struct ReadIndex {
    pub freshness: Freshness,
    pub deadline: Instant,
}

/// Makes a node a member.
#[derive(Debug, Message)]
#[rtype(result = "Result<JoinReply, AdminError>")]
pub(crate) struct Join {
    pub request: JoinRequest,
    pub deadline: Instant,
}

/// Moves leadership; to a node of the cluster's choice when `to` is `None`.
#[derive(Debug, Message)]
#[rtype(result = "Result<String, AdminError>")]
pub(crate) struct TransferLeader {
    pub to: Option<String>,
    pub deadline: Instant,
}

/// Removes or promotes a member.
#[derive(Debug, Message)]
#[rtype(result = "Result<MemberReply, AdminError>")]
pub(crate) struct ChangeMembership {
    pub order: MemberOrder,
    pub deadline: Instant,
}

#[derive(Debug, Message)]
#[rtype(result = "ClusterStatus")]
pub(crate) struct GetStatus;

// ---- StoreActor

/// Answered through `reply`, so that the reads of a round are answered by the round and not by a task each.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct ReadKey {
    pub key: Key,
    pub freshness: Freshness,
    pub deadline: Instant,
    pub reply: oneshot::Sender<Result<ReadAnswer, ReadError>>,
}

/// One page of a listing, together with the listing.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<(Listing, Page), ReadError>")]
pub(crate) struct Scan {
    pub from: ScanFrom,
    pub request: PageRequest,
    pub deadline: Instant,
}

/// What a page is taken from.
#[derive(Debug, Clone)]
pub enum ScanFrom {
    /// The store as it is now, at least as fresh as this.
    Now(Freshness),
    /// The store as it was when this began.
    Listing(Listing),
}

/// What a read found, and the revision of the state that it reflects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadAnswer {
    pub found: Option<Versioned>,
    pub revision: Revision,
}

#[derive(Debug, Message)]
#[rtype(result = "StoreStats")]
pub(crate) struct GetStoreStatus;

// ---- ReplicationDispatcher

/// Writes of one web worker, each with its own way back to its caller: see [`crate::gate`].
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Submit(pub Vec<Item>);

/// A leader could not be reached.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct PeerUnreachable {
    pub name: String,
    pub reason: String,
}

#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct LeaderChanged;

/// A lane ended before its queue was empty.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct LaneEnded;

#[derive(Debug, Message)]
#[rtype(result = "ReplicationStatus")]
pub(crate) struct GetReplicationStatus;

// ---- HealthMonitor

/// Looks at everything once.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Tick;

#[derive(Debug, Message)]
#[rtype(result = "Arc<HealthReport>")]
pub(crate) struct GetHealth;

// ---- Supervisor

/// Consensus is up: the actors that need it can be built.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Attach(pub Arc<dyn Node>);

/// A web worker came up and wants its own store actor on its own arbiter.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct RegisterWorker {
    pub slot: Slot<StoreActor>,
    pub arbiter: ArbiterHandle,
}

/// The actor of this generation is of no use any more.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub(crate) struct ComponentFailed {
    pub component: ComponentId,
    pub generation: u64,
    pub cause: FailureCause,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FailureCause {
    Panicked,
    Stopped,
    /// It does not answer: its thread must be given up with it.
    Hung {
        silent_ms: u64,
    },
    /// Rebuilding cannot help.
    Unfit {
        reason: String,
    },
    /// Somebody asked for a restart.
    Requested,
}

impl FailureCause {
    /// What it is told as.
    pub fn event(&self) -> EventKind {
        match self {
            FailureCause::Panicked => EventKind::Panicked,
            FailureCause::Hung { .. } => EventKind::Hung,
            FailureCause::Stopped | FailureCause::Unfit { .. } | FailureCause::Requested => EventKind::Failed,
        }
    }
}

impl std::fmt::Display for FailureCause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            FailureCause::Panicked => f.write_str("panicked"),
            FailureCause::Stopped => f.write_str("stopped"),
            FailureCause::Hung { silent_ms } => write!(f, "hung: it did not answer for {silent_ms} ms"),
            FailureCause::Unfit { reason } => f.write_str(reason),
            FailureCause::Requested => f.write_str("restart requested"),
        }
    }
}

/// A component became worse than healthy, for that reason, or healthy again.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct ComponentDegraded {
    pub component: ComponentId,
    pub state: Health,
    pub reason: Option<String>,
}

/// Replaces every actor of that name; `false` when there is none.
#[derive(Debug, Message)]
#[rtype(result = "bool")]
pub(crate) struct Restart {
    pub name: String,
}

/// Events after `since`, oldest first.
#[derive(Debug, Message)]
#[rtype(result = "Vec<Event>")]
pub(crate) struct GetEvents {
    pub since: u64,
}

/// Sends a fault to every actor of that name; `false` when fault injection is off or there is none.
#[derive(Debug, Message)]
#[rtype(result = "bool")]
pub(crate) struct Inject {
    pub name: String,
    pub fault: Fault,
}

/// Stops every actor, in order.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Stop;

// ---- every actor

/// Answered at once; the time it takes is the delay of the mailbox.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Probe;

/// What a fault does to an actor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    Panic,
    /// Blocks the actor's thread.
    Hang(Duration),
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Fault::Panic => f.write_str("it is made to panic"),
            Fault::Hang(time) => write!(f, "it is made to hang for {} ms", time.as_millis()),
        }
    }
}

/// A fault on its way to an actor. Only the supervisor makes one, and only with fault injection on.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Sabotage(pub Fault);

impl Sabotage {
    /// Does to the actor that runs it what the fault says.
    pub fn strike(self) {
        match self.0 {
            Fault::Panic => panic!("fault injected"),
            // The one place that blocks an arbiter on purpose.
            Fault::Hang(time) => std::thread::sleep(time),
        }
    }
}

/// Answers `Probe` and `Sabotage` the same way for every actor.
macro_rules! impl_common_handlers {
    ($actor:ty) => {
        impl actix::Handler<crate::messages::Probe> for $actor {
            type Result = ();

            fn handle(&mut self, _: crate::messages::Probe, _: &mut actix::Context<Self>) {}
        }

        impl actix::Handler<crate::messages::Sabotage> for $actor {
            type Result = ();

            fn handle(&mut self, fault: crate::messages::Sabotage, _: &mut actix::Context<Self>) {
                fault.strike();
            }
        }
    };
}
pub(crate) use impl_common_handlers;
