//! Joining and moving leadership. All of it runs on the leader, one change at a time.
//!
//! Invariant: a node that lost its disk never votes under its old id: it joins under a new one.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ClientWriteError, RaftError};
use openraft::ChangeMembers;
use tokio::time::{sleep, timeout_at};
use vaultdb_kv::{AdminError, ApplyResult, Command, MemberAddr, NodeId};

use crate::api::{JoinReply, JoinRequest, Leader, ProposeError};
use crate::core::{shared, Core};
use crate::types::{Membership, PeerNode, StoredMembership, TypeConfig};
use crate::watchdog::see_through;
use crate::wire::{Request, Response};

/// A member that was heard of within this time is alive.
pub const CONTACT_MS_MAX: u64 = 2_000;
/// Pause before a step that failed for now is tried again, in milliseconds.
const RETRY_MS: u64 = 25;

/// Whether trying again, perhaps elsewhere, can help.
pub enum Attempt<T> {
    Done(T),
    /// Certainly not done; leadership may have moved.
    Retry,
}

type WriteFailure = RaftError<TypeConfig, ClientWriteError<TypeConfig>>;

impl Core {
    /// Adds a node as a learner and answers with its id. Idempotent. Works on any node.
    ///
    /// # Errors
    /// [`AdminError::Conflict`] when a living member has that name; the others as they say.
    pub async fn join(&self, request: JoinRequest, deadline: Instant) -> Result<JoinReply, AdminError> {
        if let Some(reason) = self.is_elsewhere(&request).await {
            return Err(AdminError::Conflict { reason });
        }
        let remote = |deadline_ms| {
            let request = request.clone();
            match request.stays_learner {
                true => Request::JoinLearner { request, deadline_ms },
                false => Request::Join { request, deadline_ms },
            }
        };
        self.on_leader(
            deadline,
            || self.join_here(&request),
            remote,
            |r| match r {
                Response::Join(result) => Some(result),
                _ => None,
            },
        )
        .await
    }

    /// Moves leadership to the named voter, or to the best one. Answers with the new leader's name.
    ///
    /// # Errors
    /// As they say.
    pub async fn move_leader(&self, to: Option<String>, deadline: Instant) -> Result<String, AdminError> {
        let remote =
            |to: Option<String>| move |deadline_ms| Request::MoveLeader { to: to.clone(), deadline_ms };
        self.on_leader(
            deadline,
            || self.move_leader_here(to.clone(), deadline),
            remote(to.clone()),
            |r| match r {
                Response::MoveLeader(result) => Some(result),
                _ => None,
            },
        )
        .await
    }

