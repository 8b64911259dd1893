//! Property: once a write is acknowledged, no read at level `linearizable` or `lease`, on any node, answers
//! with what was there before; it answers with the write or refuses. Each test brings about one of the
//! moments at which that is hardest.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use support::reader::Reader;
use support::{deadline, read_at, Cluster, Plan, PATIENCE};
use vaultdb_consensus::Timing;
use vaultdb_kv::{Command, Consistency, Freshness, Key};

/// A lease of 2.25 s, which outlives restarts, handovers and a machine that is busy.
const LONG: Timing =
    Timing { heartbeat_interval_ms: 50, election_timeout_ms_min: 3_000, election_timeout_ms_max: 3_500 };
/// A node that asks for votes again and again as soon as it hears of no leader.
const EAGER: Timing =
    Timing { heartbeat_interval_ms: 50, election_timeout_ms_min: 100, election_timeout_ms_max: 150 };

const CONFIRMED: [Consistency; 2] = [Consistency::Linearizable, Consistency::Lease];

fn readers(cluster: &Cluster, nodes: &[usize]) -> Vec<Reader> {
    let levels =
        |node: &usize| CONFIRMED.map(|level| Reader::start(&cluster.nodes[*node], level.into(), "k"));
    nodes.iter().flat_map(levels).collect()
}

/// A leader is cut off with its lease alive, and a follower that granted it restarts at once, asked for its vote
/// by a candidate that has been waiting for it. No other leader may acknowledge a write until the lease is over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_outlives_a_quick_restart_of_the_followers() {
    let (old, voter, candidate) = (0, 1, 2);
    let mut cluster = Cluster::start_with(2, Plan { timing: LONG, on_disk: true, ..Plan::default() }).await;
    cluster.plan.timing = EAGER;
    cluster.join("node2").await;
    cluster.wait_voters(3).await;
    assert_eq!(cluster.leader().await, old);
    cluster.put(old, "k", "old", 5_000).await.unwrap();
    for node in [voter, candidate] {
        assert_eq!(cluster.read(node, "k", 5_000).await.unwrap().as_deref(), Some("old"));
    }

    // From now on the candidate asks in vain: the voter still hears from the leader.
    cluster.cut(&[old], &[candidate]);
    let reader = Reader::start(&cluster.nodes[old], Consistency::Lease.into(), "k");
    reader.wait_value("old", Instant::now()).await;
    cluster.cut(&[old], &[voter]);
    cluster.plan.timing = LONG;
    cluster.restart(voter).await;
    // Answered without a message to anybody: the lease has outlived the restart.
    reader.wait_value("old", Instant::now()).await;

    cluster.put_among(&[voter, candidate], "k", "new").await;
    let acked = Instant::now();
    reader.wait_count(20, acked).await;
    cluster.heal();
    reader.wait_value("new", acked).await;
    let (_, refused) = reader.verify("new", acked).await;
    assert!(refused >= 20, "{refused}");
    cluster.stop().await;
}

/// A leader that is cut off, alone or with a follower that still reads through it, while the others elect and
/// acknowledge: at no moment afterwards does it, or that follower, answer from its past.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deposed_leader_answers_the_new_value_or_nothing() {
    for company in [0, 1] {
        let cluster = Cluster::start(5).await;
        let old = cluster.leader().await;
        cluster.put(old, "k", "old", 5_000).await.unwrap();
        let others = cluster.others(&[old]);
        let (with_it, rest) = others.split_at(company);
        let minority: Vec<usize> = std::iter::once(old).chain(with_it.iter().copied()).collect();
        let readers = readers(&cluster, &minority);
        for reader in &readers {
            reader.wait_value("old", Instant::now()).await;
        }
        cluster.cut(&minority, rest);
        cluster.put_among(rest, "k", "new").await;
        let acked = Instant::now();
        for reader in &readers {
            reader.wait_count(20, acked).await;
        }
        cluster.heal();
        for reader in &readers {
            reader.wait_value("new", acked).await;
        }
        for reader in readers {
            let (_, refused) = reader.verify("new", acked).await;
            assert!(refused > 0, "cut off and never refused");
        }
        cluster.stop().await;
    }
}

