//! The log is purged only up to a durable snapshot: with snapshots and purges all the time, kills lose
//! nothing, and a node whose entries are gone everywhere is brought back by a snapshot, whole or not at all.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::thread;
use std::time::Duration;

use support::dice::seed;
use support::{eventually, Cluster, Contention, ContentionPlan, History, Load, LoadPlan, Plan};

const ROUNDS: usize = 8;
const LOAD_LIMIT: Duration = Duration::from_secs(25);
const RETURN_LIMIT: Duration = Duration::from_secs(40);
/// Times that a node is killed while it receives or installs a snapshot.
const INSTALL_KILLS: u64 = 16;

/// Snapshots every 100 entries, files of the log as small as they may be, a cache that is always full.
fn busy(nodes: usize) -> Plan {
    let env = [
        ("VAULTDB_SNAPSHOT_LOGS_SINCE_LAST", "100"),
        ("VAULTDB_SNAPSHOT_LOGS_TO_KEEP", "10"),
        ("VAULTDB_WAL_SEGMENT_BYTES", "64KiB"),
        ("VAULTDB_WAL_CACHE_BYTES", "64KiB"),
        ("VAULTDB_CACHE_BYTES", "16KiB"),
    ];
    let env = env.into_iter().map(|(name, value)| (name, value.to_owned())).collect();
    Plan { env, ..Plan::nodes(nodes) }
}

#[test]
fn kills_amid_snapshots_lose_nothing() {
    let mut cluster = Cluster::start_plan(&busy(3));
    let all = [0, 1, 2];
    let mut history = History::default();
    for round in 0..ROUNDS {
        let plan = LoadPlan { rest: Duration::ZERO, ..LoadPlan::new(&format!("s{round}"), 6) };
        let load = Load::start(&cluster.ports(), &plan);
        load.wait_acked(250, LOAD_LIMIT);
        if round == ROUNDS - 1 {
            let leader = cluster.leader();
            eventually("the leader has purged its log behind a snapshot", LOAD_LIMIT, || {
                let status = cluster.status(leader);
                status.check_order();
                match status.number("/raft/purged") {
                    0 => Err(status.0["raft"].to_string()),
                    _ => Ok(()),
                }
            });
        }
        cluster.kill9_all(&all);
        history.absorb(load.stop());
        all.iter().for_each(|i| cluster.restart(*i));
        cluster.leader();
        history.verify(&cluster.ports());
    }
    println!("{ROUNDS} rounds: {}", history.summary());
    cluster.wait_formed();
    cluster.wait_converged();
    history.verify_same(&cluster.ports());
}

/// A follower that was away for too long, is killed again and again while it is brought back, and whose
/// disk is then lost: each time it ends as a whole member.
#[test]
fn snapshot_brings_a_node_back() {
    let mut cluster = Cluster::start_plan(&busy(3));
    let victim = (cluster.leader() + 1) % 3;
    let load = Load::start(&cluster.ports(), &LoadPlan { rest: Duration::ZERO, ..LoadPlan::new("snap", 6) });
    let contention = Contention::start(&cluster.ports(), &ContentionPlan::new("linearizable", seed()));
    load.wait_acked(100, LOAD_LIMIT);
    cluster.kill9(victim);
    for kill in 0..INSTALL_KILLS {
        load.wait_acked(300, LOAD_LIMIT);
        cluster.restart(victim);
        // A little longer each time, so that the kills fall into every part of it.
        thread::sleep(Duration::from_millis(60 + 23 * kill));
        cluster.kill9(victim);
    }
    cluster.restart(victim);
    cluster.wait_formed();
    load.wait_acked(200, LOAD_LIMIT);

    cluster.kill9(victim);
    cluster.wipe(victim);
    load.wait_acked(300, LOAD_LIMIT);
    let join = cluster.join_flag((victim + 1) % 3);
    cluster.start_node(victim, Some(&join));
    cluster.wait_members(&["node0".into(), "node1".into(), "node2".into()], RETURN_LIMIT);
    let history = load.stop();
    println!("{}; {}", history.summary(), contention.stop());
    cluster.wait_converged();
    assert!(cluster.status(victim).number("/raft/snapshot") > 0, "it came by a snapshot");
    history.verify(&cluster.ports());
    history.verify_same(&cluster.ports());
}

/// Once the log is purged, the state machine cannot be rebuilt from it: its loss is refused.
#[test]
fn lost_state_behind_a_purged_log_is_refused() {
    let mut cluster = Cluster::start_plan(&busy(1));
    let load = Load::start(&cluster.ports(), &LoadPlan { rest: Duration::ZERO, ..LoadPlan::new("one", 4) });
    eventually("the log is purged", LOAD_LIMIT, || {
        let raft = cluster.status(0).0["raft"].clone();
        if raft["purged"].as_u64() > Some(0) {
            Ok(())
        } else {
            Err(raft.to_string())
        }
    });
    let history = load.stop();
    assert_eq!(cluster.terminate(0).code, Some(0));
    fs::remove_dir_all(cluster.nodes[0].data.join("rocksdb")).unwrap();
    cluster.restart(0);
    let node = &mut cluster.nodes[0];
    let restored = eventually("the node restores its state or refuses", LOAD_LIMIT, || match node.exited() {
        Some(code) => {
            assert!(matches!(code, Some(1 | 70)), "exit {code:?}\n{}", node.log_text());
            Ok(false)
        }
        None => node.status()?.leader().map(|_| true).ok_or_else(|| "no leader".into()),
    });
    println!("without its state machine the node {}", if restored { "restores it" } else { "refuses" });
    if restored {
        history.verify(&cluster.ports());
    }
}
