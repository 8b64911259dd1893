//! A node dies at each step of taking a snapshot over: it comes back with the old state or with the new one,
//! never with half of one, and is brought up again; no acknowledged write is lost.
//!
//! Needs a binary with debug assertions, as tests are built: others have no failpoints.

#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use support::snapshots::{check_filled, fill, leave_behind, metric, plan};
use support::{eventually, Cluster, Load, LoadPlan};

const DIES_LIMIT: Duration = Duration::from_secs(30);
const RETURN_LIMIT: Duration = Duration::from_secs(40);
const LOAD_LIMIT: Duration = Duration::from_secs(20);
const VARIABLE: &str = "VAULT_FAILPOINT";

/// Places on the receiver in the order in which a snapshot passes them, and which pass is the last.
const PLACES: [(&str, u64); 9] = [
    ("snapshot-begun", 1),
    ("snapshot-piece-written", 5),
    ("snapshot-received", 1),
    ("install-half-filled", 3),
    ("install-filled", 1),
    ("install-opened", 1),
    ("install-switched", 1),
    ("snapshot-installed", 1),
    ("log-purged", 1),
];

/// A follower that was away until its log no longer meets the others'. Answers which.
fn behind(cluster: &mut Cluster) -> usize {
    let victim = (cluster.leader() + 1) % 3;
    let last_log = cluster.status(victim).number("/raft/last_log");
    cluster.kill9(victim);
    leave_behind(cluster, last_log);
    victim
}

fn start_with(cluster: &mut Cluster, node: usize, failpoint: &str) {
    cluster.nodes[node].env.push((VARIABLE, failpoint.into()));
    cluster.restart(node);
    cluster.nodes[node].env.pop();
}

#[test]
fn death_at_each_step_of_an_installation() {
    let mut cluster = Cluster::start_plan(&plan(3, &[]));
    fill(&cluster);
    for (place, pass) in PLACES {
        let victim = behind(&mut cluster);
        let load = Load::start(&cluster.running_ports(), &LoadPlan::new(place, 4));
        start_with(&mut cluster, victim, &format!("{place}:{pass}"));
        eventually(&format!("node{victim} dies at {place}"), DIES_LIMIT, || {
            let code = cluster.nodes[victim].exited().ok_or("it runs")?;
            assert_eq!(code, None, "ended by a signal, not by itself");
            Ok(())
        });
        load.wait_acked(100, LOAD_LIMIT);
        cluster.restart(victim);
        cluster.wait_formed();
        load.wait_acked(50, LOAD_LIMIT);
        let history = load.stop();
        cluster.wait_converged();
        println!("{place}: {}", history.summary());
        check_filled(&cluster, victim);
        history.verify(&cluster.ports());
        history.verify_same(&cluster.ports());
        let state = cluster.nodes[victim].data.join("rocksdb");
        let generations = state.read_dir().unwrap().filter(|entry| entry.as_ref().unwrap().path().is_dir());
        assert_eq!(generations.count(), 1, "{place}: what the kill left is removed");
    }
}

/// What is damaged on its way is found out and not installed; once the way is good again the node comes up.
#[test]
fn damaged_piece_is_not_installed() {
    let mut cluster = Cluster::start_plan(&plan(3, &[]));
    fill(&cluster);
    let victim = behind(&mut cluster);
    // Whoever leads sends with damage.
    for node in cluster.running() {
        cluster.kill9(node);
        start_with(&mut cluster, node, "snapshot-damaged:0");
        cluster.leader();
    }
    let before = cluster.nodes[victim].log_text().len();
    cluster.restart(victim);
    eventually("the damage is told", RETURN_LIMIT, || {
        match cluster.nodes[victim].log_text()[before..].find("refused:") {
            Some(_) => Ok(()),
            None => Err("no word of it".into()),
        }
    });
    assert_eq!(metric(&cluster, victim, "vaultdb_snapshot_installed_total"), 0);
    let stale = cluster.get(victim, "large-0", "consistency=stale");
    assert_eq!(stale.status, 200, "the old state is served: {}", stale.text());
    for node in cluster.running().into_iter().filter(|node| *node != victim) {
        cluster.kill9(node);
        cluster.restart(node);
        cluster.leader();
    }
    cluster.wait_converged();
    assert!(metric(&cluster, victim, "vaultdb_snapshot_installed_total") >= 1);
    check_filled(&cluster, victim);
}
