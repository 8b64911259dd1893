//! Property: whatever is cut, a write is acknowledged only by a majority, an acknowledged write stays,
//! a linearizable read never answers from the past, and a majority that is connected makes progress.
#![allow(clippy::unwrap_used)]

mod support;

use support::{deadline, eventually, set, Cluster};
use vaultdb_consensus::api::ProposeError;
use vaultdb_kv::ReadError;

/// A write through the leader is readable on every node right after its answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_reads_an_acknowledged_write() {
    for count in [3, 5] {
        let cluster = Cluster::start(count).await;
        for round in 0..20 {
            let leader = cluster.leader().await;
            let value = format!("v{round}");
            cluster.put(leader, "k", &value, 5_000).await.unwrap();
            for node in 0..count {
                assert_eq!(cluster.read(node, "k", 5_000).await.unwrap(), Some(value.clone()), "node {node}");
            }
        }
        cluster.stop().await;
    }
}

/// A leader that is cut off acknowledges nothing and answers no linearizable read; the majority goes
/// on; after healing all agree on what the majority acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_cut_off_answers_nothing() {
    for count in [3, 5] {
        let cluster = Cluster::start(count).await;
        let old = cluster.leader().await;
        cluster.put(old, "k", "old", 5_000).await.unwrap();
        let rest = cluster.others(&[old]);
        cluster.cut(&[old], &rest);
        let lost = cluster.put(old, "k", "lost", 1_500).await;
        assert!(
            matches!(lost, Err(ProposeError::Unknown { .. } | ProposeError::NotLeader)),
            "acknowledged without a majority: {lost:?}"
        );
        cluster.put_among(&rest, "k", "new").await;
        assert_eq!(cluster.read(old, "k", 500).await, Err(ReadError::NoLeader));
        assert_eq!(cluster.read_stale(old, "k").as_deref(), Some("old"));
        cluster.heal();
        for node in 0..count {
            assert_eq!(cluster.read(node, "k", 10_000).await.unwrap().as_deref(), Some("new"), "node {node}");
        }
        cluster.stop().await;
    }
}

/// A read that finds no leader says so whenever its deadline falls, never that the node stops.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_without_a_leader_say_so() {
    let cluster = Cluster::start(3).await;
    let alone = cluster.leader().await;
    cluster.cut(&[alone], &cluster.others(&[alone]));
    // Deadlines that fall into every phase of a round, its retries included.
    let reads = (1..=400).map(|ms| cluster.read(alone, "k", 900 + ms));
    for (read, ms) in futures::future::join_all(reads).await.into_iter().zip(1..) {
        assert_eq!(read, Err(ReadError::NoLeader), "deadline {ms}");
    }
    cluster.stop().await;
}

/// Without a majority nothing is acknowledged, and once it is back everything goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn halves_without_a_majority_stand_still() {
    let cluster = Cluster::start(5).await;
    let leader = cluster.leader().await;
    cluster.put(leader, "k", "before", 5_000).await.unwrap();
    cluster.cut(&[0, 1], &[2, 3, 4]);
    cluster.cut(&[2], &[3, 4]);
    for node in 0..5 {
        let write = cluster.put(node, "k", "lost", 700).await;
        assert!(write.is_err(), "node {node} acknowledged {write:?}");
        assert!(cluster.read(node, "k", 200).await.is_err(), "node {node} read without a quorum");
    }
    cluster.heal();
    cluster.put_among(&[0, 1, 2, 3, 4], "k", "after").await;
    for node in 0..5 {
        assert_eq!(cluster.read(node, "k", 10_000).await.unwrap().as_deref(), Some("after"));
    }
    cluster.stop().await;
}

/// An old leader that still reaches one bridge node must not block a connected majority for ever
/// (openraft issue 2080): A-B, B-C, B-D, B-E and C-D-E are connected, A reaches only B.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bridge_to_the_old_leader_does_not_block_the_majority() {
    let cluster = Cluster::start(5).await;
    let old = cluster.leader().await;
    let rest = cluster.others(&[old]);
    let (bridge, majority) = (rest[0], &rest[1..]);
    cluster.cut(&[old], majority);
    // Whoever leads now, the bridge perhaps, all but the old leader know it.
    cluster.put_among(&rest, "k", "new").await;
    for node in [bridge, majority[0]] {
        assert_eq!(cluster.read(node, "k", 10_000).await.unwrap().as_deref(), Some("new"));
    }
    cluster.stop().await;
}

/// A node that returns from a partition neither raises the term nor moves leadership: pre-vote.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_returning_node_does_not_disturb() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let away = cluster.others(&[leader])[0];
    let before = cluster.nodes[leader].leadership().term;
    cluster.cut(&[away], &cluster.others(&[away]));
    // Several election timeouts pass while the others write.
    let end = deadline(2_500);
    let mut writes = 0;
    while std::time::Instant::now() < end {
        writes += 1;
        cluster.put(leader, "k", &writes.to_string(), 5_000).await.unwrap();
    }
    cluster.heal();
    let end = deadline(1_000);
    while std::time::Instant::now() < end {
        writes += 1;
        cluster.put(leader, "k", &writes.to_string(), 5_000).await.unwrap();
    }
    assert_eq!(cluster.read(away, "k", 10_000).await.unwrap(), Some(writes.to_string()));
    assert_eq!(cluster.leader().await, leader);
    assert_eq!(cluster.nodes[leader].leadership().term, before);
    cluster.stop().await;
}

/// A batch that is forwarded by a follower is answered as the leader would; a node that does not lead
/// refuses for certain.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn followers_forward_and_refuse_for_certain() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let follower = cluster.others(&[leader])[0];
    let id = cluster.nodes[leader].status().node.id;
    let batch = (0..100).map(|i| set(&format!("k{i}"), "v")).collect();
    let answers = cluster.nodes[follower].forward(id, batch, deadline(5_000)).await;
    assert_eq!(answers.len(), 100);
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    let refused = cluster.put(follower, "k", "v", 1_000).await;
    assert_eq!(refused, Err(ProposeError::NotLeader));
    let nobody = cluster.nodes[follower].forward(99, vec![set("k", "v")], deadline(1_000)).await;
    assert!(matches!(nobody[0], Err(ProposeError::Unreachable { .. })), "{nobody:?}");
    cluster.stop().await;
}

/// Leadership moves to whom it is asked to, and reads stay linearizable throughout.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_moves_on_request() {
    let cluster = Cluster::start(3).await;
    for round in 0..6 {
        let leader = cluster.leader().await;
        let target = (leader + 1) % 3;
        let value = format!("v{round}");
        cluster.put(leader, "k", &value, 5_000).await.unwrap();
        let name = cluster.nodes[target].status().node.name;
        let asked =
            cluster.nodes[(leader + 2) % 3].transfer_leader(Some(name.clone()), deadline(5_000)).await;
        assert_eq!(asked.unwrap(), name);
        eventually("the target leads", || cluster.nodes[target].leadership().is_local.then_some(())).await;
        for node in 0..3 {
            assert_eq!(cluster.read(node, "k", 5_000).await.unwrap(), Some(value.clone()));
        }
    }
    cluster.stop().await;
}