/// A leader that has asked another to take over, and hears nothing of how it went: its lease would last much
/// longer, but it ended with the handover.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_ends_with_the_handover() {
    let cluster = Cluster::start_with(3, Plan { timing: LONG, ..Plan::default() }).await;
    let old = cluster.leader().await;
    let rest = cluster.others(&[old]);
    cluster.put(old, "k", "old", 5_000).await.unwrap();
    let readers = readers(&cluster, &[old]);
    for reader in &readers {
        reader.wait_value("old", Instant::now()).await;
    }
    // What it says still arrives; neither an answer nor the new leader reaches it.
    let muted = Instant::now();
    for node in &rest {
        cluster.mute(*node, old);
    }
    let (leader, successor) = (cluster.nodes[old].clone(), cluster.nodes[rest[0]].status().node.name);
    let asked = tokio::spawn(async move { leader.transfer_leader(Some(successor), deadline(10_000)).await });
    // Again while the successor, which has just been elected, still waits for a quorum to confirm it.
    cluster.put_among(&rest, "k", "new").await;
    let acked = Instant::now();
    for reader in &readers {
        reader.wait_count(5, acked).await;
    }
    // Its last confirmation was sent at most two heartbeats before it was muted.
    let lease_end = muted + LONG.read_lease() - Duration::from_millis(2 * LONG.heartbeat_interval_ms);
    assert!(Instant::now() < lease_end, "too late to tell: the lease was over anyway");
    assert!(cluster.nodes[old].leadership().is_local, "it knows already that another leads");
    cluster.heal();
    for reader in &readers {
        reader.wait_value("new", acked).await;
    }
    for reader in readers {
        reader.verify("new", acked).await;
    }
    asked.await.unwrap().unwrap();
    cluster.stop().await;
}

const HOT_KEYS: usize = 20;

/// A follower that is brought up by a snapshot, with old values and since deleted keys in its cache: whatever
/// it answers at a level that promises it is the state that was acknowledged.
async fn reads_after_an_installation(on_disk: bool) {
    let plan = Plan { snapshot_logs_since_last: 50, on_disk, ..Plan::default() };
    let cluster = Cluster::start_with(3, plan).await;
    let leader = cluster.leader().await;
    let rest = cluster.others(&[leader]);
    let away = rest[0];
    for key in 0..HOT_KEYS {
        cluster.put(leader, &format!("k{key}"), "old", 5_000).await.unwrap();
    }
    for key in 0..HOT_KEYS {
        let read = cluster.read(away, &format!("k{key}"), 5_000).await;
        assert_eq!(read.unwrap().as_deref(), Some("old"));
        // Twice: it must have come from the cache once, to be there for certain.
        cluster.read_stale(away, &format!("k{key}"));
    }
    let cached = cluster.nodes[away].store().stats().cache;
    assert!(cached.entries >= HOT_KEYS as u64 && cached.hits >= HOT_KEYS as u64, "{cached:?}");

    cluster.cut(&[away], &cluster.others(&[away]));
    for key in 1..HOT_KEYS {
        cluster.put(leader, &format!("k{key}"), "new", 5_000).await.unwrap();
    }
    let deleted = Command::Delete { key: Key::new("k0").unwrap() };
    cluster.nodes[leader]
        .propose(vec![Arc::new(deleted)], Instant::now(), deadline(5_000))
        .await
        .remove(0)
        .unwrap();
    let behind = cluster.nodes[away].status().last_log;
    let mut revision = 0;
    let end = deadline(PATIENCE.as_millis() as u64);
    // Only a snapshot can bring it back once the leader has purged what it misses.
    while cluster.nodes[leader].status().purged <= behind {
        assert!(Instant::now() < end, "the log is never purged");
        revision = cluster.put(leader, "filler", "v", 5_000).await.unwrap().applied.revision;
    }
    let known = Freshness { min_revision: Some(revision), ..Consistency::Stale.into() };
    cluster.heal();
    for wanted in [Consistency::Lease.into(), Consistency::Linearizable.into(), known] {
        for key in 0..HOT_KEYS {
            let expected = (key > 0).then_some("new");
            let read = read_at(&cluster.nodes[away], wanted, &format!("k{key}"), 10_000).await;
            assert_eq!(read.unwrap().as_deref(), expected, "k{key} {wanted:?}");
        }
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_with_a_new_snapshot_reads_nothing_old_in_memory() {
    reads_after_an_installation(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_with_a_new_snapshot_reads_nothing_old_on_disk() {
    reads_after_an_installation(true).await;
}
