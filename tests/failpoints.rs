//! The leader dies at each stage of a write, and followers before and after their fsync: no acknowledged
//! write is lost, and none that was answered "not applied" appears.
//!
//! Needs a binary with debug assertions, as tests are built: others have no failpoints.

#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use support::{eventually, Cluster, History, Load, LoadPlan, Request};

/// Passes of the place before the process dies there: enough to be in the middle of the load.
const PASSES: u64 = 60;
const DIES_LIMIT: Duration = Duration::from_secs(20);
const RESUME_LIMIT: Duration = Duration::from_secs(20);
const VARIABLE: &str = "VAULT_FAILPOINT";

/// Places on the leader, in the order in which a write passes them.
const LEADER: [&str; 8] = [
    "write-received",
    "write-queued",
    "write-handed",
    "append-unsynced",
    "append-synced",
    "committed-unapplied",
    "applied-unanswered",
    "answer-unwritten",
];
const FOLLOWER: [&str; 2] = ["append-unsynced", "append-synced"];

/// Starts a node again so that it will die at `place`.
fn arm(cluster: &mut Cluster, node: usize, place: &str) {
    cluster.kill9(node);
    cluster.nodes[node].env = vec![(VARIABLE, format!("{place}:{PASSES}"))];
    cluster.restart(node);
    cluster.nodes[node].env.clear();
    cluster.wait_formed();
}

fn lead(cluster: &Cluster, node: usize) {
    let body = format!(r#"{{"name":"node{node}"}}"#);
    eventually(&format!("node{node} leads"), RESUME_LIMIT, || {
        let answer = cluster.ask(node, &Request::post("/v1/leader", body.clone()));
        match answer.status {
            200 if cluster.leader() == node => Ok(()),
            _ => Err(answer.text()),
        }
    });
}

/// Writes until the node has died and the others go on without it; answers what was told.
fn write_until_death(cluster: &mut Cluster, node: usize, place: &str, round: usize) -> History {
    let load = Load::start(&cluster.ports(), &LoadPlan::new(&format!("r{round}"), 8));
    eventually(&format!("node{node} dies at {place}"), DIES_LIMIT, || {
        let code = cluster.nodes[node].exited().ok_or("it runs")?;
        assert_eq!(code, None, "ended by a signal, not by itself");
        Ok(())
    });
    load.wait_acked(50, RESUME_LIMIT);
    load.stop()
}

#[test]
fn death_at_each_stage_of_a_write() {
    let mut cluster = Cluster::start(3);
    let mut all = History::default();
    let places = LEADER.map(|place| (place, true)).into_iter().chain(FOLLOWER.map(|place| (place, false)));
    for (round, (place, is_leader)) in places.enumerate() {
        let leader = cluster.leader();
        let victim = (leader + 1) % 3;
        arm(&mut cluster, victim, place);
        if is_leader {
            lead(&cluster, victim);
        } else {
            assert_ne!(cluster.leader(), victim, "a follower is to die");
        }
        let history = write_until_death(&mut cluster, victim, place, round);
        println!("{} at {place}: {}", if is_leader { "leader" } else { "follower" }, history.summary());
        history.verify(&cluster.running_ports());
        cluster.restart(victim);
        cluster.wait_formed();
        all.absorb(history);
    }
    cluster.wait_converged();
    all.verify(&cluster.ports());
    all.verify_same(&cluster.ports());
}