    /// Runs `local` where this node leads, else sends `remote` to the leader; again until the deadline
    /// while nobody leads.
    pub async fn on_leader<T, L, F>(
        &self,
        deadline: Instant,
        local: L,
        remote: impl Fn(u64) -> Request,
        unwrap: impl Fn(Response) -> Option<Result<T, AdminError>>,
    ) -> Result<T, AdminError>
    where
        L: Fn() -> F,
        F: Future<Output = Result<Attempt<T>, AdminError>>,
    {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(AdminError::NoLeader);
            }
            let leadership = self.leadership();
            match &leadership.leader {
                Some(_) if leadership.is_local => match timeout_at(deadline.into(), local()).await {
                    Ok(Ok(Attempt::Done(value))) => return Ok(value),
                    Ok(Ok(Attempt::Retry)) => {}
                    Ok(Err(e)) => return Err(e),
                    Err(_) => {
                        return Err(AdminError::Unknown { reason: "not done before the deadline".into() })
                    }
                },
                Some(leader) => {
                    let ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
                    if let Some(result) = self.ask(leader, remote(ms), deadline, &unwrap).await {
                        return result;
                    }
                }
                None => {}
            }
            sleep(Duration::from_millis(RETRY_MS)).await;
        }
    }

    /// `None` when the leader was not reached, or no longer leads: nothing was done.
    async fn ask<T>(
        &self,
        leader: &Leader,
        request: Request,
        deadline: Instant,
        unwrap: impl Fn(Response) -> Option<Result<T, AdminError>>,
    ) -> Option<Result<T, AdminError>> {
        let unknown = |reason: String| Some(Err(AdminError::Unknown { reason }));
        match timeout_at(deadline.into(), self.link(leader).call(request)).await {
            Ok(Ok(Response::Refused(_))) | Ok(Err(crate::link::LinkError::NotSent(_))) => None,
            Ok(Ok(response)) => match unwrap(response) {
                Some(Err(AdminError::NoLeader)) => None,
                Some(result) => Some(result),
                None => unknown("the leader gave an unexpected answer".into()),
            },
            Ok(Err(e)) => unknown(e.to_string()),
            Err(_) => unknown("no answer before the deadline".into()),
        }
    }

    /// The effective membership: also one that is not committed yet.
    pub fn membership(&self) -> Arc<StoredMembership> {
        self.raft.server_metrics().borrow_watched().membership_config.clone()
    }

    async fn join_here(&self, request: &JoinRequest) -> Result<Attempt<JoinReply>, AdminError> {
        let _one_at_a_time = self.membership_change.lock().await;
        // Nothing is registered before the change can follow at once: see `give_up_earlier_id`.
        let Some(settled) = self.settled() else { return Ok(Attempt::Retry) };
        if let Some(reason) = self.name_is_taken(&settled.membership, request) {
            return Err(AdminError::Conflict { reason });
        }
        // The ids of those who made the cluster come first.
        let Attempt::Done(()) = self.register_founders().await? else { return Ok(Attempt::Retry) };
        // That is applied, and with it every change before it.
        let membership = self.applied_membership().map_err(|reason| AdminError::Unknown { reason })?;
        let Attempt::Done(()) = self.give_up_earlier_id(&membership, &request.name).await? else {
            return Ok(Attempt::Retry);
        };
        let Attempt::Done((id, revision)) = self.register(request).await? else { return Ok(Attempt::Retry) };
        let reply = JoinReply { cluster_id: self.me.cluster_id.clone(), id, revision };
        let known = membership.get_node(&id);
        // Whoever comes back under a voter's name takes its vote over.
        let mut voters = membership.voter_ids().filter_map(|id| membership.get_node(&id));
        let votes = voters.any(|voter| voter.name == request.name);
        let stays_learner = known.map_or(request.stays_learner && !votes, |known| known.stays_learner);
        let mut addr = request.addr.clone();
        if let Some(known) = known.filter(|known| addr.http.is_empty() && known.addr.may_be(&addr)) {
            addr.http.clone_from(&known.addr.http);
        }
        let node = PeerNode { name: request.name.clone(), addr, stays_learner };
        match known {
            Some(known) if *known == node => Ok(Attempt::Done(reply)),
            // The same data directory asks from another address than before, or its HTTP address is told at last.
            Some(known) if request.instance.is_some() || known.addr.may_be(&node.addr) => {
                log::info!(
                    "node {id} \"{}\" moves from {} to {}",
                    node.name,
                    known.addr.raft,
                    node.addr.raft
                );
                let moved = ChangeMembers::SetNodes(BTreeMap::from([(id, node)]));
                match self.raft.change_membership(moved, true).await {
                    Ok(_) => Ok(Attempt::Done(reply)),
                    Err(e) => change_failed(e),
                }
            }
            Some(known) => {
                let reason = format!("\"{}\" is a member at {}", request.name, known.addr.raft);
                Err(AdminError::Conflict { reason })
            }
            None => {
                log::info!("node {id} \"{}\" at {} joins as a learner", node.name, node.addr.raft);
                match self.raft.add_learner(id, node, false).await {
                    Ok(_) => Ok(Attempt::Done(reply)),
                    Err(e) => change_failed(e),
                }
            }
        }
    }

    /// Why a request by hand is refused at once: what listens at the address belongs to another cluster. A
    /// node that asks for itself belongs to none yet, and one that does not run yet cannot be asked.
    async fn is_elsewhere(&self, request: &JoinRequest) -> Option<String> {
        if request.instance.is_some() {
            return None;
        }
        let other = self.links.cluster_at(&request.addr.raft).await?;
        (other != self.me.cluster_id)
            .then(|| format!("the node at {} belongs to another cluster, {other}", request.addr.raft))
    }

    /// A name whose registered id is no member was removed, or never got in: that id is not given out again.
    /// Registering what no node can present makes the next request a new one.
    async fn give_up_earlier_id(
        &self,
        membership: &Membership,
        name: &str,
    ) -> Result<Attempt<()>, AdminError> {
        let Some((id, ..)) = self.store.registered(name) else { return Ok(Attempt::Done(())) };
        if membership.get_node(&id).is_some() {
            return Ok(Attempt::Done(()));
        }
        let nobody = JoinRequest {
            name: name.to_owned(),
            addr: MemberAddr::default(),
            instance: Some(format!("none: {id} was removed")),
            stays_learner: false,
        };
        Ok(match self.register(&nobody).await? {
            Attempt::Done(_) => Attempt::Done(()),
            Attempt::Retry => Attempt::Retry,
        })
    }

    /// Why the name cannot be given to whoever asks: it is another, living node's.
    fn name_is_taken(&self, membership: &Membership, request: &JoinRequest) -> Option<String> {
        let registered = self.store.registered(&request.name);
        let same = |id: NodeId, node: &PeerNode| match &registered {
            // The same data directory asks again, or a person repeats the request.
            Some((known, instance, _)) if *known == id => match (&request.instance, instance) {
                (Some(asked), Some(known)) => asked == known,
                (None, _) | (_, None) => node.addr.may_be(&request.addr),
            },
            _ => false,
        };
        let alive = |id: NodeId| {
            id == self.me.id
                || self.contacts.since(id).is_some_and(|t| t < Duration::from_millis(CONTACT_MS_MAX))
        };
        membership
            .nodes()
            .find(|(id, node)| node.name == request.name && !same(**id, node) && alive(**id))
            .map(|(_, node)| format!("a living member at {} is called \"{}\"", node.addr.raft, node.name))
    }

    pub async fn register(&self, request: &JoinRequest) -> Result<Attempt<(NodeId, u64)>, AdminError> {
        let command = Command::RegisterNode {
            name: request.name.clone(),
            instance: request.instance.clone(),
            addr: request.addr.clone(),
        };
        let deadline = Instant::now() + Duration::from_millis(CONTACT_MS_MAX);
        match self.propose(shared(vec![Arc::new(command)]), deadline).await.pop() {
            Some(Ok(committed)) => match committed.applied.result {
                ApplyResult::NodeRegistered { id } => Ok(Attempt::Done((id, committed.applied.revision))),
                other => Err(AdminError::Unknown { reason: format!("registering answered {other:?}") }),
            },
            // Registering twice is harmless, so an unknown outcome may be tried again.
            Some(Err(
                ProposeError::NotLeader
                | ProposeError::Unreachable { .. }
                | ProposeError::Unknown { .. }
                | ProposeError::Overloaded
                | ProposeError::OutOfSpace(_),
            ))
            | None => Ok(Attempt::Retry),
            Some(Err(ProposeError::Stopping)) => Err(AdminError::Unavailable),
        }
    }

    async fn move_leader_here(
        &self,
        to: Option<String>,
        deadline: Instant,
    ) -> Result<Attempt<String>, AdminError> {
        let membership = self.membership();
        let voters: BTreeSet<NodeId> = membership.voter_ids().collect();
        let target = match &to {
            Some(name) => {
                let named = membership.nodes().filter(|(_, node)| node.name == *name).map(|(id, _)| *id);
                let Some(id) = named.max_by_key(|id| voters.contains(id)) else {
                    return Err(AdminError::NoSuchMember { name: name.clone() });
                };
                if !voters.contains(&id) {
                    return Err(AdminError::Conflict { reason: format!("\"{name}\" is not a voter") });
                }
                id
            }
            None => match self.best_successor() {
                Some(id) => id,
                None => return Err(AdminError::Conflict { reason: "there is no other voter".into() }),
            },
        };
        let name = membership.get_node(&target).map(|n| n.name.clone()).unwrap_or_default();
        if target == self.me.id {
            return Ok(Attempt::Done(name));
        }
        self.hand_over(target, deadline).await?;
        Ok(Attempt::Done(name))
    }

    /// The voter, other than this node, whose log is furthest on among those heard of lately.
    pub fn best_successor(&self) -> Option<NodeId> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let replication = metrics.replication.as_ref()?;
        let voters: BTreeSet<NodeId> = metrics.membership_config.voter_ids().collect();
        replication
            .iter()
            .filter(|(id, _)| **id != self.me.id && voters.contains(id))
            .filter(|(id, _)| {
                self.contacts
                    .since(**id)
                    .is_some_and(|t| t < Duration::from_millis(self.timing.election_timeout_ms_max))
            })
            .max_by_key(|(_, matched)| matched.as_ref().map_or(0, |id| id.index()))
            .map(|(id, _)| *id)
    }

    /// Asks openraft to hand leadership over and waits until the target leads.
    pub async fn hand_over(&self, target: NodeId, deadline: Instant) -> Result<(), AdminError> {
        let mut leadership = self.leadership.subscribe();
        if self.raft.trigger().transfer_leader(target).await.is_err() {
            return Err(AdminError::Unavailable);
        }
        let patience = Duration::from_millis(self.timing.election_timeout_ms_max);
        self.runtime.spawn(see_through(self.raft.clone(), self.leadership.subscribe(), patience));
        let moved = leadership.wait_for(|l| l.leader.as_ref().is_some_and(|leader| leader.id == target));
        let outcome = timeout_at(deadline.into(), moved).await.map(|moved| moved.is_ok());
        match outcome {
            Ok(true) => Ok(()),
            Ok(false) => Err(AdminError::Unavailable),
            Err(_) => {
                Err(AdminError::Unknown { reason: "the successor did not lead before the deadline".into() })
            }
        }
    }
}

/// What a refused change of membership means for whoever asked.
fn change_failed<T>(e: WriteFailure) -> Result<Attempt<T>, AdminError> {
    match e {
        RaftError::APIError(ClientWriteError::ForwardToLeader(_)) => Ok(Attempt::Retry),
        RaftError::APIError(ClientWriteError::ChangeMembershipError(e)) => {
            log::debug!("a change of membership has to wait: {e}");
            Ok(Attempt::Retry)
        }
        RaftError::APIError(
            e @ (ClientWriteError::LogEntryDiscarded(_) | ClientWriteError::PreconditionFailed(_)),
        ) => Err(AdminError::Unknown { reason: e.to_string() }),
        RaftError::Fatal(_) => Err(AdminError::Unavailable),
    }
}
