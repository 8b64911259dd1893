//! openraft's type parameters, and the conversions between its types and ours.
//!
//! openraft's own structs never reach the disk or the wire: their encoding may change with its
//! version, ours may not.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use openraft::impls::leader_id_std::LeaderId;
use openraft::type_config::alias;
use openraft::vote::RaftLeaderId;
use openraft::{OptionalSend, RaftTypeConfig};
use serde::{Deserialize, Serialize};
use vaultdb_kv::{Applied, Command, MemberAddr, NodeId};
use vaultdb_storage as storage;

use crate::acceptance::AcceptHook;

/// A command as openraft carries it: shared, since the log's cache, each replication stream and the
/// state machine hold it at the same time.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SharedCommand(
    pub Arc<Command>,
    /// Only from the proposal to the log of the same node, and only of a write that wants to know.
    #[serde(skip)]
    Option<AcceptHook>,
    /// When its batch was handed over. Only of a batch's first command, and as far as the hook goes.
    #[serde(skip)]
    Option<Instant>,
);

impl SharedCommand {
    pub fn new(command: Arc<Command>) -> Self {
        Self(command, None, None)
    }

    pub fn hooked(mut self, hook: AcceptHook) -> Self {
        self.1 = Some(hook);
        self
    }

    pub fn take_hook(&mut self) -> Option<AcceptHook> {
        self.1.take()
    }

    /// Marks the first command of a batch; an earlier mark stays.
    pub fn handed_over(mut self, at: Instant) -> Self {
        self.2.get_or_insert(at);
        self
    }

    pub fn take_handed_over(&mut self) -> Option<Instant> {
        self.2.take()
    }
}

impl PartialEq for SharedCommand {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Eq for SharedCommand {}

impl fmt::Display for SharedCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match *self.0 {
            Command::Set { .. } => "Set",
            Command::Delete { .. } => "Delete",
            Command::RegisterNode { .. } => "RegisterNode",
            Command::Guarded(_) => "Guarded",
            Command::AdvanceRevision { .. } => "AdvanceRevision",
        };
        write!(f, "{kind} of {} bytes", self.0.payload_bytes())
    }
}

/// What the membership knows of a node besides its id.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PeerNode {
    pub name: String,
    pub addr: MemberAddr,
    /// Nobody but an operator makes it a voter. Stored beside the nodes: see [`WireMembership`].
    #[serde(skip)]
    pub stays_learner: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct TypeConfig;

impl RaftTypeConfig for TypeConfig {
    type D = SharedCommand;
    type R = Applied;
    type NodeId = NodeId;
    type Node = PeerNode;
    type Term = u64;
    // The standard leader id: at most one leader a term, so that a log id is (term, index).
    type LeaderId = LeaderId<u64, NodeId>;
    type Vote = openraft::Vote<Self::LeaderId>;
    type Payload = openraft::EntryPayload<SharedCommand, NodeId, PeerNode>;
    type Entry = alias::DefaultEntryOf<Self>;
    type AsyncRuntime = openraft::TokioRuntime;
    type Responder<T>
        = openraft::impls::OneshotResponder<Self, T>
    where
        T: OptionalSend + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: OptionalSend + 'static;
    type ErrorSource = openraft::AnyError;
}

pub type Raft = openraft::Raft<TypeConfig, crate::state_machine::StateMachineAdapter>;
pub type Entry = alias::EntryOf<TypeConfig>;
pub type EntryPayload = alias::PayloadOf<TypeConfig>;
pub type RaftLogId = alias::LogIdOf<TypeConfig>;
pub type RaftVote = alias::VoteOf<TypeConfig>;
pub type StoredMembership = alias::StoredMembershipOf<TypeConfig>;
pub type Membership = openraft::Membership<NodeId, PeerNode>;
pub type RaftSnapshot = alias::SnapshotOf<TypeConfig, storage::Snapshot>;
pub type RaftSnapshotMeta = alias::SnapshotMetaOf<TypeConfig>;

pub fn raft_log_id(id: storage::LogId) -> RaftLogId {
    RaftLogId::new_term_index(id.term, id.index)
}

pub fn log_id(id: &RaftLogId) -> storage::LogId {
    storage::LogId { term: **id.committed_leader_id(), index: id.index() }
}

pub fn raft_vote(vote: storage::Vote) -> RaftVote {
    RaftVote { leader_id: LeaderId::new(vote.term, vote.node_id), committed: vote.committed }
}

pub fn vote(vote: &RaftVote) -> storage::Vote {
    storage::Vote { term: vote.leader_id.term, node_id: vote.leader_id.voted_for, committed: vote.committed }
}

/// A membership as it is stored and sent, but for which learners stay learners.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireMembership {
    /// One set of voters, or two during a joint change.
    pub voters: Vec<BTreeSet<NodeId>>,
    /// Voters and learners.
    pub nodes: BTreeMap<NodeId, PeerNode>,
}

impl From<&Membership> for WireMembership {
    fn from(m: &Membership) -> Self {
        WireMembership {
            voters: m.get_joint_config().clone(),
            nodes: m.nodes().map(|(id, node)| (*id, node.clone())).collect(),
        }
    }
}

/// The learners that stay learners.
pub fn lasting_learners(m: &Membership) -> BTreeSet<NodeId> {
    m.nodes().filter(|(_, node)| node.stays_learner).map(|(id, _)| *id).collect()
}

impl WireMembership {
    /// # Errors
    /// `InvalidData` when it is none that a cluster may have.
    pub fn with_learners(mut self, lasting: &BTreeSet<NodeId>) -> std::io::Result<Membership> {
        for (id, node) in &mut self.nodes {
            node.stays_learner = lasting.contains(id);
        }
        Membership::new(self.voters, self.nodes)
            .map_err(|e| std::io::Error::new(std::io::ErrorKind::InvalidData, e.to_string()))
    }
}
