//! An acknowledged write survives a power cut: all five nodes are killed at once under load, twenty times
//! over, and after each restart everything that was ever acknowledged is there.

#![allow(clippy::unwrap_used)]

mod support;

use std::time::{Duration, Instant};

use support::{Cluster, History, Load, LoadPlan};

const ROUNDS: usize = 20;
/// Acknowledgements before the axe falls: enough that entries are in every stage of their way.
const ACKED_MIN: u64 = 150;
/// Longest wait for them, an election included.
const LOAD_LIMIT: Duration = Duration::from_secs(25);

#[test]
fn nothing_lost_when_all_are_killed() {
    let mut cluster = Cluster::start(5);
    let all: Vec<usize> = (0..5).collect();
    let mut history = History::default();
    let began = Instant::now();
    let mut last_revision = 0;
    for round in 0..ROUNDS {
        let plan = LoadPlan { rest: Duration::ZERO, ..LoadPlan::new(&format!("r{round}"), 6) };
        let load = Load::start(&cluster.ports(), &plan);
        load.wait_acked(ACKED_MIN, LOAD_LIMIT);
        cluster.kill9_all(&all);
        let this_round = load.stop();
        for i in &all {
            cluster.restart(*i);
        }
        let leader = cluster.leader();
        this_round.verify(&cluster.ports());
        let revision = cluster.must_put(leader, "round", &round.to_string());
        assert!(revision > last_revision, "revision {revision} after {last_revision}");
        last_revision = revision;
        history.absorb(this_round);
    }
    println!("{ROUNDS} rounds in {:?}: {}", began.elapsed(), history.summary());
    cluster.wait_formed();
    cluster.wait_converged();
    history.verify(&cluster.ports());
    history.verify_same(&cluster.ports());
}
