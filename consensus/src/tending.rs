//! What the leader does to the membership by itself: promote learners that have caught up, end changes
//! that an earlier leader left half done, forget learners that cannot come back and, if it is told to,
//! members that are dead.
//!
//! Invariant: a node that lost its disk takes its predecessor's vote over in one membership change, and
//! only once it has caught up.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use openraft::async_runtime::WatchReceiver;
use openraft::{ChangeMembers, Precondition};
use vaultdb_kv::NodeId;

use crate::core::Core;
use crate::membership::Attempt;
use crate::types::{Membership, PeerNode, TypeConfig};

/// How often the leader looks whether the membership needs a change, in milliseconds.
const TEND_TICK_MS: u64 = 50;
/// Fewer voters than this are never left behind by a removal that nobody asked for: two tolerate no more
/// failures than one.
const VOTERS_MIN: usize = 3;

/// The rules by which the leader changes the membership by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Autopilot {
    /// A learner that was heard of within this time may be promoted, in milliseconds.
    pub contact_ms_max: u64,
    /// A learner this close to the end of the log has caught up.
    pub trailing_entries_max: u64,
    /// How long a learner must have kept both rules without a break, in milliseconds.
    pub stable_ms_min: u64,
    /// Members that were not heard of for this long are removed, in milliseconds; `None`: never.
    pub dead_member_timeout_ms: Option<u64>,
}

impl Default for Autopilot {
    fn default() -> Self {
        Self {
            contact_ms_max: 2_000,
            // What may be on its way to a follower that keeps up: eight messages of 512 entries.
            trailing_entries_max: 4_096,
            stable_ms_min: 500,
            dead_member_timeout_ms: None,
        }
    }
}

/// What one leader remembers between two looks.
#[derive(Default)]
struct Tenure {
    /// Since when this leader has known each member.
    known_since: HashMap<NodeId, Instant>,
    /// Since when each learner has been fit for a vote.
    fit_since: HashMap<NodeId, Instant>,
}

impl Core {
    /// Brings the membership to where it should be, for as long as the node runs: see [`Change`].
    pub async fn tend_membership(self: Arc<Self>) {
        let mut tick = tokio::time::interval(Duration::from_millis(TEND_TICK_MS));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut tenure = Tenure::default();
        loop {
            tick.tick().await;
            if self.fatal.borrow().is_some() {
                return;
            }
            if !self.leadership().is_local {
                tenure = Tenure::default();
                continue;
            }
            let _one_at_a_time = self.membership_change.lock().await;
            let Some((change, unchanged)) = self.next_change(&mut tenure) else { continue };
            if !self.may(&change).await {
                continue;
            }
            log::info!("membership: {change}");
            // Voters that were worked out from another membership could undo what another leader did.
            match self.raft.change_membership_if(change.clone().into_openraft(), false, [unchanged]).await {
                Ok(_) => {}
                Err(e) => log::info!("membership: {change}: not yet: {e}"),
            }
        }
    }

    /// Asks those on whom a change of voters depends: who was heard of a moment ago may be dead.
    async fn may(&self, change: &Change) -> bool {
        match change {
            Change::Promote { id, .. } => self.answering(&BTreeSet::from([*id])).await.contains(id),
            Change::Bury { id, is_voter: true } => {
                let voters = self.membership().voter_ids().collect();
                matches!(self.keeps_quorum(&voters, &BTreeSet::from([*id])).await, Ok(Attempt::Done(())))
            }
            Change::Finish { .. } | Change::Forget { .. } | Change::Bury { is_voter: false, .. } => true,
        }
    }

    /// The next change, and the condition under which it was found: the membership is still the same.
    fn next_change(&self, tenure: &mut Tenure) -> Option<(Change, Precondition<TypeConfig>)> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let replication = metrics.replication.as_ref()?;
        let membership = metrics.membership_config.membership();
        let rules = &self.autopilot;
        let last = metrics.last_log_index.unwrap_or(0);
        let alive =
            |id| self.contacts.since(id).is_some_and(|t| t < Duration::from_millis(rules.contact_ms_max));
        let caught_up = |id| {
            let matched = replication.get(&id).and_then(|m| m.as_ref()).map(|m| m.index());
            matched.is_some_and(|m| m + rules.trailing_entries_max >= last)
        };
        let fit = membership.learner_ids().filter(|id| alive(*id) && caught_up(*id)).collect();
        tenure.note(membership.nodes().map(|(id, _)| *id).collect(), fit);
        // openraft makes one change at a time: wait until the last one is committed.
        if metrics.membership_config.log_id() != metrics.committed_membership_config.log_id() {
            return None;
        }
        let view = View {
            alive: &|id| id == self.me.id || alive(id),
            fit: &|id| tenure.is_fit(id, Duration::from_millis(rules.stable_ms_min)),
            dead: &|id| {
                let silent = tenure.silence(id, self.contacts.since(id));
                let dead = |ms| silent >= Duration::from_millis(ms);
                id != self.me.id && rules.dead_member_timeout_ms.is_some_and(dead)
            },
            latest: &|name| self.store.registered(name).map(|(latest, _, _)| latest),
        };
        let change = next_change(membership, &view)?;
        let last_membership_log_id = *metrics.membership_config.log_id();
        Some((change, Precondition::LastMembershipLogId { last_membership_log_id }))
    }
}

