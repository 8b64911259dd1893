//! Whatever happens to processes and links, one thing after another without a rest: reads stay linearizable,
//! nothing acknowledged is lost, nothing refused appears, and in the end all is well again by itself.
//!
//! `VAULTDB_TEST_SEED` repeats a run's choices (not its timing); `VAULTDB_TEST_SECONDS` makes it longer.

#![allow(clippy::unwrap_used)]

mod support;

use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use support::cluster::FORM_LIMIT;
use support::{eventually, Cluster, Load, LoadPlan, Plan, Registers, Request};

const SECONDS_DEFAULT: u64 = 30;
const RESUME_LIMIT: Duration = Duration::from_secs(25);

/// xorshift64*: enough to choose trouble.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % end
    }

    fn wait(&mut self, from_ms: u64, to_ms: u64) {
        thread::sleep(Duration::from_millis(from_ms + self.below(to_ms - from_ms)));
    }

    /// `count` of five nodes.
    fn nodes(&mut self, count: usize) -> Vec<usize> {
        let mut all: Vec<usize> = (0..5).collect();
        (0..count).map(|_| all.remove(self.below(all.len() as u64) as usize)).collect()
    }
}

fn number_from_env(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn nothing_breaks_whatever_breaks() {
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
    let seed = number_from_env("VAULTDB_TEST_SEED").unwrap_or(clock) | 1;
    let seconds = number_from_env("VAULTDB_TEST_SECONDS").unwrap_or(SECONDS_DEFAULT);
    println!("VAULTDB_TEST_SEED={seed}");
    let mut dice = Dice(seed);

    let small = [
        ("VAULTDB_SNAPSHOT_LOGS_SINCE_LAST", "300".to_owned()),
        ("VAULTDB_SNAPSHOT_LOGS_TO_KEEP", "50".to_owned()),
        ("VAULTDB_CACHE_BYTES", "64KiB".to_owned()),
    ];
    let mut cluster = Cluster::start_plan(&Plan { links: true, env: small.to_vec(), ..Plan::nodes(5) });
    let plan = LoadPlan { timeout: Duration::from_secs(1), ..LoadPlan::new("nem", 3) };
    let load = Load::start(&cluster.ports(), &plan);
    let registers = Registers::start(&cluster.ports(), 2);
    load.wait_acked(50, RESUME_LIMIT);

    let end = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < end {
        trouble(&mut cluster, &mut dice);
        dice.wait(50, 1_500);
    }

    cluster.wait_members(&(0..5).map(|i| format!("node{i}")).collect::<Vec<_>>(), FORM_LIMIT);
    load.wait_acked(100, RESUME_LIMIT);
    let history = load.stop();
    println!("{}; {}", history.summary(), registers.stop());
    cluster.wait_converged();
    history.verify(&cluster.ports());
    history.verify_same(&cluster.ports());
}

/// One misfortune and its end.
fn trouble(cluster: &mut Cluster, dice: &mut Dice) {
    let links = cluster.links.clone().unwrap();
    let some = 1 + dice.below(2) as usize;
    match dice.below(8) {
        0 => {
            let victims = dice.nodes(some);
            println!("kill -9 {victims:?}");
            cluster.kill9_all(&victims);
            dice.wait(50, 2_500);
            victims.iter().for_each(|i| cluster.restart(*i));
        }
        1 => {
            println!("kill -9 of a majority");
            let victims = dice.nodes(3);
            cluster.kill9_all(&victims);
            dice.wait(50, 1_000);
            victims.iter().for_each(|i| cluster.restart(*i));
        }
        2 => {
            let victims = dice.nodes(some);
            println!("pause {victims:?}");
            victims.iter().for_each(|i| cluster.pause(*i));
            dice.wait(50, 2_500);
            victims.iter().for_each(|i| cluster.resume(*i));
        }
        3 => {
            let victims = dice.nodes(some);
            let others: Vec<usize> = (0..5).filter(|i| !victims.contains(i)).collect();
            println!("cut {victims:?} off");
            links.cut(&victims, &others);
            dice.wait(50, 2_500);
            links.heal();
        }
        4 => {
            // A ring: each hears two neighbours only.
            println!("cut into a ring");
            (0..5).for_each(|i| links.cut(&[i], &[(i + 2) % 5]));
            dice.wait(50, 2_500);
            links.heal();
        }
        5 => {
            let victim = dice.nodes(1)[0];
            println!("restart {victim}");
            assert_eq!(cluster.terminate(victim).code, Some(0));
            cluster.restart(victim);
        }
        6 => {
            let (via, to) = (dice.nodes(1)[0], dice.nodes(1)[0]);
            println!("leadership to {to}");
            // It may fail while there is no leader.
            let move_it = Request::post("/v1/leader?timeout=1s", format!(r#"{{"name":"node{to}"}}"#));
            let _ = cluster.send(via, &move_it);
        }
        _ => {
            // The leader, if there is one now: the node that matters most.
            let leads = |i: &usize| cluster.nodes[*i].status().is_ok_and(|s| s.state() == "leader");
            let Some(leader) = (0..5).find(leads) else { return };
            println!("pause the leader {leader}, then kill it");
            cluster.pause(leader);
            dice.wait(50, 2_000);
            cluster.resume(leader);
            dice.wait(1, 300);
            cluster.kill9(leader);
            cluster.restart(leader);
        }
    }
}

/// The check has teeth: where reads are stale by default, it says so.
#[test]
fn stale_reads_are_seen() {
    let flags = vec!["--read-consistency".into(), "stale".into()];
    let cluster = Cluster::start_plan(&Plan { flags, ..Plan::nodes(3) });
    let mut registers = Registers::start(&cluster.ports(), 2);
    eventually("a stale read is noticed", RESUME_LIMIT, || match registers.violations().len() {
        0 => Err(format!("none in {} reads", registers.reads())),
        _ => Ok(()),
    });
    assert!(registers.end()[0].contains("was known before"));
}
