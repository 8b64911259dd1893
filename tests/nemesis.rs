//! Whatever happens to processes and links, one thing after another without a rest: reads stay linearizable,
//! nothing acknowledged is lost, nothing refused appears, and in the end all is well again by itself.
//!
//! `VAULTDB_TEST_SEED` repeats a run's choices (not its timing); `VAULTDB_TEST_SECONDS` makes it longer.

#![allow(clippy::unwrap_used)]

mod support;

use std::time::{Duration, Instant};

use support::cluster::FORM_LIMIT;
use support::dice::{number_from_env, seed};
use support::{Cluster, Contention, ContentionPlan, Dice, Load, LoadPlan, Plan, Request};

const SECONDS_DEFAULT: u64 = 30;
/// Of the run for leases, which is there for the reads only.
const LEASE_SECONDS_DEFAULT: u64 = 20;
/// A follower is behind for a millisecond or so after each write: seen in the first rounds.
const ROUNDS_UNTIL_SEEN_MAX: usize = 20;
/// Longest wait for a load to go on: a paused or restarted majority comes back within seconds, an election
/// takes about one.
const RESUME_LIMIT: Duration = Duration::from_secs(25);

/// Five nodes that take snapshots often and hardly cache.
fn cluster() -> Cluster {
    let small = [
        ("VAULTDB_SNAPSHOT_LOGS_SINCE_LAST", "300".to_owned()),
        ("VAULTDB_SNAPSHOT_LOGS_TO_KEEP", "50".to_owned()),
        ("VAULTDB_CACHE_BYTES", "64KiB".to_owned()),
    ];
    Cluster::start_plan(&Plan { links: true, env: small.to_vec(), ..Plan::nodes(5) })
}

/// One misfortune after the other, and then a whole cluster again.
fn torment(cluster: &mut Cluster, dice: &mut Dice, seconds_default: u64) {
    let seconds = number_from_env("VAULTDB_TEST_SECONDS").unwrap_or(seconds_default);
    let end = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < end {
        trouble(cluster, dice);
        dice.wait(50..1_500);
    }
    cluster.wait_members(&(0..5).map(|i| format!("node{i}")).collect::<Vec<_>>(), FORM_LIMIT);
}

#[test]
fn nothing_breaks_whatever_breaks() {
    let seed = seed();
    let mut cluster = cluster();
    let plan = LoadPlan { timeout: Duration::from_secs(1), ..LoadPlan::new("nem", 3) };
    let load = Load::start(&cluster.ports(), &plan);
    let contention = Contention::start(&cluster.ports(), &ContentionPlan::new("linearizable", seed));
    load.wait_acked(50, RESUME_LIMIT);
    torment(&mut cluster, &mut Dice::new(seed), SECONDS_DEFAULT);
    load.wait_acked(100, RESUME_LIMIT);
    contention.wait_answered(100, RESUME_LIMIT);
    let (history, record) = (load.stop(), contention.end());
    println!("{}", history.summary());
    println!("{}", record.verify());
    cluster.wait_converged();
    history.verify(&cluster.ports());
    history.verify_same(&cluster.ports());
}

/// The same holds for reads by lease: the clocks of one machine do not drift.
#[test]
fn leases_keep_their_word_whatever_breaks() {
    let seed = seed();
    let mut cluster = cluster();
    let contention = Contention::start(&cluster.ports(), &ContentionPlan::new("lease", seed));
    contention.wait_answered(200, RESUME_LIMIT);
    torment(&mut cluster, &mut Dice::new(seed), LEASE_SECONDS_DEFAULT);
    contention.wait_answered(100, RESUME_LIMIT);
    println!("{}", contention.stop());
}

