//! The log is kept short by count and by bytes, and yet long enough that a node which was away for a moment is
//! sent entries, not a snapshot.

#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use support::snapshots::{metric, put};
use support::{eventually, Cluster, Plan};

const LIMIT: Duration = Duration::from_secs(30);
const INSTALLED: &str = "vaultdb_snapshot_installed_total";

fn plan(nodes: usize, env: &[(&'static str, &str)]) -> Plan {
    let env = env.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
    Plan { env, ..Plan::nodes(nodes) }
}

fn write(cluster: &Cluster, count: usize, bytes: usize) {
    let leader = cluster.leader();
    let value = "x".repeat(bytes);
    for number in 0..count {
        put(cluster, leader, &format!("k{}", number % 50), &value);
    }
}

/// Waits until the leader has a snapshot from after `index`, and has purged what it need not keep.
fn wait_purged(cluster: &Cluster, index: u64, kept: u64) {
    let leader = cluster.leader();
    eventually("a snapshot is built and the log purged behind it", LIMIT, || {
        let status = cluster.status(leader);
        status.check_order();
        let (snapshot, purged) = (status.number("/raft/snapshot"), status.number("/raft/purged"));
        if snapshot > index && purged + kept >= snapshot {
            return Ok(());
        }
        Err(format!("snapshot {snapshot} after {index}, purged {purged}"))
    });
}

/// Behind by less than is kept: entries, however many snapshots were built meanwhile. By more: a snapshot.
#[test]
fn short_absence_needs_no_snapshot() {
    let env = [("VAULTDB_SNAPSHOT_LOGS_SINCE_LAST", "100"), ("VAULTDB_SNAPSHOT_LOGS_TO_KEEP", "1000")];
    let mut cluster = Cluster::start_plan(&plan(3, &env));
    let victim = (cluster.leader() + 1) % 3;
    for (writes, snapshots) in [(600, 0), (1_400, 1)] {
        let last_log = cluster.status(victim).number("/raft/last_log");
        cluster.kill9(victim);
        write(&cluster, writes, 10);
        wait_purged(&cluster, last_log + writes as u64 - 200, 1_000);
        cluster.restart(victim);
        cluster.wait_formed();
        cluster.wait_converged();
        assert_eq!(metric(&cluster, victim, INSTALLED), snapshots, "after {writes} writes");
    }
}

/// Values that are few and large: bytes decide when a snapshot is built and how much is kept.
#[test]
fn large_values_keep_the_log_short() {
    const VALUE_BYTES: usize = 64 * 1024;
    let env = [
        ("VAULTDB_SNAPSHOT_BYTES_SINCE_LAST", "2MiB"),
        ("VAULTDB_SNAPSHOT_BYTES_TO_KEEP", "1MiB"),
        ("VAULTDB_WAL_SEGMENT_BYTES", "256KiB"),
    ];
    let mut cluster = Cluster::start_plan(&plan(3, &env));
    write(&cluster, 200, VALUE_BYTES);
    wait_purged(&cluster, 100, 32);
    for node in &cluster.nodes {
        let wal = node.data.join("wal");
        eventually(&format!("{}'s log is short on disk", node.name), LIMIT, || {
            let files = wal.read_dir().unwrap().filter_map(|file| file.ok()?.metadata().ok());
            let bytes: u64 = files.map(|file| file.len()).sum();
            // Between two snapshots, before the last one, and the files at both ends.
            if bytes <= 6 << 20 {
                Ok(())
            } else {
                Err(format!("{bytes} bytes"))
            }
        });
    }
    let victim = (cluster.leader() + 1) % 3;
    for (writes, snapshots) in [(8, 0), (100, 1)] {
        cluster.kill9(victim);
        write(&cluster, writes, VALUE_BYTES);
        if snapshots > 0 {
            let last = cluster.status(cluster.leader()).number("/raft/last_log");
            wait_purged(&cluster, last - 60, 32);
        }
        cluster.restart(victim);
        cluster.wait_formed();
        cluster.wait_converged();
        assert_eq!(metric(&cluster, victim, INSTALLED), snapshots, "after {writes} writes");
    }
}