impl Tenure {
    /// Remembers since when each of these has been a member, and these learners fit; one that was missing
    /// begins anew.
    fn note(&mut self, members: BTreeSet<NodeId>, fit: BTreeSet<NodeId>) {
        for (since, now) in [(&mut self.known_since, members), (&mut self.fit_since, fit)] {
            since.retain(|id, _| now.contains(id));
            for id in now {
                since.entry(id).or_insert_with(Instant::now);
            }
        }
    }

    /// How long a member has been silent towards this leader: one that only just became a member, or that
    /// this process never heard of, not for longer than the leader has known it.
    fn silence(&self, id: NodeId, last_contact: Option<Duration>) -> Duration {
        let known = self.known_since.get(&id).map_or(Duration::ZERO, Instant::elapsed);
        last_contact.map_or(known, |contact| contact.min(known))
    }

    fn is_fit(&self, id: NodeId, stable: Duration) -> bool {
        self.fit_since.get(&id).is_some_and(|since| since.elapsed() >= stable)
    }
}

/// What the leader knows of the members.
struct View<'a> {
    /// Heard of lately.
    alive: &'a dyn Fn(NodeId) -> bool,
    /// A learner that is alive and has caught up, for long enough.
    fit: &'a dyn Fn(NodeId) -> bool,
    /// Silent for so long that it is to be removed.
    dead: &'a dyn Fn(NodeId) -> bool,
    /// The id that was allotted to a name last; only that one counts.
    latest: &'a dyn Fn(&str) -> Option<NodeId>,
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
    /// Removes a member that was silent for too long.
    Bury { id: NodeId, is_voter: bool },
}

impl Change {
    fn into_openraft(self) -> ChangeMembers<NodeId, PeerNode> {
        match self {
            Change::Finish { voters } | Change::Promote { voters, .. } => {
                ChangeMembers::ReplaceAllVoters(voters)
            }
            Change::Bury { id, is_voter: true } => ChangeMembers::RemoveVoters(BTreeSet::from([id])),
            Change::Forget { id } | Change::Bury { id, is_voter: false } => {
                ChangeMembers::RemoveNodes(BTreeSet::from([id]))
            }
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
            Change::Bury { id, .. } => write!(f, "node {id} was silent for too long and is removed"),
        }
    }
}

fn next_change(membership: &Membership, view: &View<'_>) -> Option<Change> {
    match membership.get_joint_config().as_slice() {
        [_] => {}
        [.., target] => return Some(Change::Finish { voters: target.clone() }),
        [] => return None,
    }
    let node = |id: NodeId| membership.get_node(&id);
    let name = |id: NodeId| node(id).map(|node| node.name.as_str());
    let latest = |id: NodeId| name(id).and_then(view.latest);
    let superseded = |id: &NodeId| !(view.alive)(*id) && latest(*id).is_some_and(|l| l > *id);
    if let Some(id) = membership.learner_ids().find(superseded) {
        return Some(Change::Forget { id });
    }
    let lasting = |id: NodeId| node(id).is_some_and(|node| node.stays_learner);
    let ready = |id: &NodeId| (view.fit)(*id) && !lasting(*id) && latest(*id) == Some(*id);
    if let Some(id) = membership.learner_ids().find(ready) {
        let others = membership.voter_ids().filter(|voter| name(*voter) != name(id));
        return Some(Change::Promote { id, voters: others.chain([id]).collect() });
    }
    next_burial(membership, view)
}