/// One misfortune and its end.
fn trouble(cluster: &mut Cluster, dice: &mut Dice) {
    let links = cluster.links.clone().unwrap();
    let some = 1 + dice.below(2) as usize;
    match dice.below(10) {
        0 => {
            let victims = dice.some_of(some, 5);
            println!("kill -9 {victims:?}");
            cluster.kill9_all(&victims);
            dice.wait(50..2_500);
            victims.iter().for_each(|i| cluster.restart(*i));
        }
        1 => {
            println!("kill -9 of a majority");
            let victims = dice.some_of(3, 5);
            cluster.kill9_all(&victims);
            dice.wait(50..1_000);
            victims.iter().for_each(|i| cluster.restart(*i));
        }
        2 => {
            let victims = dice.some_of(some, 5);
            println!("pause {victims:?}");
            victims.iter().for_each(|i| cluster.pause(*i));
            dice.wait(50..2_500);
            victims.iter().for_each(|i| cluster.resume(*i));
        }
        3 => {
            let victims = dice.some_of(some, 5);
            let others: Vec<usize> = (0..5).filter(|i| !victims.contains(i)).collect();
            println!("cut {victims:?} off");
            links.cut(&victims, &others);
            dice.wait(50..2_500);
            links.heal();
        }
        4 => {
            let victims = dice.some_of(some, 5);
            let others: Vec<usize> = (0..5).filter(|i| !victims.contains(i)).collect();
            if dice.chance(50) {
                println!("{victims:?} are not heard");
                links.cut_one_way(&victims, &others);
            } else {
                println!("{victims:?} hear nothing");
                links.cut_one_way(&others, &victims);
            }
            dice.wait(50..2_500);
            links.heal();
        }
        5 => {
            // A ring: each hears two neighbours only.
            println!("cut into a ring");
            (0..5).for_each(|i| links.cut(&[i], &[(i + 2) % 5]));
            dice.wait(50..2_500);
            links.heal();
        }
        6 => {
            let victim = dice.some_of(1, 5)[0];
            println!("restart {victim}");
            assert_eq!(cluster.terminate(victim).code, Some(0));
            cluster.restart(victim);
        }
        7 => {
            let (via, to) = (dice.some_of(1, 5)[0], dice.some_of(1, 5)[0]);
            println!("leadership to {to}");
            // It may fail while there is no leader.
            let move_it = Request::post("/v1/leader?timeout=1s", format!(r#"{{"name":"node{to}"}}"#));
            let _ = cluster.send(via, &move_it);
        }
        8 => {
            // What a lease fears most: its holder alone, while those who granted it start afresh.
            let Some(leader) = leading(cluster) else { return };
            let followers: Vec<usize> = (0..5).filter(|i| *i != leader).collect();
            println!("cut the leader {leader} off, kill the others");
            links.cut(&[leader], &followers);
            cluster.kill9_all(&followers);
            followers.iter().for_each(|i| cluster.restart(*i));
            dice.wait(500..2_500);
            links.heal();
        }
        _ => {
            // The node that matters most.
            let Some(leader) = leading(cluster) else { return };
            println!("pause the leader {leader}, then kill it");
            cluster.pause(leader);
            dice.wait(50..2_000);
            cluster.resume(leader);
            dice.wait(1..300);
            cluster.kill9(leader);
            cluster.restart(leader);
        }
    }
}

/// The leader, if there is one now.
fn leading(cluster: &Cluster) -> Option<usize> {
    (0..5).find(|i| cluster.nodes[*i].status().is_ok_and(|status| status.state() == "leader"))
}

/// The check has teeth: nodes that skip the read index and call their answers linearizable are found out.
#[test]
fn reads_that_nobody_confirmed_are_seen() {
    let wrong = ("VAULT_FAILPOINT", "reads-unconfirmed:0".to_owned());
    let cluster = Cluster::start_plan(&Plan { env: vec![wrong], ..Plan::nodes(3) });
    let seed = seed();
    for round in 0..ROUNDS_UNTIL_SEEN_MAX {
        let prefix = format!("unconfirmed{round}");
        let plan = ContentionPlan { prefix, ..ContentionPlan::new("linearizable", seed) };
        let contention = Contention::start(&cluster.ports(), &plan);
        contention.wait_answered(1_000, RESUME_LIMIT);
        let violations = contention.end().violations();
        if let Some(violation) = violations.first() {
            println!("seen in round {round}: {violation}");
            return;
        }
    }
    panic!("not seen in {ROUNDS_UNTIL_SEEN_MAX} rounds of 1,000 operations");
}
