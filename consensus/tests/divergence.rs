//! Property: a node whose state is not the one that a majority has ends, and nobody else does.
#![allow(clippy::unwrap_used)]

mod support;

use support::{eventually, Cluster, Plan, PATIENCE};
use vaultdb_consensus::api::AgreementStatus;

const INTERVAL_MS: u64 = 50;

fn comparing() -> Plan {
    Plan { consistency_check_interval_ms: INTERVAL_MS, ..Plan::default() }
}

fn agreement(cluster: &Cluster, node: usize) -> AgreementStatus {
    cluster.nodes[node].status().agreement
}

/// Waits until each of the nodes has found itself like a majority at an index from this one on.
async fn wait_compared(cluster: &Cluster, nodes: &[usize], from: u64) {
    let compared = || nodes.iter().all(|node| agreement(cluster, *node).compared_index >= from);
    eventually(&format!("nodes {nodes:?} are compared from {from} on"), || compared().then_some(())).await;
}

/// Disturbs a node and waits until it gives up, during which somebody may write. The others go on with all that was
/// acknowledged, and know who it was. That they do is certain: it ends by what they answered, and had told them before.
async fn disturbed_node_ends(cluster: &Cluster, node: usize, is_written: bool) {
    let others = cluster.others(&[node]);
    let name = cluster.nodes[node].status().node.name;
    let mut acknowledged = 5;
    let key = |i: u64| format!("k{i}");
    for i in 0..acknowledged {
        cluster.put_among(&[0, 1, 2], &key(i), &i.to_string()).await;
    }
    let written = cluster.put_among(&[0, 1, 2], "last", "v").await.log_id.index;
    wait_compared(cluster, &[0, 1, 2], written).await;
    cluster.nodes[node].store().flip_state().unwrap();
    let ended = tokio::time::timeout(PATIENCE, cluster.nodes[node].failed());
    tokio::pin!(ended);
    let reason = loop {
        let (next, value) = (key(acknowledged), acknowledged.to_string());
        tokio::select! {
            reason = &mut ended => break reason.unwrap(),
            _ = cluster.put_among(&[0, 1, 2], &next, &value), if is_written => acknowledged += 1,
        }
    };
    assert!(reason.contains("differs from what a majority"), "{reason}");
    cluster.nodes[node].shutdown().await;
    // The others are past the index at which it differed.
    let after = cluster.put_among(&others, "k", "after").await.log_id.index;
    wait_compared(cluster, &others, after).await;
    for other in &others {
        let known = || {
            let agreement = agreement(cluster, *other);
            agreement.diverged.iter().any(|d| d.is_minority).then_some(agreement)
        };
        let agreement = eventually("who differed is known as the minority", known).await;
        assert_eq!(agreement.diverged.len(), 1, "{agreement:?}");
        assert!(
            agreement.diverged[0].peer == name && agreement.diverged[0].index >= written,
            "{agreement:?}"
        );
        assert!(agreement.concern().unwrap().contains(&name));
        assert!(cluster.nodes[*other].runs());
        let last = cluster.read(*other, "last", 5_000).await.unwrap();
        assert_eq!(last.as_deref(), Some("v"));
        for i in 0..acknowledged {
            let found = cluster.read_stale(*other, &key(i));
            assert_eq!(found, Some(i.to_string()), "{} of {acknowledged}", key(i));
        }
    }
}

/// Nothing is written after the disturbance: also an idle cluster is compared.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disturbed_follower_ends_and_the_others_go_on() {
    let cluster = Cluster::start_with(3, comparing()).await;
    let follower = cluster.others(&[cluster.leader().await])[0];
    disturbed_node_ends(&cluster, follower, false).await;
    cluster.stop().await;
}

/// The others seldom ask: what they know of it is what it told them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_ends_has_told_the_others() {
    let seldom = Plan { consistency_check_interval_ms: 40 * INTERVAL_MS, ..Plan::default() };
    let mut cluster = Cluster::start_with(2, seldom).await;
    cluster.plan = comparing();
    let often = cluster.join("node2").await;
    cluster.wait_voters(3).await;
    disturbed_node_ends(&cluster, often, false).await;
    cluster.stop().await;
}

