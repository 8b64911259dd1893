//! Forming a cluster with other new nodes: looks at all peers until there is a cluster to join or a plan that
//! all of them hold. What makes it safe is in `vaultdb_consensus::formation`.

use std::collections::HashMap;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use serde::Deserialize;
use tokio::time::timeout;
use vaultdb_consensus::formation::{ask, FormAnswer, FormCall, Formation, Newcomer, Plan};
use vaultdb_consensus::identity::Identity;
use vaultdb_kv::MemberAddr;

use crate::boot::BootError;
use crate::join::get;

/// Wait after a look at all peers, in milliseconds: first and longest. A peer that starts calls itself.
const PAUSE_MS: (u64, u64) = (25, 500);
/// Shortest time between two looks, so that peers that see each other look do not do so without end.
const LOOK_MS_MIN: u64 = 5;

/// With whom a new node forms a cluster.
#[derive(Debug, Clone)]
pub struct FormOptions {
    /// How many nodes found it, this one included.
    pub expect: usize,
    /// HTTP addresses of all of them, or of all others.
    pub peers: Vec<String>,
}

/// What came of it.
pub(crate) enum Formed {
    /// There is a cluster, which this node is no founder of, or no longer.
    Join,
    /// A cluster is begun. `proposed`: by this node, and nobody else knows of it yet.
    Begun { plan: Plan, proposed: bool },
}

/// The part of `GET /status` that tells where the Raft port is.
#[derive(Deserialize)]
struct Status {
    node: NodeStatus,
}

#[derive(Deserialize)]
struct NodeStatus {
    raddr: String,
}

/// Returns once there is a cluster; until then this node answers the others on its Raft port.
///
/// # Errors
/// [`BootError::Failed`] when the Raft port cannot be used.
pub(crate) async fn form(
    options: &FormOptions,
    identity: &Identity,
    addr: &MemberAddr,
    listener: &TcpListener,
) -> Result<Formed, BootError> {
    let fail = |e: std::io::Error| BootError::Failed(format!("the Raft port: {e}"));
    let me = Newcomer {
        name: identity.name.clone(),
        instance: identity.instance.clone(),
        raft: addr.raft.clone(),
        http: addr.http.clone(),
    };
    let formation = Formation::new(me);
    let serve = formation.clone().serve(listener.try_clone().map_err(fail)?);
    // Dropped with this future, and the port is free for consensus.
    tokio::select! {
        formed = look_around(options, &formation) => Ok(formed),
        served = serve => Err(fail(served.err().unwrap_or_else(|| std::io::ErrorKind::Other.into()))),
    }
}

async fn look_around(options: &FormOptions, formation: &Formation) -> Formed {
    let mut raft_addrs = HashMap::new();
    let (mut pause_ms, longest_ms) = PAUSE_MS;
    let mut said = String::new();
    loop {
        let answers = look(&options.peers, &mut raft_addrs, formation).await;
        if let Some(plan) = formation.begun() {
            return Formed::Begun { plan, proposed: false };
        }
        if let Some(formed) = existing(&answers, &formation.me().instance) {
            return formed;
        }
        let line = match see_all(options, formation, &answers) {
            Ok(all) if all[0] == *formation.me() => match propose(formation, &all).await {
                Ok(plan) => return Formed::Begun { plan, proposed: true },
                Err(reason) => reason,
            },
            Ok(all) => format!("all {} nodes are there, \"{}\" proposes the cluster", all.len(), all[0].name),
            Err(reason) => reason,
        };
        // The same once is enough: this may go on for long.
        if line != said {
            log::info!("no cluster yet: {line}");
            said = line;
            pause_ms = PAUSE_MS.0;
        }
        tokio::time::sleep(Duration::from_millis(LOOK_MS_MIN)).await;
        // Either way it is time to look again.
        drop(timeout(Duration::from_millis(pause_ms), formation.called()).await);
        pause_ms = (pause_ms * 2).min(longest_ms);
    }
}

type Answers<'a> = Vec<(&'a str, Result<FormAnswer, String>)>;

