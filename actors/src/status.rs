//! Plain data that the actors tell about themselves; nothing here waits or locks.

use std::time::Duration;

use vaultdb_consensus::api::ClusterStatus;
use vaultdb_consensus::stages::WriteTimes;
use vaultdb_consensus::IntegrityStatus;
use vaultdb_kv::{Health, Measured};

use crate::port::StoreStats;

/// What is known of a node before its consensus is up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeInfo {
    pub name: String,
    /// The HTTP address that others are told to dial.
    pub haddr: String,
    /// The Raft address that others are told to dial.
    pub raddr: String,
    pub version: &'static str,
}

/// A node's view of itself and its cluster, from memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeStatus {
    pub node: NodeInfo,
    pub uptime_ms: u64,
    /// `None` until consensus is up.
    pub cluster: Option<ClusterStatus>,
    /// All zero until consensus is up.
    pub store: StoreStats,
    /// `None` while the dispatcher does not answer.
    pub replication: Option<ReplicationStatus>,
    /// Also while it does not, and whichever dispatcher it was.
    pub replication_totals: ReplicationTotals,
    /// `None` until consensus is up.
    pub write_times: Option<WriteTimes>,
    /// `None` until consensus is up.
    pub integrity: Option<IntegrityStatus>,
    pub health: HealthReport,
    /// The room on the data directory's filesystem; `None` where nobody measures it.
    pub disk: Option<Measured>,
}

/// How the node's components are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthReport {
    /// The worst of the components.
    pub state: Health,
    pub components: Vec<ComponentHealth>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ComponentHealth {
    /// One of [`crate::component_names`].
    pub name: &'static str,
    pub state: Health,
    /// How often it was rebuilt since the process started.
    pub restarts: u64,
    /// Unix time in milliseconds at which it entered this state.
    pub since_ms: u64,
    /// Why it is not healthy.
    pub reason: Option<String>,
    /// How long its mailbox took for the last probe, or has been taking; `None` of what is no actor.
    pub mailbox_delay: Option<Duration>,
}

/// One line of `livez` or `readyz`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckResult {
    pub name: &'static str,
    pub ok: bool,
    /// Why it failed; `None` when it did not.
    pub reason: Option<String>,
}

/// The check that fails while there is no leader whom a quorum follows.
pub const LINEARIZABLE_READ: &str = "linearizable_read";

/// What passes through the replication dispatcher.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReplicationStatus {
    /// Writes admitted and not answered yet.
    pub pending: u64,
    /// Keys and values of those writes, in bytes.
    pub pending_bytes: u64,
    /// Leaders that could not be reached, until leadership changes.
    pub unreachable_peers: Vec<UnreachablePeer>,
}

/// What passed through the replication dispatchers since the process started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReplicationTotals {
    /// Writes committed and applied.
    pub committed: u64,
    /// Writes answered with an error.
    pub failed: u64,
    /// Batches handed to consensus.
    pub batches: u64,
    /// Changes of leadership that a dispatcher saw.
    pub leader_changes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnreachablePeer {
    pub name: String,
    pub failures: u64,
    pub reason: String,
}

/// What the supervisor saw or did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Grows by one with each event; starts at 1.
    pub seq: u64,
    /// Unix time in milliseconds.
    pub time_ms: u64,
    /// One of [`crate::component_names`].
    pub component: &'static str,
    pub what: EventKind,
    pub detail: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    Started,
    Degraded,
    Recovered,
    /// An actor ended by a panic.
    Panicked,
    /// An actor did not answer for too long.
    Hung,
    /// Anything else that is of no use any more.
    Failed,
    Restarted,
    /// Leadership was moved away, or that was tried, before the node is given up.
    SteppedAside,
    Escalated,
    FaultInjected,
    FaultCleared,
    Stopped,
    /// Writes that set a value are refused.
    ReadOnly,
    LeaderChanged,
    PeerUnreachable,
    PeerBack,
    /// Data found corrupt were set aside.
    Quarantined,
    /// The node is a full member again, with data from its peers.
    Rebuilt,
}

impl EventKind {
    pub fn as_str(self) -> &'static str {
        match self {
            EventKind::Started => "started",
            EventKind::Degraded => "degraded",
            EventKind::Recovered => "recovered",
            EventKind::Panicked => "panicked",
            EventKind::Hung => "hung",
            EventKind::Failed => "failed",
            EventKind::Restarted => "restarted",
            EventKind::SteppedAside => "stepped_aside",
            EventKind::Escalated => "escalated",
            EventKind::FaultInjected => "fault_injected",
            EventKind::FaultCleared => "fault_cleared",
            EventKind::Stopped => "stopped",
            EventKind::ReadOnly => "read_only",
            EventKind::LeaderChanged => "leader_changed",
            EventKind::PeerUnreachable => "peer_unreachable",
            EventKind::PeerBack => "peer_back",
            EventKind::Quarantined => "quarantined",
            EventKind::Rebuilt => "rebuilt",
        }
    }
}
