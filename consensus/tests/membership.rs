//! Property: ids are allotted by the cluster and never reused; joining is idempotent; a node that lost
//! its disk takes its predecessor's vote over under a new id.
#![allow(clippy::unwrap_used)]

mod support;

use support::{deadline, eventually, Cluster};
use vaultdb_consensus::api::JoinRequest;
use vaultdb_kv::{AdminError, MemberAddr, Role};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn joining_is_idempotent_and_names_are_unique() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let follower = cluster.others(&[leader])[0];
    let request = JoinRequest {
        name: "node9".into(),
        addr: MemberAddr { raft: "node9:1".into(), http: "node9:2".into() },
        instance: Some("first".into()),
        stays_learner: false,
    };
    let first = cluster.nodes[follower].join(request.clone(), deadline(5_000)).await.unwrap();
    let again = cluster.nodes[leader].join(request.clone(), deadline(5_000)).await.unwrap();
    assert_eq!(first.id, again.id);
    let elsewhere = JoinRequest {
        addr: MemberAddr { raft: "elsewhere:1".into(), http: "elsewhere:2".into() },
        ..request.clone()
    };
    let moved = cluster.nodes[follower].join(elsewhere.clone(), deadline(5_000)).await.unwrap();
    assert_eq!(moved.id, first.id);
    eventually("the new address is known", || {
        let members = cluster.nodes[follower].status().members;
        members.iter().any(|m| m.member.id == first.id && m.member.addr == elsewhere.addr).then_some(())
    })
    .await;
    let taken = JoinRequest { name: cluster.nodes[leader].status().node.name, ..request };
    let refused = cluster.nodes[follower].join(taken, deadline(5_000)).await;
    assert!(matches!(refused, Err(AdminError::Conflict { .. })), "{refused:?}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_lost_its_disk_returns_under_a_new_id() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    cluster.put(leader, "k", "v", 5_000).await.unwrap();
    let wiped = cluster.others(&[leader])[0];
    let old = cluster.nodes[wiped].status().node;
    let node = cluster.nodes.remove(wiped);
    node.shutdown().await;
    drop(node);
    // Its first new disk is lost, too, before the node starts: that id is forgotten in the end.
    let between = cluster.ask_in(&old.name, "a disk that was lost at once").await;
    let back = cluster.join(&old.name).await;
    let new = cluster.nodes[back].status().node;
    assert_eq!(new.name, old.name);
    assert!(between.id > 3 && new.id > between.id, "ids {} and {} were used before", between.id, new.id);
    eventually("three voters, the new id among them and the old one gone", || {
        let members = cluster.nodes[back].status().members;
        let voters = members.iter().filter(|m| m.role == Role::Voter).map(|m| m.member.id);
        let voters: Vec<_> = voters.collect();
        (members.len() == 3 && voters.len() == 3 && voters.contains(&new.id) && !voters.contains(&old.id))
            .then_some(())
    })
    .await;
    assert_eq!(cluster.read(back, "k", 5_000).await.unwrap().as_deref(), Some("v"));
    cluster.stop().await;
}

/// A node that joins after the log was purged is brought up by a snapshot.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_node_is_brought_up_by_a_snapshot() {
    let mut cluster = Cluster::start_with(1, 50).await;
    for i in 0..400 {
        cluster.put(0, &format!("k{i}"), &"v".repeat(1000), 5_000).await.unwrap();
    }
    eventually("the log is purged", || (cluster.nodes[0].status().purged > 0).then_some(())).await;
    let late = cluster.join("node1").await;
    cluster.wait_voters(2).await;
    for i in 0..400 {
        let value = cluster.read(late, &format!("k{i}"), 5_000).await.unwrap();
        assert_eq!(value.map(|v| v.len()), Some(1000), "k{i}");
    }
    let status = cluster.nodes[late].status();
    assert!(status.last_log >= status.committed && status.committed >= status.applied);
    assert!(status.applied >= status.snapshot && status.snapshot >= status.purged);
    cluster.stop().await;
}
