//! A node that is asked for more than it can do says so, with 429 and when to come back; its memory stays
//! bounded, and it serves again as soon as the load is gone.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use support::{eventually, Client, Cluster, Plan, Request};

const IN_FLIGHT_MAX: usize = 64;
const CLIENTS: usize = 200;
const WAVES: usize = 4;
const VALUE_BYTES: usize = 100 * 1024;
/// What three more waves may leave behind of the 60 MiB that they send: what the allocator keeps.
const GROWTH_BYTES_MAX: u64 = 40 << 20;
const RECOVERY_LIMIT: Duration = Duration::from_secs(20);

fn resident_bytes(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// Everybody writes at once while no majority answers. Answers how many were refused for load.
fn wave(cluster: &Cluster, leader: usize) -> usize {
    let refused = AtomicUsize::new(0);
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (port, refused) = (cluster.port(leader), &refused);
            scope.spawn(move || {
                let target = format!("/v1/kv/k{client}?timeout=1s");
                let request = Request::put(target, vec![b'v'; VALUE_BYTES]);
                let answer = Client::new(port).send(&request).expect("an answer");
                match (answer.status, answer.code().as_str()) {
                    (429, "overloaded") => {
                        assert_eq!(answer.applied(), "no");
                        assert!(answer.header("retry-after").is_some_and(|s| s.parse::<u64>().is_ok()));
                        assert!(answer.json()["retry_after_ms"].is_u64(), "{}", answer.text());
                        refused.fetch_add(1, Ordering::Relaxed);
                    }
                    (504, "outcome_unknown") | (503, "no_leader") => {}
                    _ => panic!("{} {}", answer.status, answer.text()),
                }
            });
        }
    });
    refused.into_inner()
}

#[test]
fn overload_is_refused_bounded_and_passes() {
    // Small caches: what is left to grow is what waits.
    let env = vec![
        ("VAULTDB_REQUESTS_IN_FLIGHT_MAX", IN_FLIGHT_MAX.to_string()),
        ("VAULTDB_CACHE_BYTES", "1MiB".into()),
        ("VAULTDB_BLOCK_CACHE_BYTES", "1MiB".into()),
        ("VAULTDB_WRITE_BUFFER_BYTES", "1MiB".into()),
        ("VAULTDB_WAL_CACHE_BYTES", "1MiB".into()),
        ("VAULTDB_WAL_SEGMENT_BYTES", "1MiB".into()),
    ];
    let mut cluster = Cluster::start_plan(&Plan { env, ..Plan::nodes(3) });
    let leader = cluster.leader();
    let pid = cluster.nodes[leader].pid().unwrap();
    let followers: Vec<usize> = (0..3).filter(|i| *i != leader).collect();
    let mut sizes = Vec::new();
    for _ in 0..WAVES {
        followers.iter().for_each(|i| cluster.pause(*i));
        let refused = wave(&cluster, leader);
        assert!(refused >= CLIENTS - 2 * IN_FLIGHT_MAX, "only {refused} of {CLIENTS} were refused");
        sizes.push(resident_bytes(pid));
        followers.iter().for_each(|i| cluster.resume(*i));
        eventually("the node serves again", RECOVERY_LIMIT, || {
            let answer = cluster.put(leader, "after", "v", "timeout=2s");
            (answer.status == 200).then_some(()).ok_or_else(|| answer.text())
        });
    }
    println!("resident after each wave: {:?} MiB", sizes.iter().map(|bytes| bytes >> 20).collect::<Vec<_>>());
    let growth = sizes[WAVES - 1].saturating_sub(sizes[0]);
    assert!(growth < GROWTH_BYTES_MAX, "grew by {growth} bytes over {WAVES} waves");
    assert_eq!(cluster.must_get(followers[0], "after").as_deref(), Some("v"));
}
