//! A cluster of five survives the sudden loss of two nodes, its leader among them, and loses nothing that
//! it acknowledged. Without a majority it acknowledges nothing, says so in time, and still reads stale.

#![allow(clippy::unwrap_used)]

mod support;

use std::time::{Duration, Instant};

use support::dice::seed;
use support::load::judge_answer;
use support::snapshots::{metric, try_metric};
use support::{eventually, Cluster, Contention, ContentionPlan, History, Load, LoadPlan, Request};

/// Longest wait for writes to go on after the leader is gone: an election and some retries.
const RESUME_LIMIT: Duration = Duration::from_secs(20);
/// How much later than its own timeout a request may be answered on a busy machine.
const LATE_MAX: Duration = Duration::from_millis(1_500);

#[test]
fn two_of_five_killed_and_nothing_lost() {
    let mut cluster = Cluster::start(5);
    let load = Load::start(&cluster.ports(), &LoadPlan::new("two", 8));
    let contention = Contention::start(&cluster.ports(), &ContentionPlan::new("linearizable", seed()));
    load.wait_acked(300, RESUME_LIMIT);

    let leader = cluster.leader();
    let follower = (leader + 1) % 5;
    cluster.kill9_all(&[leader, follower]);
    load.wait_acked(300, RESUME_LIMIT);
    let mut history = load.stop();
    println!("{}", contention.stop());
    println!("two killed: {}", history.summary());
    assert!(history.acked() >= 600);

    let alive = cluster.running();
    assert_eq!(alive.len(), 3);
    for i in &alive {
        let body = format!(r#"{{"after{i}":"batman"}}"#);
        let post = cluster.ask(*i, &Request::post("/key", body));
        assert_eq!(post.status, 200, "POST on node{i}: {}", post.text());
        for reader in &alive {
            assert_eq!(cluster.must_get(*reader, &format!("after{i}")).as_deref(), Some("batman"));
        }
    }
    history.verify(&cluster.running_ports());

    // The third to go is whoever leads now: the harder case for those that remain.
    let third = cluster.leader();
    cluster.kill9(third);
    history.absorb(without_a_majority(&cluster));

    for i in [leader, follower, third] {
        cluster.restart(i);
    }
    cluster.wait_formed();
    cluster.wait_converged();
    history.verify(&cluster.ports());
    history.verify_same(&cluster.ports());
}

/// Two of five are left: every answer comes in time, none claims success. Answers what was written.
fn without_a_majority(cluster: &Cluster) -> History {
    let mut history = History::default();
    for round in 0..3 {
        for i in cluster.running() {
            let key = format!("minority-{i}-{round}");
            let request = Request::post("/key?timeout=1s", format!(r#"{{"{key}":"{key}"}}"#));
            let began = Instant::now();
            let answer = cluster.ask(i, &request);
            let took = began.elapsed();
            assert!(matches!(answer.status, 503 | 504), "{}: {}", answer.status, answer.text());
            assert!(took < Duration::from_secs(1) + LATE_MAX, "a write took {took:?} with timeout=1s");
            let outcome = judge_answer(Ok(answer), &mut history.surprises);
            history.writes.push(support::load::Write { key: key.clone(), value: key, outcome });

            let began = Instant::now();
            let read = cluster.get(i, "two-0-0", "timeout=1s");
            let took = began.elapsed();
            assert_eq!((read.status, read.code().as_str()), (503, "no_leader"), "{}", read.text());
            assert!(took < Duration::from_secs(1) + LATE_MAX, "a read took {took:?} with timeout=1s");

            let began = Instant::now();
            let stale = cluster.get(i, "two-0-0", "consistency=stale");
            assert_eq!(stale.status, 200, "{}", stale.text());
            let seed = cluster.ask(i, &Request::get("/key/two-0-0?consistency=stale"));
            assert_eq!(seed.status, 200, "{}", seed.text());
            assert!(began.elapsed() < LATE_MAX, "stale reads took {:?}", began.elapsed());
            assert_eq!(cluster.status(i).members().len(), 5);
        }
    }
    println!("three killed: {}", history.summary());
    history
}

/// A leader whose followers are gone says that it leads without a quorum: in its metrics, by which alerts go, and in its
/// health.
#[test]
fn leader_without_a_quorum_says_so() {
    let mut cluster = Cluster::start(3);
    let leader = cluster.leader();
    let others: Vec<usize> = (0..3).filter(|i| *i != leader).collect();
    let leads = |cluster: &Cluster, expected: u64| {
        eventually(&format!("node{leader} leads with a quorum: {expected}"), RESUME_LIMIT, || {
            let names = ["vaultdb_server_has_leader", "vaultdb_server_is_leader"];
            let found = names.map(|name| metric(cluster, leader, name));
            (found == [expected; 2]).then_some(()).ok_or_else(|| format!("{found:?}"))
        });
    };
    leads(&cluster, 1);
    cluster.kill9_all(&others);
    leads(&cluster, 0);
    eventually("its health says why", RESUME_LIMIT, || {
        let said = cluster.nodes[leader].status()?.0["health"].to_string();
        said.contains("it leads without a quorum").then_some(()).ok_or(said)
    });
    cluster.restart(others[0]);
    eventually("somebody leads with a quorum", RESUME_LIMIT, || {
        let leads = |node: usize| try_metric(&cluster, node, "vaultdb_server_is_leader");
        let found = [leads(leader)?, leads(others[0])?];
        (found.iter().sum::<u64>() == 1).then_some(()).ok_or_else(|| format!("{found:?}"))
    });
}
