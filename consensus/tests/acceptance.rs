//! Property: a write that is answered once its leader has it on disk is later told committed or lost as it
//! truly is, on every node, and never by a guess; and such writes are bounded.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;

use support::{deadline, eventually, set, Cluster};
use vaultdb_consensus::api::ProposeError;
use vaultdb_kv::Command;
use vaultdb_kv::Consistency;
use vaultdb_storage::{EntryFate, LogId};

async fn accept(cluster: &Cluster, node: usize, command: Arc<Command>) -> Result<LogId, ProposeError> {
    cluster.nodes[node].accept(vec![command], deadline(5_000)).await.pop().unwrap()
}

/// What a linearizable question to a node tells.
async fn fate(cluster: &Cluster, node: usize, entry: LogId) -> EntryFate {
    cluster.nodes[node].freshen(&Consistency::Linearizable.into(), deadline(10_000)).await.unwrap();
    cluster.nodes[node].store().fate(entry)
}

/// With a majority it is committed soon, wherever it was asked for and whoever is asked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accepted_writes_are_committed() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let follower = (leader + 1) % 3;
    let id = accept(&cluster, leader, set("a", "1")).await.unwrap();
    let to = cluster.nodes[follower].leadership().leader.as_ref().unwrap().id;
    let commands = vec![set("b", "2"), set("c", "3")];
    let forwarded = cluster.nodes[follower].forward_accept(to, commands, deadline(5_000)).await;
    let ids: Vec<LogId> = forwarded.into_iter().map(Result::unwrap).collect();
    // The leader may have entries of its own in between: the one that ends a change of voters, say.
    assert!(id < ids[0] && ids[0] < ids[1], "{id:?} {ids:?}");
    let refused = accept(&cluster, follower, set("d", "4")).await;
    assert_eq!(refused, Err(ProposeError::NotLeader));
    for node in 0..3 {
        for id in std::iter::once(id).chain(ids.clone()) {
            eventually("committed", || {
                let fate = cluster.nodes[node].store().fate(id);
                assert_ne!(fate, EntryFate::Lost);
                (fate == EntryFate::Committed).then_some(())
            })
            .await;
        }
        assert_eq!(cluster.read(node, "c", 5_000).await.unwrap().as_deref(), Some("3"));
    }
    cluster.stop().await;
}

/// A leader that is cut off accepts until its lease ends; what it accepted is lost once another leads, and
/// every node says so. The one that is cut off says pending, not more than it knows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accepted_writes_of_a_leader_that_is_cut_off_are_lost() {
    let cluster = Cluster::start(3).await;
    let old = cluster.leader().await;
    let kept = accept(&cluster, old, set("k", "kept")).await.unwrap();
    let rest = cluster.others(&[old]);
    while fate(&cluster, rest[0], kept).await != EntryFate::Committed {}
    cluster.cut(&[old], &rest);
    let lost = accept(&cluster, old, set("k", "lost")).await.unwrap();
    assert_eq!(cluster.nodes[old].store().fate(lost), EntryFate::Pending);
    cluster.put_among(&rest, "other", "new").await;
    for node in &rest {
        assert_eq!(fate(&cluster, *node, lost).await, EntryFate::Lost, "node {node}");
    }
    assert_eq!(cluster.nodes[old].store().fate(lost), EntryFate::Pending);
    cluster.heal();
    for node in 0..3 {
        assert_eq!(fate(&cluster, node, lost).await, EntryFate::Lost, "node {node}");
        assert_eq!(fate(&cluster, node, kept).await, EntryFate::Committed, "node {node}");
        assert_eq!(cluster.read(node, "k", 10_000).await.unwrap().as_deref(), Some("kept"));
    }
    cluster.stop().await;
}

/// Without a majority a leader accepts so much and no more, and serves again once the majority is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unsettled_writes_are_bounded() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let large = |i: usize| set(&format!("k{i}"), &"x".repeat(1 << 20));
    cluster.cut(&[leader], &cluster.others(&[leader]));
    let batch: Vec<Arc<Command>> = (0..40).map(large).collect();
    let outcomes = cluster.nodes[leader].accept(batch, deadline(5_000)).await;
    let accepted = outcomes.iter().take_while(|outcome| outcome.is_ok()).count();
    // Each takes one KiB more than its value.
    assert_eq!(accepted, 31);
    assert!(outcomes[accepted..].iter().all(|outcome| *outcome == Err(ProposeError::Overloaded)));
    cluster.heal();
    let end = deadline(20_000);
    loop {
        let leader = cluster.leader().await;
        match accept(&cluster, leader, large(0)).await {
            Ok(_) => break,
            Err(ProposeError::Overloaded | ProposeError::NotLeader) => {}
            Err(other) => panic!("{other}"),
        }
        assert!(std::time::Instant::now() < end, "never served again");
    }
    cluster.stop().await;
}
