//! Finding each other again after addresses changed: a node tells its peers where it is now, hears where
//! they are, and has the leader write its new address into the membership.
//!
//! Until that is committed, what was told is a hint for dialling and nothing more: see [`crate::book`].

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::timeout;
use vaultdb_kv::NodeId;

use crate::api::{Claim, JoinRequest, MemberOrder};
use crate::core::Core;
use crate::network::Lane;
use crate::standing::Watch;
use crate::types::StoredMembership;
use crate::wire::{Request, Response};

/// How often a node looks whether its peers know where it is, in milliseconds.
const TICK_MS: u64 = 250;
/// A node that heard of no leader for this long looks for its peers, in milliseconds.
const SEEK_MS: u64 = 1_000;
/// How long one exchange with a peer may take, in milliseconds.
const EXCHANGE_MS_MAX: u64 = 1_500;
/// How long the leader may take to write an address down, in milliseconds.
const MOVE_MS_MAX: u64 = 2_000;

/// Keeps this node and its peers known to each other, for as long as consensus runs.
pub async fn keep_in_touch(core: Arc<Core>) {
    let mut tick = tokio::time::interval(Duration::from_millis(TICK_MS));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut watch = Watch::default();
    loop {
        tick.tick().await;
        if core.fatal.borrow().is_some() || core.dismissed.borrow().is_some() {
            return;
        }
        let membership = core.membership();
        let unled = core.unled();
        let shown = membership.get_node(&core.me.id);
        let moved = shown.is_some_and(|shown| shown.addr != core.me.addr);
        let seeking = unled >= Duration::from_millis(SEEK_MS);
        core.seeking.store(seeking, Ordering::Relaxed);
        if seeking {
            core.announce(&membership).await;
        } else if moved {
            core.write_down_address().await;
        }
        if let Some(reason) = watch.look(&core, &membership, unled).await {
            log::error!("{reason}");
            core.dismissed.send_replace(Some(reason));
            return;
        }
    }
}

impl Core {
    pub fn heard_leader(&self) {
        let since_start = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.led_ms.store(since_start, Ordering::Relaxed);
    }

    /// How long no leader was heard of.
    pub fn unled(&self) -> Duration {
        if self.leadership().is_local {
            return Duration::ZERO;
        }
        let led = Duration::from_millis(self.led_ms.load(Ordering::Relaxed));
        self.started.elapsed().saturating_sub(led)
    }

    /// The other members, and whoever said that it is one.
    pub fn peers(&self, membership: &StoredMembership) -> BTreeSet<NodeId> {
        let claimed = self.links.book.claims().into_iter().map(|claim| claim.id);
        let members = membership.nodes().map(|(id, _)| *id);
        members.chain(claimed).filter(|id| *id != self.me.id).collect()
    }

    /// Calls a peer wherever it may be.
    pub async fn call_peer(&self, id: NodeId, request: Request, limit_ms: u64) -> Option<Response> {
        let addr = self.raft_addr(id).unwrap_or_default();
        let call = self.links.get(id, &addr, Lane::Control).call(request);
        timeout(Duration::from_millis(limit_ms), call).await.ok()?.ok()
    }

    fn claims(&self) -> Vec<Claim> {
        let own = Claim { id: self.me.id, addr: self.me.addr.clone(), since_ms: self.since_ms };
        let mut claims = self.links.book.claims();
        claims.push(own);
        claims
    }

    /// Takes what a peer says, and answers with what this node knows.
    pub fn exchange_claims(&self, from: NodeId, claims: Vec<Claim>) -> Vec<Claim> {
        for claim in claims.into_iter().filter(|claim| claim.id != self.me.id) {
            let from_itself = claim.id == from;
            self.links.book.learn(claim, from_itself);
        }
        self.claims()
    }

    async fn announce(&self, membership: &StoredMembership) {
        let exchanges = self.peers(membership).into_iter().map(|id| async move {
            let asked = self.call_peer(id, Request::Announce(self.claims()), EXCHANGE_MS_MAX).await;
            if let Some(Response::Announce(claims)) = asked {
                self.exchange_claims(id, claims);
            }
        });
        futures::future::join_all(exchanges).await;
    }

    async fn write_down_address(&self) {
        let member = JoinRequest {
            name: self.me.name.clone(),
            addr: self.me.addr.clone(),
            instance: Some(self.me.instance.clone()),
            stays_learner: false,
        };
        let order = MemberOrder::Move { id: self.me.id, member };
        let deadline = Instant::now() + Duration::from_millis(MOVE_MS_MAX);
        if let Err(e) = self.change_member(order, deadline).await {
            log::info!("the new address {} is not written down yet: {e}", self.me.addr.raft);
        }
    }
}