/// A dead learner, or a dead voter if the rest keeps a quorum without it.
fn next_burial(membership: &Membership, view: &View<'_>) -> Option<Change> {
    if let Some(id) = membership.learner_ids().find(|id| (view.dead)(*id)) {
        return Some(Change::Bury { id, is_voter: false });
    }
    let id = membership.voter_ids().find(|id| (view.dead)(*id))?;
    let voters = membership.voter_ids().count();
    let living = membership.voter_ids().filter(|voter| *voter != id && (view.alive)(*voter)).count();
    // A majority of all of them commits the change, one of those that stay whatever comes after.
    (voters > VOTERS_MIN && living > voters / 2).then_some(Change::Bury { id, is_voter: true })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Ids with their names; the voters are given as one set, or two while a change is under way.
    fn membership(voters: &[&[NodeId]], nodes: &[(NodeId, &str)]) -> Membership {
        let voters = voters.iter().map(|set| set.iter().copied().collect()).collect();
        let node = |name: &str| PeerNode {
            name: name.into(),
            stays_learner: name.ends_with("lasting"),
            ..PeerNode::default()
        };
        let nodes = nodes.iter().map(|(id, name)| (*id, node(name)));
        Membership::new(voters, nodes.collect::<BTreeMap<_, _>>()).expect("valid")
    }

    const NODES: &[(NodeId, &str)] = &[(1, "a"), (2, "b"), (3, "c"), (4, "c"), (5, "c")];

    /// What the leader does when these nodes are fit, and these dead; the others are alive.
    fn change(
        voters: &[&[NodeId]],
        nodes: &[(NodeId, &str)],
        fit: &[NodeId],
        dead: &[NodeId],
    ) -> Option<Change> {
        let view = View {
            alive: &|id| !dead.contains(&id),
            fit: &|id| fit.contains(&id),
            dead: &|id| dead.contains(&id),
            latest: &|name| nodes.iter().filter(|(_, n)| *n == name).map(|(id, _)| *id).max(),
        };
        next_change(&membership(voters, nodes), &view)
    }

    /// A change that a leader left half done is ended before anything else.
    #[test]
    fn a_joint_configuration_is_brought_to_its_end() {
        let half = change(&[&[1, 2, 3], &[1, 2, 5]], NODES, &[4, 5], &[4]);
        assert_eq!(half, Some(Change::Finish { voters: BTreeSet::from([1, 2, 5]) }));
    }

    /// The latest id of a name takes the vote of the earlier one; the ones in between are forgotten.
    #[test]
    fn the_latest_id_of_a_name_replaces_the_earlier_ones() {
        let wiped_twice = change(&[&[1, 2, 3]], NODES, &[5], &[3, 4]);
        assert_eq!(wiped_twice, Some(Change::Forget { id: 4 }));
        let rest: Vec<_> = NODES.iter().copied().filter(|(id, _)| *id != 4).collect();
        let wiped = change(&[&[1, 2, 3]], &rest, &[5], &[3]);
        assert_eq!(wiped, Some(Change::Promote { id: 5, voters: BTreeSet::from([1, 2, 5]) }));
    }

    /// Nobody votes before it is fit, nor one that is to stay a learner.
    #[test]
    fn a_learner_waits_until_it_is_fit() {
        let nodes = &NODES[..3];
        assert_eq!(change(&[&[1, 2]], nodes, &[], &[]), None);
        let fit = change(&[&[1, 2]], nodes, &[3], &[]);
        assert_eq!(fit, Some(Change::Promote { id: 3, voters: BTreeSet::from([1, 2, 3]) }));
        let lasting = [(1, "a"), (2, "b"), (3, "lasting")];
        assert_eq!(change(&[&[1, 2]], &lasting, &[3], &[]), None);
    }

    /// Fit means without a break.
    #[test]
    fn fitness_begins_anew_after_a_break() {
        let mut tenure = Tenure::default();
        tenure.note(BTreeSet::new(), BTreeSet::from([3]));
        assert!(tenure.is_fit(3, Duration::ZERO));
        assert!(!tenure.is_fit(3, Duration::from_secs(3_600)));
        let since = tenure.fit_since[&3];
        tenure.note(BTreeSet::new(), BTreeSet::from([3]));
        assert_eq!(tenure.fit_since[&3], since);
        tenure.note(BTreeSet::new(), BTreeSet::new());
        assert!(!tenure.is_fit(3, Duration::ZERO));
    }

    /// Whoever has just become a member is given its time, however long the leader leads already.
    #[test]
    fn a_new_member_is_not_dead() {
        let long = Duration::from_secs(10);
        let mut tenure = Tenure::default();
        let long_ago = Instant::now().checked_sub(long).expect("the clock began when the machine did");
        tenure.known_since.insert(1, long_ago);
        tenure.note(BTreeSet::from([1, 2]), BTreeSet::new());
        assert!(tenure.silence(1, None) >= long);
        assert_eq!(tenure.silence(1, Some(Duration::ZERO)), Duration::ZERO);
        assert!(tenure.silence(2, None) < long);
        assert!(tenure.silence(2, Some(long)) < long);
    }

    /// The dead go one at a time, and only while a quorum of the living and three voters stay.
    #[test]
    fn the_dead_are_removed_while_a_quorum_stays() {
        let nodes: &[(NodeId, &str)] = &[(1, "a"), (2, "b"), (3, "c"), (4, "d"), (5, "e"), (6, "f")];
        let bury = |id, is_voter| Some(Change::Bury { id, is_voter });
        assert_eq!(change(&[&[1, 2, 3, 4, 5]], nodes, &[], &[]), None);
        assert_eq!(change(&[&[1, 2, 3, 4, 5]], nodes, &[], &[4, 5, 6]), bury(6, false));
        assert_eq!(change(&[&[1, 2, 3, 4, 5]], &nodes[..5], &[], &[4, 5]), bury(4, true));
        assert_eq!(
            change(&[&[1, 2, 3, 5]], &[nodes[0], nodes[1], nodes[2], nodes[4]], &[], &[5]),
            bury(5, true)
        );
        assert_eq!(change(&[&[1, 2, 3]], &nodes[..3], &[], &[3]), None, "two voters tolerate nothing");
        assert_eq!(change(&[&[1, 2, 3, 4]], &nodes[..4], &[], &[3, 4]), None, "no quorum for the change");
        assert_eq!(change(&[&[1, 2, 3, 4, 5]], &nodes[..5], &[], &[2, 3, 4, 5]), None, "no quorum");
    }
}
