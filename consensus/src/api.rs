//! What the rest of the node asks of consensus, and what it is told.
//!
//! Plain data only: nothing of openraft leaves this crate.

use serde::{Deserialize, Serialize};
use vaultdb_kv::{Applied, MemberAddr, NodeId, Revision, Role, Shortage};
use vaultdb_storage::LogId;

/// A command that is committed and applied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Committed {
    pub log_id: LogId,
    pub applied: Applied,
}

/// Why a proposal was not answered with [`Committed`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum ProposeError {
    /// Certainly not in any log: the node asked is not a leader that can take it. Retry elsewhere.
    #[error("not the leader")]
    NotLeader,
    /// Certainly not in any log: the peer could not be reached before anything was sent to it.
    #[error("the leader could not be reached: {reason}")]
    Unreachable { reason: String },
    /// It may or may not be committed, now or later.
    #[error("the outcome is unknown: {reason}")]
    Unknown { reason: String },
    /// Certainly not in any log: this node is stopping.
    #[error("the node is stopping")]
    Stopping,
    /// Certainly not in any log: too many writes are accepted and not settled yet.
    #[error("too many accepted writes wait for a majority")]
    Overloaded,
    /// Certainly not in any log: it sets a value, and the leader's disk is nearly full.
    #[error("{0}")]
    OutOfSpace(Shortage),
}

/// Who leads, as this node sees it. Cheap to read for each request.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Leadership {
    pub term: u64,
    /// `None` during an election.
    pub leader: Option<Leader>,
    /// Whether this node is that leader.
    pub is_local: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leader {
    pub id: NodeId,
    pub name: String,
    pub addr: MemberAddr,
}

/// This node's part at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RaftState {
    Leader,
    Follower,
    Candidate,
    Learner,
}

/// The node's view of its cluster, from memory. Indexes obey
/// `last_log >= committed >= applied >= snapshot >= purged`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterStatus {
    pub cluster_id: String,
    pub node: Member,
    pub state: RaftState,
    pub leadership: Leadership,
    /// This node leads, and no quorum has answered it for longer than an election takes: perhaps another one leads, or
    /// nobody can. Nothing is committed here meanwhile, and no linearizable read answered.
    pub leads_alone: bool,
    pub members: Vec<MemberStatus>,
    pub last_log: u64,
    pub committed: u64,
    pub applied: u64,
    pub snapshot: u64,
    pub purged: u64,
    /// Snapshots on their way, to and from this node.
    pub transfers: Vec<TransferStatus>,
    pub transfer_totals: TransferTotals,
    pub agreement: AgreementStatus,
    /// Set once consensus has stopped for good; the process must end with exit code 70.
    pub fatal: Option<String>,
}

/// How this node's state compares with the other voters', by hashes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AgreementStatus {
    /// The last log index at which this node was found to be one of a majority that agrees; 0 before that.
    pub compared_index: u64,
    /// Members whose state was found to differ from this node's.
    pub diverged: Vec<Divergence>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Divergence {
    /// Name of the member.
    pub peer: String,
    /// The first log index at which it was seen.
    pub index: u64,
    /// A majority, this node one of it, agrees on another state. Else it is not known which of the two is wrong.
    pub is_minority: bool,
}

impl AgreementStatus {
    /// In words, what somebody has to know; `None` while all that was compared is the same.
    pub fn concern(&self) -> Option<String> {
        let told = self.diverged.iter().map(|Divergence { peer, index, is_minority }| match is_minority {
            true => format!("the state of {peer} differs from the majority's at log index {index}"),
            false => format!(
                "the state of {peer} differs from this node's at log index {index}, no majority agrees"
            ),
        });
        let told: Vec<String> = told.collect();
        (!told.is_empty()).then(|| told.join("; "))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransferDirection {
    Send,
    Receive,
}

/// A snapshot on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransferStatus {
    /// Name of the other node; empty when it is no longer a member.
    pub peer: String,
    pub direction: TransferDirection,
    /// Bytes that the receiver has, those of an earlier, interrupted transfer included.
    pub bytes_done: u64,
    pub bytes_total: u64,
}

/// What went over the network in snapshots since the process started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TransferTotals {
    pub sent_bytes: u64,
    pub received_bytes: u64,
    /// Snapshots of other nodes that were installed here.
    pub installed: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    pub id: NodeId,
    pub name: String,
    pub addr: MemberAddr,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberStatus {
    pub member: Member,
    /// A change counts once it is past its joint stage: whoever is shown as a voter is one of the majority that
    /// suffices.
    pub role: Role,
    /// On the leader: it answered within the last two seconds. Elsewhere: the last dial or
    /// frame to it succeeded.
    pub reachable: bool,
    /// Known on the leader only.
    pub lag_entries: Option<u64>,
    /// Milliseconds since it was last heard of; `None` when it never was.
    pub last_contact_ms: Option<u64>,
    /// A learner that is not promoted by itself.
    pub stays_learner: bool,
}

/// A node that asks to become a member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinRequest {
    pub name: String,
    pub addr: MemberAddr,
    /// Drawn at random when a data directory is made; tells a repeated request from a node that lost
    /// its disk. `None` in a request typed by hand.
    pub instance: Option<String>,
    /// It is to stay a learner. On the wire the kind of the request tells it.
    #[serde(skip)]
    pub stays_learner: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinReply {
    pub cluster_id: String,
    pub id: NodeId,
    pub revision: Revision,
}

/// What is to become of one member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemberOrder {
    /// It belongs to the cluster no longer, under none of its ids.
    Remove { name: String },
    /// It votes, also if it was to stay a learner.
    Promote { name: String },
    /// It is reached elsewhere. Asked by the member itself, which tells who it is and where.
    Move { id: NodeId, member: JoinRequest },
}

/// A member order that was carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberReply {
    pub name: String,
    pub id: NodeId,
    /// Whether anything had to be changed.
    pub changed: bool,
}

/// Where a member says that it is reached; not replicated, only a hint for whoever dials it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    pub id: NodeId,
    pub addr: MemberAddr,
    /// When its process began, in Unix milliseconds: of two claims the later one holds.
    pub since_ms: u64,
}

/// What a cluster says of a node id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Standing {
    Member,
    /// It was a member and is none any more.
    Removed,
}
