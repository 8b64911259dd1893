//! What a node tells of itself and its cluster, from memory alone.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use openraft::{Instant, ServerState};
use tokio::time::timeout;
use vaultdb_kv::{NodeId, Role};

use crate::api::{ClusterStatus, Leader, Leadership, Member, MemberStatus, RaftState, TransferStatus};
use crate::core::Core;
use crate::membership::CONTACT_MS_MAX;
use crate::network::Lane;
use crate::types::{Membership, PeerNode, Raft, StoredMembership};
use crate::wire::Request;

/// How often a peer that was not heard of lately is asked for a sign of life, in milliseconds.
const PING_MS: u64 = 500;
/// How often it is checked whether openraft has stopped, in milliseconds.
const FATAL_CHECK_MS: u64 = 50;
/// How long a ping may take, in milliseconds.
const PING_MS_MAX: u64 = 1_000;

/// Keeps [`Core::leadership`] and [`Core::fatal`] up to date for as long as consensus runs.
pub async fn watch_leadership(core: Arc<Core>) {
    let mut metrics = core.raft.server_metrics();
    loop {
        let seen = leadership(&core.raft, core.me.id);
        core.leadership.send_if_modified(|current| {
            let changed = **current != seen;
            if changed {
                let name = seen.leader.as_ref().map_or("nobody", |l| l.name.as_str());
                log::info!("term {}: {name} leads", seen.term);
                *current = Arc::new(seen);
            }
            changed
        });
        let stopped = core.raft.metrics().borrow_watched().running_state.clone().err();
        // First: what openraft says of an answer that the store refused tells less.
        let reason = match core.mark_corruption().await {
            Some(reason) => Some(reason),
            None => stopped.map(|reason| reason.to_string()),
        };
        if let Some(reason) = reason {
            core.fatal.send_replace(Some(reason));
            return;
        }
        // The full metrics change with each write: looking now and then is cheaper than each wake.
        let changed = timeout(Duration::from_millis(FATAL_CHECK_MS), metrics.changed()).await;
        if let Ok(Err(_)) = changed {
            let corrupt = core.mark_corruption().await;
            core.fatal.send_replace(corrupt.or_else(|| Some("consensus stopped".into())));
            return;
        }
    }
}

pub fn leadership(raft: &Raft, me: NodeId) -> Leadership {
    let metrics = raft.server_metrics();
    let metrics = metrics.borrow_watched();
    let leader = metrics.current_leader.map(|id| {
        let node = metrics.membership_config.get_node(&id).cloned().unwrap_or_default();
        Leader { id, name: node.name, addr: node.addr }
    });
    Leadership {
        term: metrics.vote.leader_id.term,
        is_local: metrics.state == ServerState::Leader && metrics.current_leader == Some(me),
        leader,
    }
}

/// Asks silent peers for a sign of life, so that each node knows which members it can reach.
pub async fn ping_peers(core: Arc<Core>) {
    let mut tick = tokio::time::interval(Duration::from_millis(PING_MS));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        if core.fatal.borrow().is_some() {
            return;
        }
        let membership = core.raft.server_metrics().borrow_watched().membership_config.clone();
        core.links.book.set_members(membership.nodes().map(|(id, node)| (*id, node.addr.raft.as_str())));
        core.links.retain(|id| membership.get_node(&id).is_some() || core.links.book.has_claim(id));
        for (id, node) in membership.nodes().filter(|(id, _)| **id != core.me.id) {
            let silent = core.contacts.since(*id).is_none_or(|t| t >= Duration::from_millis(PING_MS));
            if silent {
                let call = core.links.get(*id, &node.addr.raft, Lane::Control).call(Request::Ping);
                // Only the contact that an answer leaves behind is of interest.
                tokio::spawn(timeout(Duration::from_millis(PING_MS_MAX), call));
            }
        }
    }
}

