//! A node that was killed comes back with a store that lacks its last writes, and reads them from the log
//! meanwhile: from its very first answer on, no read that promises freshness is older than what was
//! acknowledged, whoever was killed.

#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use support::{eventually, Cluster, Failure, Request};

const ROUNDS: usize = 3;
const RETURN_LIMIT: Duration = Duration::from_secs(30);
/// Writes before a kill: their effects are in memory only, apart from the log.
const WRITES: usize = 200;

/// Asks a node that has just been started at each level until it has answered with the value; what it says
/// before must be an error.
fn read_as_soon_as_possible(cluster: &Cluster, node: usize, value: &str, revision: u64) {
    let levels = [
        "consistency=linearizable".to_owned(),
        "consistency=lease".to_owned(),
        format!("consistency=stale&min_revision={revision}"),
    ];
    std::thread::scope(|scope| {
        for level in &levels {
            scope.spawn(move || {
                eventually(&format!("node{node} reads at {level}"), RETURN_LIMIT, || {
                    let request = Request::get(format!("/v1/kv/k?{level}&timeout=2s"));
                    match cluster.send(node, &request) {
                        Ok(read) if read.status == 200 => {
                            assert_eq!(read.text(), value, "stale at {level} on node{node}");
                            Ok(())
                        }
                        Ok(read) if read.status == 503 => Err(read.text()),
                        Ok(read) => panic!("{}: {}", read.status, read.text()),
                        Err(Failure::NotSent(reason) | Failure::Lost(reason)) => Err(reason),
                    }
                });
            });
        }
    });
}

#[test]
fn a_restarted_node_reads_nothing_older_than_acknowledged() {
    let mut cluster = Cluster::start(3);
    for round in 0..ROUNDS {
        let leader = cluster.leader();
        for victims in [vec![(leader + 1) % 3], vec![leader], vec![0, 1, 2]] {
            let value = format!("v{round} {victims:?}");
            let last = *victims.last().unwrap();
            for write in 0..WRITES {
                cluster.must_put(last, "k", &format!("{value} {write}"));
            }
            // Into the cache, on every node.
            for node in 0..3 {
                cluster.must_get(node, "k");
            }
            let mut revision = cluster.must_put(last, "k", &value);
            let mut value = value;
            cluster.kill9_all(&victims);
            if victims.len() == 1 {
                // And one that was acknowledged while it was away.
                let others: Vec<usize> = (0..3).filter(|node| !victims.contains(node)).collect();
                let writer = cluster.wait_for_leader(&others);
                value.push_str(" anew");
                revision = cluster.must_put(writer, "k", &value);
            }
            for victim in &victims {
                cluster.restart(*victim);
            }
            for victim in &victims {
                read_as_soon_as_possible(&cluster, *victim, &value, revision);
            }
            cluster.wait_formed();
        }
    }
}