/// Asks each peer on its Raft port, which its HTTP port tells of.
async fn look<'a>(
    peers: &'a [String],
    raft_addrs: &mut HashMap<String, String>,
    formation: &Formation,
) -> Answers<'a> {
    let looks = peers.iter().map(|peer| {
        let known = raft_addrs.get(peer).cloned();
        async move {
            let raft = match known {
                Some(raft) => raft,
                None => match get(peer, "/status").await {
                    Ok(Status { node }) => node.raddr,
                    Err(reason) => return (peer, None, Err(reason)),
                },
            };
            let answer = ask(&raft, FormCall::Look { instance: formation.me().instance.clone() }).await;
            (peer, answer.is_ok().then_some(raft), answer)
        }
    });
    let mut answers = Vec::with_capacity(peers.len());
    for (peer, raft, answer) in join_all(looks).await {
        match raft {
            Some(raft) => drop(raft_addrs.insert(peer.clone(), raft)),
            // It may come back with another one.
            None => drop(raft_addrs.remove(peer)),
        }
        answers.push((peer.as_str(), answer));
    }
    answers
}

/// A cluster that one of the peers belongs to.
fn existing(answers: &Answers, instance: &str) -> Option<Formed> {
    let mut found = None;
    for (_, answer) in answers {
        if let Ok(FormAnswer::Member { cluster, has_leader }) = answer {
            // While nobody leads, nobody can let this node in: its own vote may be what is missing.
            let founded = !has_leader && cluster.id_of(instance).is_some();
            found = Some(match founded {
                true => Formed::Begun { plan: cluster.clone(), proposed: false },
                false => Formed::Join,
            });
            if *has_leader {
                break;
            }
        }
    }
    found
}

/// All nodes that are expected, in the order of their names; or why they are not all there.
fn see_all(options: &FormOptions, formation: &Formation, answers: &Answers) -> Result<Vec<Newcomer>, String> {
    let mut all = vec![formation.me().clone()];
    let mut missing = Vec::new();
    for (peer, answer) in answers {
        match answer {
            Ok(FormAnswer::Newcomer(node)) => all.push(node.clone()),
            Ok(FormAnswer::Held | FormAnswer::Member { .. }) => missing.push(format!("{peer}: no newcomer")),
            Err(reason) => missing.push(format!("{peer}: {reason}")),
        }
    }
    all.sort();
    all.dedup();
    let names_differ = all.windows(2).all(|two| two[0].name != two[1].name);
    let complete = all.len() == options.expect && names_differ;
    formation.see(if complete { all.clone() } else { Vec::new() });
    if !names_differ {
        return Err("two of the peers have the same name".into());
    }
    if all.len() > options.expect {
        return Err(format!("{} nodes are there, {} are expected", all.len(), options.expect));
    }
    match complete {
        true => Ok(all),
        false => Err(format!("{} of {} nodes: {}", all.len(), options.expect, missing.join("; "))),
    }
}

/// Begins a cluster of all if each other holds the plan.
async fn propose(formation: &Formation, all: &[Newcomer]) -> Result<Plan, String> {
    let again = || "a plan is begun elsewhere".to_owned();
    let plan = formation.propose().ok_or_else(again)?;
    let others = all.iter().filter(|node| node.instance != formation.me().instance);
    let held = join_all(others.map(|node| async {
        match ask(&node.raft, FormCall::Hold(plan.clone())).await {
            Ok(FormAnswer::Held) => Ok(()),
            Ok(_) => Err(format!("\"{}\" does not see all yet", node.name)),
            Err(reason) => Err(format!("\"{}\": {reason}", node.name)),
        }
    }));
    held.await.into_iter().collect::<Result<(), String>>()?;
    match formation.begin(&plan) {
        true => Ok(plan),
        false => Err(again()),
    }
}

/// Tells the others of a cluster that is durable here. Who is not reached finds out when it looks.
pub(crate) fn tell_begun(plan: &Plan, instance: &str) {
    let plan = Arc::new(plan.clone());
    for founder in plan.founders.iter().filter(|founder| founder.instance != instance) {
        let (raft, plan) = (founder.addr.raft.clone(), plan.clone());
        tokio::spawn(async move {
            if let Err(reason) = ask(&raft, FormCall::Begun((*plan).clone())).await {
                log::debug!("{raft} does not hear that the cluster is begun: {reason}");
            }
        });
    }
}