impl Core {
    pub fn status(&self) -> ClusterStatus {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched().clone();
        let index = |id: &Option<crate::types::RaftLogId>| id.as_ref().map_or(0, |id| id.index());
        // The store publishes what it applied before openraft does.
        let applied = index(&metrics.last_applied).max(*self.applied.borrow());
        let committed = index(&metrics.local_committed).max(applied);
        let last_log = metrics.last_log_index.unwrap_or(0).max(committed);
        let members =
            (metrics.membership_config.membership(), metrics.committed_membership_config.membership());
        let voters = voters_in_force(metrics.state, members.0, members.1);
        let role = |id: NodeId| if voters.contains(&id) { Role::Voter } else { Role::Learner };
        let members = metrics.membership_config.nodes().map(|(id, node)| {
            let matched = metrics.replication.as_ref().and_then(|r| r.get(id)).and_then(|m| m.as_ref());
            let lag = metrics.replication.as_ref().map(|_| match *id == self.me.id {
                true => 0,
                false => last_log.saturating_sub(matched.map_or(0, |m| m.index())),
            });
            self.member(*id, node, role(*id), lag)
        });
        let members = members.collect();
        let leadership = (*self.leadership()).clone();
        let acked = metrics.last_quorum_acked.map(|at| at.elapsed());
        let leads_alone = leadership.is_local
            && voters.len() > 1
            && acked.is_none_or(|ago| ago > self.timing.election_timeout_max());
        ClusterStatus {
            cluster_id: self.me.cluster_id.clone(),
            node: Member { id: self.me.id, name: self.me.name.clone(), addr: self.me.addr.clone() },
            state: state(metrics.state, role(self.me.id)),
            leadership,
            leads_alone,
            members,
            last_log,
            committed,
            applied,
            snapshot: index(&metrics.snapshot),
            purged: index(&metrics.purged),
            transfers: self.transfer_status(&metrics.membership_config),
            transfer_totals: self.transfers.totals(),
            agreement: self.agreement.status(|id| {
                let node = metrics.membership_config.get_node(&id);
                node.map_or_else(String::new, |node| node.name.clone())
            }),
            fatal: self.fatal.borrow().clone(),
        }
    }

    fn transfer_status(&self, members: &StoredMembership) -> Vec<TransferStatus> {
        let underway = self.transfers.underway().into_iter();
        underway
            .map(|transfer| TransferStatus {
                peer: members.get_node(&transfer.peer).map_or_else(String::new, |node| node.name.clone()),
                direction: transfer.direction,
                bytes_done: transfer.bytes_done(),
                bytes_total: transfer.bytes_total,
            })
            .collect()
    }

    fn member(&self, id: NodeId, node: &PeerNode, role: Role, lag_entries: Option<u64>) -> MemberStatus {
        let since = match id == self.me.id {
            true => Some(Duration::ZERO),
            false => self.contacts.since(id),
        };
        MemberStatus {
            member: Member { id, name: node.name.clone(), addr: node.addr.clone() },
            role,
            reachable: since.is_some_and(|t| t < Duration::from_millis(CONTACT_MS_MAX)),
            lag_entries,
            last_contact_ms: since.map(|t| u64::try_from(t.as_millis()).unwrap_or(u64::MAX)),
            stays_learner: role == Role::Learner && node.stays_learner,
        }
    }
}

/// Those of whom a majority suffices, whichever node fails next.
///
/// While a change is at its joint stage a majority of the old voters has to agree, too: of two that become three
/// neither can be spared. The stage is over once the leader has committed the end of it, or another node has that end
/// from the leader: then whichever of the two fails, the other one goes on from there.
fn voters_in_force(state: ServerState, effective: &Membership, committed: &Membership) -> BTreeSet<NodeId> {
    let membership = if state == ServerState::Leader { committed } else { effective };
    membership.get_joint_config().first().cloned().unwrap_or_default()
}

fn state(state: ServerState, role: Role) -> RaftState {
    match (state, role) {
        (ServerState::Leader, _) => RaftState::Leader,
        (ServerState::Candidate, _) => RaftState::Candidate,
        (ServerState::Follower, Role::Voter) => RaftState::Follower,
        (ServerState::Follower | ServerState::Learner | ServerState::Shutdown, _) => RaftState::Learner,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn membership(voters: &[&[NodeId]]) -> Membership {
        let sets: Vec<BTreeSet<NodeId>> = voters.iter().map(|set| set.iter().copied().collect()).collect();
        let nodes: BTreeMap<NodeId, PeerNode> = (1..=3).map(|id| (id, PeerNode::default())).collect();
        Membership::new(sets, nodes).expect("valid")
    }

    /// Whoever waits for three voters before it stops one is not told of them while both of the two before are needed;
    /// and who is being removed is needed to the end.
    #[test]
    fn voters_are_those_whose_majority_suffices() {
        let (two, three) = (membership(&[&[1, 2]]), membership(&[&[1, 2, 3]]));
        let (grows, shrinks) = (membership(&[&[1, 2], &[1, 2, 3]]), membership(&[&[1, 2, 3], &[1, 2]]));
        let voters = |state, effective: &Membership, committed: &Membership| {
            voters_in_force(state, effective, committed).into_iter().collect::<Vec<_>>()
        };
        for state in [ServerState::Leader, ServerState::Follower] {
            assert_eq!(voters(state, &grows, &two), [1, 2], "{state:?}");
            assert_eq!(voters(state, &grows, &grows), [1, 2], "{state:?}");
            assert_eq!(voters(state, &three, &three), [1, 2, 3], "{state:?}");
            assert_eq!(voters(state, &shrinks, &shrinks), [1, 2, 3], "{state:?}");
            assert_eq!(voters(state, &two, &two), [1, 2], "{state:?}");
        }
        assert_eq!(voters(ServerState::Leader, &three, &grows), [1, 2], "nobody else may have the end of it");
        assert_eq!(voters(ServerState::Follower, &three, &grows), [1, 2, 3]);
    }
}
