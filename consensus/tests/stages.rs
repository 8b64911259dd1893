//! Property: the metrics count a batch once in each of its stages, however many writes it holds.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::Instant;

use support::{deadline, eventually, set, Cluster};
use vaultdb_consensus::stages::Stage;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_counts_once() {
    const WRITES: usize = 40;
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let follower = cluster.others(&[leader])[0];
    let id = cluster.nodes[leader].status().node.id;
    let proposed = || {
        let times = cluster.nodes[leader].stages().snapshot();
        times.stages.into_iter().find(|(stage, _)| *stage == Stage::Propose).unwrap().1.count()
    };
    let batch = || (0..WRITES).map(|i| set(&format!("k{i}"), "v")).collect();
    let before = proposed();
    let here = cluster.nodes[leader].propose(batch(), Instant::now(), deadline(5_000)).await;
    assert!(here.iter().all(Result::is_ok), "{here:?}");
    assert_eq!(proposed() - before, 1);
    let forwarded = cluster.nodes[follower].forward(id, batch(), deadline(5_000)).await;
    assert!(forwarded.iter().all(Result::is_ok), "{forwarded:?}");
    assert_eq!(proposed() - before, 2);
    eventually("each append was seen committed", || {
        let times = cluster.nodes[leader].stages().snapshot();
        let quorum = &times.stages.iter().find(|(stage, _)| *stage == Stage::Quorum).unwrap().1;
        (quorum.count() >= 2).then_some(())
    })
    .await;
    cluster.stop().await;
}
