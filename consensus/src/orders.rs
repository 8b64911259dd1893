//! Changes of one member that somebody asks for: remove it, promote it, write its new address down.
//!
//! Invariant: a voter goes only if, of those that stay, a majority answers at that moment and is up to date:
//! the cluster accepts writes before, during and after the change.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ClientWriteError, RaftError};
use openraft::{ChangeMembers, Precondition};
use parking_lot::Mutex;
use vaultdb_kv::{AdminError, NodeId};

use crate::api::{JoinRequest, MemberOrder, MemberReply};
use crate::core::Core;
use crate::membership::Attempt;
use crate::types::{Membership, PeerNode, StoredMembership, TypeConfig};
use crate::wire::{Request, Response};

/// How long a voter may take to show that it lives, in milliseconds.
const PING_MS_MAX: u64 = 1_000;
/// A voter further behind than this counts for no quorum that is to commit a change soon.
const UP_TO_DATE_ENTRIES_MAX: u64 = 10_000;

/// A membership of which the last change is committed and complete, and the condition that it is still so.
pub struct Settled {
    pub membership: Membership,
    pub unchanged: Precondition<TypeConfig>,
}

impl Settled {
    fn ids(&self, name: &str) -> BTreeSet<NodeId> {
        self.membership.nodes().filter(|(_, node)| node.name == name).map(|(id, _)| *id).collect()
    }

    fn voters(&self) -> BTreeSet<NodeId> {
        self.membership.voter_ids().collect()
    }
}

/// What was begun here and may have been ended by another leader.
type Begun = Mutex<Option<MemberReply>>;

impl Core {
    /// Carries the order out, on any node.
    ///
    /// # Errors
    /// [`AdminError::WouldLoseQuorum`], [`AdminError::NoSuchMember`], [`AdminError::Conflict`] when it cannot
    /// vote yet; the others as they say.
    pub async fn change_member(
        &self,
        order: MemberOrder,
        deadline: Instant,
    ) -> Result<MemberReply, AdminError> {
        let begun = Begun::default();
        let remote = |deadline_ms| Request::ChangeMember { order: order.clone(), deadline_ms };
        let local = || self.change_member_here(&order, &begun, deadline);
        let result = self
            .on_leader(deadline, local, remote, |r| match r {
                Response::ChangeMember(result) => Some(result),
                _ => None,
            })
            .await;
        let begun = begun.lock().clone();
        match (result, begun, &order) {
            (Err(AdminError::NoSuchMember { .. }), Some(done), MemberOrder::Remove { .. }) => Ok(done),
            (Err(AdminError::NoLeader), Some(_), _) => Err(AdminError::Unknown {
                reason: "begun, and not known to be done before the deadline".into(),
            }),
            (result, _, _) => result,
        }
    }

    async fn change_member_here(
        &self,
        order: &MemberOrder,
        begun: &Begun,
        deadline: Instant,
    ) -> Result<Attempt<MemberReply>, AdminError> {
        let _one_at_a_time = self.membership_change.lock().await;
        let Some(settled) = self.settled() else { return Ok(Attempt::Retry) };
        match order {
            MemberOrder::Remove { name } => self.remove(name, &settled, begun, deadline).await,
            MemberOrder::Promote { name } => self.promote(name, &settled, begun).await,
            MemberOrder::Move { id, member } => self.move_member(*id, member, &settled, begun).await,
        }
    }

