//! A network that falls apart costs availability on the smaller side and nothing else: no stale
//! linearizable read, no acknowledged write lost, no definite failure that comes back; and a leader that
//! hears only one bridge node does not hold up a connected majority.

#![allow(clippy::unwrap_used)]

mod support;

use std::time::{Duration, Instant};

use support::load::judge_answer;
use support::{eventually, Cluster, History, Load, LoadPlan, Plan, Request};

const RESUME_LIMIT: Duration = Duration::from_secs(25);
const CUT: Duration = Duration::from_secs(3);
const LATE_MAX: Duration = Duration::from_millis(1_500);

/// The leader and one follower on one side, three on the other, clients on both.
#[test]
fn minority_with_the_leader() {
    let mut cluster = Cluster::start_plan(&Plan { links: true, ..Plan::nodes(5) });
    let links = cluster.links.clone().unwrap();
    let load = Load::start(
        &cluster.ports(),
        &LoadPlan { timeout: Duration::from_secs(1), ..LoadPlan::new("part", 6) },
    );
    load.wait_acked(100, RESUME_LIMIT);
    let old = cluster.leader();
    cluster.must_put(old, "contested", "old");
    let small = [old, (old + 1) % 5];
    let large: Vec<usize> = (0..5).filter(|i| !small.contains(i)).collect();

    links.cut(&small, &large);
    let new = cluster.wait_for_leader(&large);
    cluster.must_put(new, "contested", "new");
    let mut history = History::default();
    let end = Instant::now() + CUT;
    let mut round = 0;
    while Instant::now() < end {
        for i in small {
            let began = Instant::now();
            let read = cluster.get(i, "contested", "timeout=300ms");
            assert_eq!((read.status, read.code().as_str()), (503, "no_leader"), "{}", read.text());
            let key = format!("cut-{i}-{round}");
            let write = cluster.put(i, &key, &key, "timeout=300ms");
            assert!(matches!(write.status, 503 | 504), "{} {}", write.status, write.text());
            assert!(began.elapsed() < 2 * (Duration::from_millis(300) + LATE_MAX), "{:?}", began.elapsed());
            let outcome = judge_answer(Ok(write), &mut history.surprises);
            history.writes.push(support::load::Write { key: key.clone(), value: key, outcome });
            assert_eq!(cluster.get(i, "contested", "consistency=stale").status, 200);
        }
        for i in &large {
            assert_eq!(cluster.must_get(*i, "contested").as_deref(), Some("new"));
        }
        round += 1;
    }
    links.heal();
    cluster.wait_formed();
    load.wait_acked(200, RESUME_LIMIT);
    history.absorb(load.stop());
    println!("partition: {}", history.summary());
    for i in 0..5 {
        assert_eq!(cluster.must_get(i, "contested").as_deref(), Some("new"));
    }
    cluster.wait_converged();
    history.verify(&cluster.ports());
    history.verify_same(&cluster.ports());
}

/// The old leader reaches only one node, which reaches everyone: the four others are a majority and
/// must elect a leader among themselves (openraft issue 2080).
#[test]
fn bridge_node_does_not_block_a_majority() {
    let mut cluster = Cluster::start_plan(&Plan { links: true, ..Plan::nodes(5) });
    let links = cluster.links.clone().unwrap();
    let old = cluster.leader();
    let bridge = (old + 1) % 5;
    let rest: Vec<usize> = (0..5).filter(|i| *i != old && *i != bridge).collect();
    cluster.must_put(old, "before", "yes");
    links.cut(&[old], &rest);
    eventually("the connected majority takes writes and reads", RESUME_LIMIT, || {
        let put = cluster.put(rest[0], "after", "yes", "timeout=1s");
        if put.status != 200 {
            return Err(put.text());
        }
        let get = cluster.get(rest[1], "after", "timeout=1s");
        if get.status == 200 {
            Ok(())
        } else {
            Err(get.text())
        }
    });
    assert_eq!(cluster.must_get(rest[2], "before").as_deref(), Some("yes"));
    links.heal();
    cluster.wait_formed();
    cluster.wait_converged();
    assert_eq!(cluster.must_get(old, "after").as_deref(), Some("yes"));
}

/// A follower that was cut off comes back without a new election: pre-vote keeps it from raising terms.
#[test]
fn returning_follower_disturbs_nobody() {
    let mut cluster = Cluster::start_plan(&Plan { links: true, ..Plan::nodes(3) });
    let links = cluster.links.clone().unwrap();
    let leader = cluster.leader();
    let follower = (leader + 1) % 3;
    let others: Vec<usize> = (0..3).filter(|i| *i != follower).collect();
    let term = cluster.status(leader).term();
    links.cut(&[follower], &others);
    let end = Instant::now() + CUT;
    let mut writes = 0;
    while Instant::now() < end {
        let put = cluster.ask(leader, &Request::put("/v1/kv/steady?timeout=1s", writes.to_string()));
        assert_eq!(put.status, 200, "{}", put.text());
        writes += 1;
    }
    links.heal();
    cluster.wait_formed();
    cluster.wait_converged();
    assert_eq!(cluster.leader(), leader, "the leader stays");
    assert_eq!(cluster.status(leader).term(), term, "no election was held");
    assert_eq!(cluster.must_get(follower, "steady"), Some((writes - 1).to_string()));
}
