//! Whether a node still belongs to the cluster whose data it has: one that does not must not go on.
//!
//! Invariant: a node gives up only on proof. That it was removed is told by a peer from a membership that a
//! quorum confirmed after the question; that it is in the wrong place only counts while no member of its
//! own cluster was ever heard of.

use std::time::{Duration, Instant};

use tokio::time::timeout;

use crate::api::Standing;
use crate::codec;
use crate::core::Core;
use crate::types::{Membership, StoredMembership};
use crate::wire::{Proof, Request, Response};

/// A node that heard of no leader for this long asks whether it still is a member, in milliseconds.
const ASK_UNLED_MS: u64 = 2_000;
/// Pause between two such rounds, in milliseconds.
const ASK_PAUSE_MS: u64 = 1_000;
/// How long the answer may take, in milliseconds: a round to the leader and its quorum.
const ANSWER_MS_MAX: u64 = 2_000;
/// A node that heard of nobody but another cluster for this long has that cluster's address list, or another
/// cluster's data, in milliseconds.
const MISPLACED_MS: u64 = 5_000;

/// What a node keeps between two looks at its own standing.
#[derive(Debug, Default)]
pub struct Watch {
    asked: Option<Instant>,
}

impl Watch {
    /// Why the node must not go on; `None` while it may.
    pub async fn look(
        &mut self,
        core: &Core,
        membership: &StoredMembership,
        unled: Duration,
    ) -> Option<String> {
        let expelled = !core.leadership().is_local
            && membership.log_id().is_some()
            && membership.get_node(&core.me.id).is_none();
        let asks = expelled || unled >= Duration::from_millis(ASK_UNLED_MS);
        let rested = self.asked.is_none_or(|asked| asked.elapsed() >= Duration::from_millis(ASK_PAUSE_MS));
        if asks && rested {
            let removed = ask(core, membership).await;
            self.asked = Some(Instant::now());
            if removed {
                return Some(format!(
                    "node {} \"{}\" was removed from cluster {}: empty its data directory to let it join anew",
                    core.me.id, core.me.name, core.me.cluster_id
                ));
            }
        }
        misplaced(core, unled)
    }
}

/// Whether a peer tells that this node is a member no longer.
async fn ask(core: &Core, membership: &StoredMembership) -> bool {
    // The peer waits for its leader, and then for its own store.
    let limit_ms = 2 * ANSWER_MS_MAX;
    let ask = |id| core.call_peer(id, Request::GetStanding, limit_ms);
    let answers = futures::future::join_all(core.peers(membership).into_iter().map(ask)).await;
    answers.into_iter().flatten().any(|answer| matches!(answer, Response::Standing(Standing::Removed)))
}

fn misplaced(core: &Core, unled: Duration) -> Option<String> {
    let lost = unled >= Duration::from_millis(MISPLACED_MS) && core.contacts.is_empty();
    let (addr, other) = core.links.book.other_cluster().filter(|_| lost)?;
    Some(format!(
        "the data of node {} \"{}\" belongs to cluster {}, but {addr} belongs to cluster {other}, and no member \
         of its own cluster answers: start it with its own data directory or its own cluster's addresses",
        core.me.id, core.me.name, core.me.cluster_id
    ))
}

impl Core {
    /// What the cluster says of a node id, confirmed by a quorum after the call began.
    ///
    /// # Errors
    /// In words, when no leader confirms in time.
    pub async fn standing(&self, id: vaultdb_kv::NodeId) -> Result<Standing, String> {
        let index = self.read_index(Proof::Quorum).await?;
        let mut applied = self.applied.clone();
        let reached = applied.wait_for(|applied| *applied >= index);
        match timeout(Duration::from_millis(ANSWER_MS_MAX), reached).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) => return Err("consensus stopped".into()),
            Err(_) => return Err("this node lags behind".into()),
        }
        Ok(match self.applied_membership()?.get_node(&id) {
            Some(_) => Standing::Member,
            None => Standing::Removed,
        })
    }

    /// The membership as this node has applied it: exact, where openraft's metrics may be a moment old.
    ///
    /// # Errors
    /// In words, when there is none yet or it cannot be read.
    pub fn applied_membership(&self) -> Result<Membership, String> {
        let (_, bytes) = self.store.applied().membership.ok_or("there is no membership yet")?;
        codec::decode_membership(&bytes).map_err(|e| e.to_string())
    }
}
