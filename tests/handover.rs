//! Leadership moves without a failed request when it is asked to and when its node stops, and within a moment
//! when the leader's disk stands still.
//!
//! The stall needs a binary with debug assertions, as tests are built.

#![allow(clippy::unwrap_used)]

mod support;

use std::time::{Duration, Instant};

use support::{eventually, Cluster, Load, LoadPlan, Outcome, Request};

const MOVES: usize = 20;
const MOVE_LIMIT: Duration = Duration::from_secs(10);
/// How long writes may stand still when the leader's disk does.
const STALL_LIMIT: Duration = Duration::from_millis(1_500);
/// Batches that the leader's log writes before it stands still: enough to be in the middle of the load.
const STALL_PASSES: u64 = 200;

fn move_leader(cluster: &Cluster, to: usize) -> Duration {
    let began = Instant::now();
    let answer = cluster.ask(to, &Request::post("/v1/leader", format!(r#"{{"name":"node{to}"}}"#)));
    assert_eq!(answer.status, 200, "{}", answer.text());
    began.elapsed()
}

/// Under load, on every node, no request fails while leadership goes round.
#[test]
fn planned_handovers_fail_no_request() {
    let cluster = Cluster::start(3);
    let load = Load::start(&cluster.ports(), &LoadPlan::new("moves", 8));
    load.wait_acked(50, MOVE_LIMIT);
    let mut took: Vec<Duration> = (0..MOVES)
        .map(|_| {
            let to = (cluster.leader() + 1) % 3;
            let took = move_leader(&cluster, to);
            load.wait_acked(50, MOVE_LIMIT);
            took
        })
        .collect();
    let history = load.stop();
    took.sort();
    println!("{}; handovers: median {:?}, longest {:?}", history.summary(), took[MOVES / 2], took[MOVES - 1]);
    let failed = history.count(|outcome| !matches!(outcome, Outcome::Acked { .. }));
    assert_eq!(failed, 0, "{}", history.summary());
    history.verify(&cluster.ports());
}

/// The leader's disk stands still; the leader itself goes on being heard. Writes go on elsewhere.
#[test]
fn a_leader_with_a_stalled_disk_steps_aside() {
    let mut cluster = Cluster::start(3);
    let victim = (cluster.leader() + 1) % 3;
    cluster.kill9(victim);
    cluster.nodes[victim].env = vec![("VAULT_FAILPOINT", format!("log-stalled:{STALL_PASSES}"))];
    cluster.restart(victim);
    cluster.wait_formed();
    move_leader(&cluster, victim);
    let others: Vec<usize> = (0..3).filter(|i| *i != victim).collect();
    // One write at a time, each with little patience: the time between two that succeed is what users see.
    let (mut last, mut longest, mut moved) = (Instant::now(), Duration::ZERO, false);
    let mut n = 0;
    eventually("another node leads and takes writes", MOVE_LIMIT, || {
        for _ in 0..STALL_PASSES {
            n += 1;
            let node = others[n % 2];
            let answer = cluster.put(node, &format!("k{}", n % 10), "v", "timeout=200ms");
            if answer.status == 200 {
                longest = longest.max(last.elapsed());
                last = Instant::now();
                moved = cluster.status(node).leader() != Some(format!("node{victim}"));
            }
            if moved {
                return Ok(());
            }
        }
        Err(format!("after {n} writes node{victim} still leads"))
    });
    println!("writes stood still for {longest:?}");
    let said = cluster.nodes[victim].log_text().contains("leadership moves away");
    assert!(said, "leadership moved, but not because of the disk");
    assert!(longest <= STALL_LIMIT, "writes stood still for {longest:?}");
    cluster.kill9(victim);
}
