//! What the leader does to the membership by itself: promote learners that have caught up, end changes
//! that an earlier leader left half done, forget learners that cannot come back.
//!
//! Invariant: a node that lost its disk takes its predecessor's vote over in one membership change, and
//! only once it has caught up.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use openraft::{ChangeMembers, Precondition};
use vaultdb_kv::NodeId;

use crate::core::Core;
use crate::membership::CONTACT_MS_MAX;
use crate::types::{Membership, PeerNode, TypeConfig};

/// A learner this close to the end of the log is caught up.
const TRAILING_ENTRIES_MAX: u64 = 64;
/// How often the leader looks whether the membership needs a change, in milliseconds.
const TEND_TICK_MS: u64 = 50;

impl Core {
    /// Brings the membership to where it should be, for as long as the node runs: see [`Change`].
    pub async fn tend_membership(self: Arc<Self>) {
        let mut tick = tokio::time::interval(Duration::from_millis(TEND_TICK_MS));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            if self.fatal.borrow().is_some() {
                return;
            }
            if !self.leadership().is_local {
                continue;
            }
            let _one_at_a_time = self.membership_change.lock().await;
            let Some((change, unchanged)) = self.next_change() else { continue };
            log::info!("membership: {change}");
            // Voters that were worked out from another membership could undo what another leader did.
            match self.raft.change_membership_if(change.clone().into_openraft(), false, [unchanged]).await {
                Ok(_) => {}
                Err(e) => log::info!("membership: {change}: not yet: {e}"),
            }
        }
    }

    /// The next change, and the condition under which it was found: the membership is still the same.
    fn next_change(&self) -> Option<(Change, Precondition<TypeConfig>)> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let replication = metrics.replication.as_ref()?;
        // openraft makes one change at a time: wait until the last one is committed.
        if metrics.membership_config.log_id() != metrics.committed_membership_config.log_id() {
            return None;
        }
        let last = metrics.last_log_index.unwrap_or(0);
        let alive = |id| self.contacts.since(id).is_some_and(|t| t < Duration::from_millis(CONTACT_MS_MAX));
        let caught_up = |id| {
            let matched = replication.get(&id).and_then(|m| m.as_ref()).map(|m| m.index());
            matched.is_some_and(|m| m + TRAILING_ENTRIES_MAX >= last)
        };
        let latest = |name: &str| self.store.registered(name).map(|(latest, _, _)| latest);
        let change = next_change(metrics.membership_config.membership(), alive, caught_up, latest)?;
        let last_membership_log_id = *metrics.membership_config.log_id();
        Some((change, Precondition::LastMembershipLogId { last_membership_log_id }))
    }
}

/// What the leader does to the membership by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Change {
    /// Ends a joint configuration that a leader left behind between its two steps.
    Finish { voters: BTreeSet<NodeId> },
    /// Makes a learner a voter, in the place of its name's earlier ids.
    Promote { id: NodeId, voters: BTreeSet<NodeId> },
    /// Forgets a learner whose name has a later id: it can never come back.
    Forget { id: NodeId },
}

impl Change {
    fn into_openraft(self) -> ChangeMembers<NodeId, PeerNode> {
        match self {
            Change::Finish { voters } | Change::Promote { voters, .. } => {
                ChangeMembers::ReplaceAllVoters(voters)
            }
            Change::Forget { id } => ChangeMembers::RemoveNodes(BTreeSet::from([id])),
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::Finish { voters } => {
                write!(f, "the change to the voters {voters:?} is brought to its end")
            }
            Change::Promote { id, voters } => {
                write!(f, "node {id} has caught up, the voters become {voters:?}")
            }
            Change::Forget { id } => write!(f, "learner {id} has a successor and is forgotten"),
        }
    }
}

/// `latest` tells the id that was allotted to a name last; only that one counts.
fn next_change(
    membership: &Membership,
    alive: impl Fn(NodeId) -> bool,
    caught_up: impl Fn(NodeId) -> bool,
    latest: impl Fn(&str) -> Option<NodeId>,
) -> Option<Change> {
    match membership.get_joint_config().as_slice() {
        [_] => {}
        [.., target] => return Some(Change::Finish { voters: target.clone() }),
        [] => return None,
    }
    let name = |id: NodeId| membership.get_node(&id).map(|node| node.name.as_str());
    let superseded = |id: &NodeId| !alive(*id) && name(*id).and_then(&latest).is_some_and(|l| l > *id);
    if let Some(id) = membership.learner_ids().find(superseded) {
        return Some(Change::Forget { id });
    }
    let ready = |id: &NodeId| alive(*id) && caught_up(*id) && name(*id).and_then(&latest) == Some(*id);
    let id = membership.learner_ids().find(ready)?;
    let others = membership.voter_ids().filter(|voter| name(*voter) != name(id));
    Some(Change::Promote { id, voters: others.chain([id]).collect() })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Ids with their names; the voters are given as one set, or two while a change is under way.
    fn membership(voters: &[&[NodeId]], nodes: &[(NodeId, &str)]) -> Membership {
        let voters = voters.iter().map(|set| set.iter().copied().collect()).collect();
        let node = |name: &str| PeerNode { name: name.into(), ..PeerNode::default() };
        let nodes = nodes.iter().map(|(id, name)| (*id, node(name)));
        Membership::new(voters, nodes.collect::<BTreeMap<_, _>>()).expect("valid")
    }

    fn latest<'a>(of: &'a [(NodeId, &'a str)]) -> impl Fn(&str) -> Option<NodeId> + 'a {
        move |name| of.iter().filter(|(_, n)| *n == name).map(|(id, _)| *id).max()
    }

    const NODES: &[(NodeId, &str)] = &[(1, "a"), (2, "b"), (3, "c"), (4, "c"), (5, "c")];

    /// A change that a leader left half done is ended before anything else.
    #[test]
    fn a_joint_configuration_is_brought_to_its_end() {
        let half = membership(&[&[1, 2, 3], &[1, 2, 5]], NODES);
        let change = next_change(&half, |_| true, |_| true, latest(NODES));
        assert_eq!(change, Some(Change::Finish { voters: BTreeSet::from([1, 2, 5]) }));
    }

    /// The latest id of a name takes the vote of the earlier one; the ones in between are forgotten.
    #[test]
    fn the_latest_id_of_a_name_replaces_the_earlier_ones() {
        let wiped_twice = membership(&[&[1, 2, 3]], NODES);
        let change = next_change(&wiped_twice, |id| id == 5, |_| true, latest(NODES));
        assert_eq!(change, Some(Change::Forget { id: 4 }));
        let rest: Vec<_> = NODES.iter().copied().filter(|(id, _)| *id != 4).collect();
        let wiped = membership(&[&[1, 2, 3]], &rest);
        let change = next_change(&wiped, |id| id == 5, |_| true, latest(NODES));
        assert_eq!(change, Some(Change::Promote { id: 5, voters: BTreeSet::from([1, 2, 5]) }));
    }

    /// Nobody votes before it has caught up, or while it cannot be reached.
    #[test]
    fn a_learner_waits_until_it_has_caught_up() {
        let nodes = &NODES[..3];
        let joining = membership(&[&[1, 2]], nodes);
        assert_eq!(next_change(&joining, |_| true, |_| false, latest(nodes)), None);
        assert_eq!(next_change(&joining, |_| false, |_| true, latest(nodes)), None);
        let change = next_change(&joining, |_| true, |_| true, latest(nodes));
        assert_eq!(change, Some(Change::Promote { id: 3, voters: BTreeSet::from([1, 2, 3]) }));
    }
}
