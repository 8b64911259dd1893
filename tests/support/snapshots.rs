//! Clusters with data that takes a while to send, and what their nodes tell of it.

use std::time::Duration;

use super::{eventually, Cluster, Dice, Plan, Request};

/// Bytes of the values that [`fill`] writes, each.
const VALUE_BYTES: usize = 128 * 1024;
/// How many it writes: on disk about a third of them is left of the zeros and digits that they are.
const VALUES: usize = 96;
/// Longest wait for a snapshot to be built and the log behind it purged.
const PURGE_LIMIT: Duration = Duration::from_secs(30);
/// Longest wait for one write to be acknowledged.
const WRITE_LIMIT: Duration = Duration::from_secs(30);

/// Snapshots every 200 entries, hardly any log kept.
pub fn plan(nodes: usize, env: &[(&'static str, &str)]) -> Plan {
    let common = [
        ("VAULTDB_SNAPSHOT_LOGS_SINCE_LAST", "200"),
        ("VAULTDB_SNAPSHOT_LOGS_TO_KEEP", "10"),
        ("VAULTDB_WAL_SEGMENT_BYTES", "256KiB"),
        ("VAULTDB_SNAPSHOT_BYTES_TO_KEEP", "1MiB"),
    ];
    let env = common.iter().chain(env).map(|(name, value)| (*name, (*value).to_owned())).collect();
    Plan { env, ..Plan::nodes(nodes) }
}

fn large_value(number: usize) -> String {
    let mut dice = Dice::new(number as u64 + 1);
    (0..VALUE_BYTES / 8).map(|_| format!("{:08x}", dice.below(u64::from(u32::MAX)))).collect()
}

/// Writes until it is acknowledged: what matters here is what is there in the end, and a machine under load may
/// take longer than a request.
pub fn put(cluster: &Cluster, node: usize, key: &str, value: &str) {
    eventually(&format!("{key} is written"), WRITE_LIMIT, || match cluster.put(node, key, value, "") {
        answer if answer.status == 200 => Ok(()),
        answer => Err(answer.text()),
    });
}

/// Writes some megabytes that do not compress well.
pub fn fill(cluster: &Cluster) {
    let leader = cluster.leader();
    for number in 0..VALUES {
        put(cluster, leader, &format!("large-{number}"), &large_value(number));
    }
}

/// Every value of [`fill`] is there, as the node has it.
pub fn check_filled(cluster: &Cluster, node: usize) {
    for number in 0..VALUES {
        let answer = cluster.get(node, &format!("large-{number}"), "consistency=stale");
        assert_eq!(answer.status, 200, "large-{number} on node{node}: {}", answer.text());
        assert!(answer.text() == large_value(number), "large-{number} on node{node} is another one");
    }
}

/// Writes until the leader has purged everything that the log of a node had which is away.
pub fn leave_behind(cluster: &Cluster, last_log: u64) {
    let leader = cluster.leader();
    let mut number = 0;
    eventually("the log is purged beyond what the node has", PURGE_LIMIT, || {
        for _ in 0..20 {
            put(cluster, leader, &format!("small-{}", number % 100), &number.to_string());
            number += 1;
        }
        match cluster.status(leader).number("/raft/purged") {
            purged if purged > last_log => Ok(()),
            purged => Err(format!("purged {purged}, it has {last_log}")),
        }
    });
}

/// One figure of `GET /metrics` without labels.
pub fn metric(cluster: &Cluster, node: usize, name: &str) -> u64 {
    try_metric(cluster, node, name).unwrap_or_else(|reason| panic!("{reason}"))
}

/// As [`metric`], of a node that may be starting.
pub fn try_metric(cluster: &Cluster, node: usize, name: &str) -> Result<u64, String> {
    let page = cluster.send(node, &Request::get("/metrics")).map_err(|failure| failure.to_string())?.text();
    let line = page.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
    line.and_then(|value| value.parse().ok()).ok_or_else(|| format!("no {name} in\n{page}"))
}

/// A row of `raft.snapshot_transfers`: bytes done and in total.
pub fn transfer(cluster: &Cluster, node: usize, direction: &str) -> Option<(u64, u64)> {
    let status = cluster.nodes[node].status().ok()?;
    let rows = status.0["raft"]["snapshot_transfers"].as_array().expect("a list").clone();
    let row = rows.iter().find(|row| row["direction"] == direction)?;
    Some((row["bytes_done"].as_u64().unwrap(), row["bytes_total"].as_u64().unwrap()))
}
