//! Compares this node's state with the other voters', now and then, and ends this node if it is the one that is wrong.
//!
//! Chains of hashes are exchanged and compared ([`crate::agreement`]); the data itself is not read. Every node does so
//! for itself, so that a node that is wrong needs nobody's word but that of a majority.
//!
//! Invariant: a node judges itself only by what it told those whose answers it judges by. So when one ends, a majority
//! has what it differs in, and has told it, and the next comparison of each shows who it was.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::{interval, MissedTickBehavior};
use vaultdb_kv::NodeId;
use vaultdb_storage::Checkpoint;

use crate::agreement::{judge, Findings};
use crate::core::Core;
use crate::types::StoredMembership;
use crate::wire::{Request, Response};

/// How long a peer may take to tell its checkpoints, in milliseconds: they are in its memory.
const ANSWER_MS_MAX: u64 = 1_000;
/// Longest election timeouts that a leader whose state is wrong waits for a successor.
const HAND_OVER_TIMEOUTS_MAX: u32 = 2;

/// Runs for as long as consensus does; not at all with an interval of 0.
pub async fn compare_replicas(core: Arc<Core>, interval_ms: u64) {
    if interval_ms == 0 {
        return;
    }
    let mut tick = interval(Duration::from_millis(interval_ms));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        if core.fatal.borrow().is_some() || core.dismissed.borrow().is_some() {
            return;
        }
        let membership = core.membership();
        let findings = compare(&core, &membership).await;
        report(&core, &membership, &findings);
        if let Some(index) = findings.minority {
            leave(&core, index).await;
            return;
        }
    }
}

async fn compare(core: &Core, membership: &StoredMembership) -> Findings {
    let voters = membership.membership().get_joint_config().clone();
    let peers: BTreeSet<NodeId> = voters.iter().flatten().copied().filter(|id| *id != core.me.id).collect();
    // Before the others are asked: each answer is newer, and what they tell meanwhile counts the next time.
    let mut heard = core.agreement.take_heard();
    heard.retain(|id, _| membership.get_node(id).is_some());
    let own = core.store.tell_checkpoints();
    let own = &own;
    let asked = peers.into_iter().map(|id| async move { Some((id, exchange(core, id, own).await?)) });
    let answers: Vec<_> = futures::future::join_all(asked).await.into_iter().flatten().collect();
    let answered = answers.iter().map(|(id, _)| *id).collect();
    heard.extend(answers);
    let findings = judge(core.me.id, own, &heard, &answered, &voters);
    core.agreement.put_back(heard);
    findings
}

async fn exchange(core: &Core, id: NodeId, own: &[Checkpoint]) -> Option<Vec<Checkpoint>> {
    match core.call_peer(id, Request::ExchangeCheckpoints(own.to_vec()), ANSWER_MS_MAX).await {
        Some(Response::Checkpoints(checkpoints)) => Some(checkpoints),
        Some(_) | None => None,
    }
}

fn report(core: &Core, membership: &StoredMembership, findings: &Findings) {
    let news = core.agreement.note(findings, |id| membership.get_node(&id).is_some());
    for (id, index, is_minority) in news {
        let name = membership.get_node(&id).map_or("", |node| node.name.as_str());
        match is_minority {
            true => log::error!("the state of node {id} \"{name}\" differs from the majority's at log index {index}"),
            false => log::error!(
                "the state of node {id} \"{name}\" differs from this node's at log index {index}, and no majority \
                 agrees on either"
            ),
        }
    }
}

/// A leader that is wrong gives its place away first, if anybody takes it in time.
async fn leave(core: &Arc<Core>, index: u64) {
    let reason = format!(
        "the state of this node differs from what a majority of the voters has at log index {index}: it must not be used"
    );
    log::error!("{reason}");
    if core.leadership().is_local {
        if let Some(successor) = core.best_successor() {
            let patience =
                Duration::from_millis(core.timing.election_timeout_ms_max) * HAND_OVER_TIMEOUTS_MAX;
            if let Err(e) = core.hand_over(successor, Instant::now() + patience).await {
                log::warn!("leadership was not handed over: {e}");
            }
        }
    }
    core.quarantine(&reason);
}