    /// `None` while a change is under way.
    pub fn settled(&self) -> Option<Settled> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let effective: &StoredMembership = &metrics.membership_config;
        let last_membership_log_id = *effective.log_id();
        if last_membership_log_id != *metrics.committed_membership_config.log_id() {
            return None;
        }
        let membership = effective.membership().clone();
        if membership.get_joint_config().len() != 1 {
            return None;
        }
        Some(Settled { membership, unchanged: Precondition::LastMembershipLogId { last_membership_log_id } })
    }

    /// One step of the removal of every id that has the name: done when none is left.
    async fn remove(
        &self,
        name: &str,
        settled: &Settled,
        begun: &Begun,
        deadline: Instant,
    ) -> Result<Attempt<MemberReply>, AdminError> {
        let ids = settled.ids(name);
        let Some(latest) = ids.last() else {
            return Err(AdminError::NoSuchMember { name: name.to_owned() });
        };
        let voters = settled.voters();
        let going: BTreeSet<NodeId> = ids.intersection(&voters).copied().collect();
        if !going.is_empty() {
            let Attempt::Done(()) = self.keeps_quorum(&voters, &going).await? else {
                return Ok(Attempt::Retry);
            };
        }
        if ids.contains(&self.me.id) {
            return self.step_aside(deadline).await;
        }
        begun.lock().get_or_insert(MemberReply { name: name.to_owned(), id: *latest, changed: true });
        let learners: BTreeSet<NodeId> = ids.difference(&going).copied().collect();
        let change = match learners.is_empty() {
            true => ChangeMembers::RemoveVoters(going),
            false => ChangeMembers::RemoveNodes(learners),
        };
        log::info!("membership: \"{name}\", node {latest}, is removed: {change}");
        self.apply_change(change, settled).await?;
        Ok(Attempt::Retry)
    }

    /// A leader that is to go gives its place away first; whoever leads next removes it.
    async fn step_aside(&self, deadline: Instant) -> Result<Attempt<MemberReply>, AdminError> {
        let successor = self.best_successor().ok_or_else(|| AdminError::WouldLoseQuorum {
            reason: "no other voter could lead in its place".into(),
        })?;
        match self.hand_over(successor, deadline).await {
            // Not led by the successor is not lost: it may be tried again, until the deadline.
            Ok(()) | Err(AdminError::Unknown { .. }) => Ok(Attempt::Retry),
            Err(e) => Err(e),
        }
    }

    async fn promote(
        &self,
        name: &str,
        settled: &Settled,
        begun: &Begun,
    ) -> Result<Attempt<MemberReply>, AdminError> {
        let Some(id) = settled.ids(name).pop_last() else {
            return Err(AdminError::NoSuchMember { name: name.to_owned() });
        };
        let reply = MemberReply { name: name.to_owned(), id, changed: begun.lock().is_some() };
        let voters = settled.voters();
        if voters.contains(&id) {
            return Ok(Attempt::Done(reply));
        }
        if !self.answering(&BTreeSet::from([id])).await.contains(&id) {
            return Err(AdminError::Conflict { reason: format!("\"{name}\" does not answer") });
        }
        let behind = self.entries_behind(id);
        if behind.is_none_or(|entries| entries > self.autopilot.trailing_entries_max) {
            let behind = behind.map_or("the whole log".into(), |entries| format!("{entries} entries"));
            return Err(AdminError::Conflict { reason: format!("\"{name}\" is {behind} behind") });
        }
        begun.lock().get_or_insert(MemberReply { changed: true, ..reply });
        let node = settled.membership.get_node(&id).cloned().unwrap_or_default();
        let change = match node.stays_learner {
            true => {
                ChangeMembers::SetNodes(BTreeMap::from([(id, PeerNode { stays_learner: false, ..node })]))
            }
            // An earlier id of the name gives its vote up in the same change.
            false => {
                let earlier = settled.ids(name);
                let others = voters.into_iter().filter(|voter| !earlier.contains(voter));
                ChangeMembers::ReplaceAllVoters(others.chain([id]).collect())
            }
        };
        log::info!("membership: \"{name}\", node {id}, is promoted: {change}");
        self.apply_change(change, settled).await?;
        Ok(Attempt::Retry)
    }

    async fn move_member(
        &self,
        id: NodeId,
        member: &JoinRequest,
        settled: &Settled,
        begun: &Begun,
    ) -> Result<Attempt<MemberReply>, AdminError> {
        let known = settled.membership.get_node(&id).filter(|known| known.name == member.name);
        let Some(known) = known else { return Err(AdminError::NoSuchMember { name: member.name.clone() }) };
        let reply = MemberReply { name: known.name.clone(), id, changed: begun.lock().is_some() };
        if known.addr == member.addr {
            return Ok(Attempt::Done(reply));
        }
        // A request by hand is recognised by the registered address, so that one moves as well.
        let Attempt::Done(()) = self.register_founders().await? else { return Ok(Attempt::Retry) };
        match self.register(member).await? {
            Attempt::Retry => return Ok(Attempt::Retry),
            Attempt::Done((registered, _)) if registered == id => {}
            Attempt::Done((other, _)) => {
                let reason = format!("\"{}\" is registered as node {other}, not {id}", member.name);
                return Err(AdminError::Conflict { reason });
            }
        }
        begun.lock().get_or_insert(MemberReply { changed: true, ..reply });
        log::info!("node {id} \"{}\" moves from {} to {}", known.name, known.addr.raft, member.addr.raft);
        let node = PeerNode { addr: member.addr.clone(), ..known.clone() };
        self.apply_change(ChangeMembers::SetNodes(BTreeMap::from([(id, node)])), settled).await?;
        Ok(Attempt::Retry)
    }

    /// Makes the change if the membership is still the one it was worked out from; if it is not, or the
    /// change has to wait, whoever asked looks again.
    ///
    /// # Errors
    /// [`AdminError::Unavailable`] when consensus has stopped.
    async fn apply_change(
        &self,
        change: ChangeMembers<NodeId, PeerNode>,
        settled: &Settled,
    ) -> Result<(), AdminError> {
        match self.raft.change_membership_if(change, false, [settled.unchanged.clone()]).await {
            Ok(_) => Ok(()),
            Err(RaftError::APIError(
                e @ (ClientWriteError::ForwardToLeader(_)
                | ClientWriteError::ChangeMembershipError(_)
                | ClientWriteError::LogEntryDiscarded(_)
                | ClientWriteError::PreconditionFailed(_)),
            )) => {
                log::info!("membership: not yet: {e}");
                Ok(())
            }
            Err(RaftError::Fatal(_)) => Err(AdminError::Unavailable),
        }
    }

    /// Checks that voters can be given up: of those that stay a majority answers now and is up to date, and
    /// so does a majority of all of them, which has to commit the change. To be tried again while a new
    /// leader does not know yet how far they are.
    ///
    /// # Errors
    /// [`AdminError::WouldLoseQuorum`].
    pub async fn keeps_quorum(
        &self,
        voters: &BTreeSet<NodeId>,
        going: &BTreeSet<NodeId>,
    ) -> Result<Attempt<()>, AdminError> {
        let staying: BTreeSet<NodeId> = voters.difference(going).copied().collect();
        let lost = |reason: String| Err(AdminError::WouldLoseQuorum { reason });
        if staying.is_empty() {
            return lost("it is the only voter".into());
        }
        let answering = self.answering(voters).await;
        let behind = |id: &NodeId| match *id == self.me.id {
            true => Some(0),
            false => self.entries_behind(*id),
        };
        let behind: Vec<Option<u64>> = staying.intersection(&answering).map(behind).collect();
        let ready = behind.iter().filter(|n| n.is_some_and(|n| n <= UP_TO_DATE_ENTRIES_MAX)).count();
        let unknown = behind.iter().filter(|n| n.is_none()).count();
        let needed = staying.len() / 2 + 1;
        if ready < needed && ready + unknown >= needed {
            return Ok(Attempt::Retry);
        }
        if ready < needed {
            return lost(format!(
                "of the {} voters that would stay, {ready} answer and are up to date, {needed} are needed",
                staying.len()
            ));
        }
        let needed = voters.len() / 2 + 1;
        if answering.len() < needed {
            return lost(format!(
                "of the {} voters {} answer, {needed} are needed for a change",
                voters.len(),
                answering.len()
            ));
        }
        Ok(Attempt::Done(()))
    }

    /// Those of the nodes that answer at this moment.
    pub async fn answering(&self, ids: &BTreeSet<NodeId>) -> BTreeSet<NodeId> {
        let asked = ids.iter().map(|id| async move {
            let lives = *id == self.me.id || self.call_peer(*id, Request::Ping, PING_MS_MAX).await.is_some();
            lives.then_some(*id)
        });
        futures::future::join_all(asked).await.into_iter().flatten().collect()
    }

    /// How far a node's log is behind this leader's; `None` when that is not known.
    fn entries_behind(&self, id: NodeId) -> Option<u64> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let matched = metrics.replication.as_ref()?.get(&id)?.as_ref()?.index();
        Some(metrics.last_log_index.unwrap_or(0).saturating_sub(matched))
    }
}
