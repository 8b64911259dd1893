//! The JSON of `GET /status` and `GET /v1/members`, field by field as the contract names them.

use serde::Serialize;
use vaultdb_kv::{Health, NodeId, Revision, Role};

use crate::model::{
    AgreementStatus, ClusterStatus, ComponentHealth, MemberStatus, NodeStatus, RaftState, TransferDirection,
    TransferStatus,
};

/// The node's view of itself and its cluster. A node that belongs to no cluster yet shows state
/// `starting`, `null` for its id and an empty cluster.
#[derive(Serialize)]
pub(crate) struct StatusView<'a> {
    node: NodeView<'a>,
    cluster: ClusterView<'a>,
    raft: RaftView<'a>,
    store: StoreView,
    health: HealthView<'a>,
}

#[derive(Serialize)]
struct NodeView<'a> {
    name: &'a str,
    id: Option<NodeId>,
    haddr: &'a str,
    raddr: &'a str,
    state: &'static str,
    version: &'a str,
    uptime_ms: u64,
}

#[derive(Serialize)]
struct ClusterView<'a> {
    id: &'a str,
    leader: Option<&'a str>,
    term: u64,
    members: Vec<MemberView<'a>>,
}

#[derive(Serialize)]
struct MemberView<'a> {
    name: &'a str,
    id: NodeId,
    haddr: &'a str,
    raddr: &'a str,
    role: Role,
    reachable: bool,
    /// `null` where it is not known: only the leader knows.
    lag_entries: Option<u64>,
    last_contact_ms: Option<u64>,
    /// Only of a learner that is not promoted by itself.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    stays_learner: bool,
}

/// Log indexes: `last_log >= committed >= applied >= snapshot >= purged`.
#[derive(Serialize, Default)]
struct RaftView<'a> {
    last_log: u64,
    committed: u64,
    applied: u64,
    snapshot: u64,
    purged: u64,
    snapshot_transfers: Vec<TransferView<'a>>,
    agreement: AgreementView<'a>,
}

/// A snapshot on its way to or from this node.
#[derive(Serialize)]
struct TransferView<'a> {
    peer: &'a str,
    direction: &'static str,
    bytes_done: u64,
    bytes_total: u64,
}

#[derive(Serialize)]
struct StoreView {
    revision: Revision,
    keys_estimate: u64,
    disk_bytes: u64,
    cache: CacheView,
}

#[derive(Serialize)]
struct CacheView {
    entries: u64,
    bytes: u64,
    hits: u64,
    misses: u64,
}

/// How the node's state compares with the other voters'.
#[derive(Serialize, Default)]
struct AgreementView<'a> {
    compared_index: u64,
    diverged: Vec<DivergenceView<'a>>,
}

#[derive(Serialize)]
struct DivergenceView<'a> {
    peer: &'a str,
    index: u64,
    /// Whether a majority is against the peer.
    is_minority: bool,
}

#[derive(Serialize)]
struct HealthView<'a> {
    state: Health,
    components: Vec<ComponentView<'a>>,
}

#[derive(Serialize)]
struct ComponentView<'a> {
    name: &'a str,
    state: Health,
    restarts: u64,
    since_ms: u64,
    reason: Option<&'a str>,
}

/// `{"members":[…]}`.
#[derive(Serialize)]
pub(crate) struct MembersView<'a> {
    members: Vec<MemberView<'a>>,
}

impl<'a> StatusView<'a> {
    pub(crate) fn of(status: &'a NodeStatus) -> Self {
        let cluster = status.cluster.as_ref();
        let (store, cache) = (&status.store, &status.store.cache);
        StatusView {
            node: NodeView {
                name: &status.node.name,
                id: cluster.map(|cluster| cluster.node.id),
                haddr: &status.node.haddr,
                raddr: &status.node.raddr,
                state: cluster.map_or("starting", |cluster| state_name(cluster.state)),
                version: status.node.version,
                uptime_ms: status.uptime_ms,
            },
            cluster: ClusterView::of(cluster),
            raft: cluster.map_or_else(RaftView::default, RaftView::of),
            store: StoreView {
                revision: store.revision,
                keys_estimate: store.keys_estimate,
                disk_bytes: store.disk_bytes,
                cache: CacheView {
                    entries: cache.entries,
                    bytes: cache.bytes,
                    hits: cache.hits,
                    misses: cache.misses,
                },
            },
            health: HealthView {
                state: status.health.state,
                components: status.health.components.iter().map(ComponentView::of).collect(),
            },
        }
    }
}

impl<'a> ClusterView<'a> {
    fn of(cluster: Option<&'a ClusterStatus>) -> Self {
        let Some(cluster) = cluster else {
            return ClusterView { id: "", leader: None, term: 0, members: Vec::new() };
        };
        let leadership = &cluster.leadership;
        ClusterView {
            id: &cluster.cluster_id,
            leader: leadership.leader.as_ref().map(|leader| leader.name.as_str()),
            term: leadership.term,
            members: cluster.members.iter().map(MemberView::of).collect(),
        }
    }
}

impl<'a> MembersView<'a> {
    pub(crate) fn of(cluster: &'a ClusterStatus) -> Self {
        MembersView { members: cluster.members.iter().map(MemberView::of).collect() }
    }
}

impl<'a> MemberView<'a> {
    fn of(status: &'a MemberStatus) -> Self {
        MemberView {
            name: &status.member.name,
            id: status.member.id,
            haddr: &status.member.addr.http,
            raddr: &status.member.addr.raft,
            role: status.role,
            reachable: status.reachable,
            lag_entries: status.lag_entries,
            last_contact_ms: status.last_contact_ms,
            stays_learner: status.stays_learner,
        }
    }
}

impl<'a> RaftView<'a> {
    fn of(cluster: &'a ClusterStatus) -> Self {
        RaftView {
            last_log: cluster.last_log,
            committed: cluster.committed,
            applied: cluster.applied,
            snapshot: cluster.snapshot,
            purged: cluster.purged,
            snapshot_transfers: cluster.transfers.iter().map(TransferView::of).collect(),
            agreement: AgreementView::of(&cluster.agreement),
        }
    }
}

impl<'a> AgreementView<'a> {
    fn of(agreement: &'a AgreementStatus) -> Self {
        let diverged = agreement.diverged.iter();
        let diverged =
            diverged.map(|d| DivergenceView { peer: &d.peer, index: d.index, is_minority: d.is_minority });
        AgreementView { compared_index: agreement.compared_index, diverged: diverged.collect() }
    }
}

impl<'a> TransferView<'a> {
    fn of(transfer: &'a TransferStatus) -> Self {
        TransferView {
            peer: &transfer.peer,
            direction: match transfer.direction {
                TransferDirection::Send => "send",
                TransferDirection::Receive => "receive",
            },
            bytes_done: transfer.bytes_done,
            bytes_total: transfer.bytes_total,
        }
    }
}

impl<'a> ComponentView<'a> {
    fn of(component: &'a ComponentHealth) -> Self {
        ComponentView {
            name: component.name,
            state: component.state,
            restarts: component.restarts,
            since_ms: component.since_ms,
            reason: component.reason.as_deref(),
        }
    }
}

fn state_name(state: RaftState) -> &'static str {
    match state {
        RaftState::Leader => "leader",
        RaftState::Follower => "follower",
        RaftState::Candidate => "candidate",
        RaftState::Learner => "learner",
    }
}