/// It has given its place away when it ends, and nothing that was acknowledged until then is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disturbed_leader_hands_over_and_ends() {
    for is_written in [false, true] {
        let cluster = Cluster::start_with(3, comparing()).await;
        let leader = cluster.leader().await;
        let watched = cluster.nodes[leader].clone();
        let led_at_the_end = tokio::spawn(async move {
            watched.failed().await;
            watched.leadership().is_local
        });
        disturbed_node_ends(&cluster, leader, is_written).await;
        // With no time to spare nobody may have taken its place before it has to end.
        assert!(is_written || !led_at_the_end.await.unwrap(), "it led to the end");
        cluster.stop().await;
    }
}

/// Two against each other decide nothing, however long; once a third is there, the one that is alone ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_majority_nobody_ends() {
    let cluster = Cluster::start_with(3, comparing()).await;
    let leader = cluster.leader().await;
    let [disturbed, absent] = cluster.others(&[leader]).try_into().unwrap();
    let written = cluster.put_among(&[0, 1, 2], "k", "v").await.log_id.index;
    wait_compared(&cluster, &[0, 1, 2], written).await;
    cluster.cut(&[absent], &[leader, disturbed]);
    cluster.nodes[disturbed].store().flip_state().unwrap();
    for (node, other) in [(leader, disturbed), (disturbed, leader)] {
        let other = cluster.nodes[other].status().node.name;
        eventually("each of the two sees that the other differs", || {
            let seen = agreement(&cluster, node).diverged;
            seen.iter().any(|d| d.peer == other && !d.is_minority).then_some(())
        })
        .await;
    }
    // Entries that both apply are compared, too, and change nothing.
    let more = cluster.put_among(&[leader, disturbed], "k", "w").await.log_id.index;
    eventually("both have applied it", || {
        [leader, disturbed].iter().all(|node| cluster.nodes[*node].status().applied >= more).then_some(())
    })
    .await;
    let ended = cluster.nodes[disturbed].failed();
    let early = tokio::time::timeout(std::time::Duration::from_millis(10 * INTERVAL_MS), ended).await;
    assert!(early.is_err(), "ended without a majority: {early:?}");
    assert!(cluster.nodes.iter().all(|node| node.runs()));
    cluster.heal();
    let reason = tokio::time::timeout(PATIENCE, cluster.nodes[disturbed].failed()).await.unwrap();
    assert!(reason.contains("differs from what a majority"), "{reason}");
    assert!(cluster.nodes[leader].runs() && cluster.nodes[absent].runs());
    cluster.stop().await;
}

/// Nodes that come by a snapshot, that were restarted or cut off, and new leaders: all have the same state.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn healthy_nodes_never_differ() {
    let plan = Plan { snapshot_logs_since_last: 400, on_disk: true, ..comparing() };
    let mut cluster = Cluster::start_with(2, plan).await;
    for i in 0..1_500 {
        cluster.put_among(&[0, 1], &format!("k{}", i % 100), &format!("v{i}")).await;
    }
    eventually("the log is purged", || (cluster.nodes[0].status().purged > 0).then_some(())).await;
    let late = cluster.join("node2").await;
    cluster.wait_voters(3).await;
    assert!(cluster.nodes[late].status().transfer_totals.installed > 0, "it came by the log");
    cluster.restart(1).await;
    let leader = cluster.leader().await;
    cluster.cut(&[leader], &cluster.others(&[leader]));
    let rest = cluster.others(&[leader]);
    let written = cluster.put_among(&rest, "k", "while the old leader was away").await.log_id.index;
    cluster.heal();
    wait_compared(&cluster, &[0, 1, 2], written).await;
    for node in 0..3 {
        assert_eq!(agreement(&cluster, node).diverged, []);
        assert!(cluster.nodes[node].runs());
    }
    cluster.stop().await;
}
