//! Each fault that may be injected shows where it should, costs no acknowledged write, and is over when it is cleared
//! or when its time is.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::json;
use support::{eventually, Cluster, Load, LoadPlan, Plan, Request};

/// Far longer than anything here takes: what ends sooner was ended.
const LONG: &str = "10m";
const LIMIT: Duration = Duration::from_secs(20);
/// How long writes may stand still when the leader's disk does: many times what they do.
const STALL_LIMIT: Duration = Duration::from_secs(10);
const EXIT_UNFIT: i32 = 70;

fn start(env: Vec<(&'static str, String)>) -> Cluster {
    let flags = vec!["--enable-fault-injection".to_owned()];
    Cluster::start_plan(&Plan { flags, env, ..Plan::nodes(3) })
}

fn clear(cluster: &Cluster, node: usize, id: Option<u64>) {
    let target = id.map_or("/v1/faults".into(), |id| format!("/v1/faults/{id}"));
    let answer = cluster.ask(node, &Request::delete(target));
    assert_eq!((answer.status, &answer.json()["cleared"]), (200, &json!(1)), "{}", answer.text());
}

/// Waits until the node has told of an event with these words.
fn wait_told(cluster: &Cluster, node: usize, event: &str) {
    eventually(&format!("node{node} tells \"{event}\""), LIMIT, || {
        let told = cluster.nodes[node].log_text().lines().any(|line| line.contains(event));
        told.then_some(()).ok_or_else(|| "not told".to_owned())
    });
}

fn is_reachable(cluster: &Cluster, from: usize, to: usize) -> bool {
    cluster.status(from).member(&format!("node{to}")).unwrap().reachable
}

/// The leader's disk stands still: another node leads, and no acknowledged write is lost.
#[test]
fn stalled_disk_of_the_leader() {
    let mut cluster = start(Vec::new());
    let load = Load::start(&cluster.ports(), &LoadPlan::new("stall", 4));
    load.wait_acked(100, LIMIT);
    let old = cluster.leader();
    let others: Vec<usize> = (0..3).filter(|i| *i != old).collect();
    let began = Instant::now();
    let id = cluster.inject(old, &json!({"kind":"fsync_delay","delay":"5s","duration":LONG}));
    // As a client does that tries again at once, elsewhere.
    let mut tries = 0;
    eventually("a write is acknowledged under another leader", STALL_LIMIT, || {
        tries += 1;
        let node = others[tries % 2];
        let answer = cluster.put(node, "elsewhere", "v", "timeout=200ms");
        match answer.status {
            200 if cluster.status(node).leader() != Some(format!("node{old}")) => Ok(()),
            _ => Err(answer.text()),
        }
    });
    println!("writes went on elsewhere {:?} after the disk stood still, try {tries}", began.elapsed());
    assert_ne!(cluster.wait_for_leader_other_than(old), old);
    wait_told(&cluster, old, "wal: fault_injected: fault 1: each fdatasync of the log takes 5000 ms longer");
    load.wait_acked(100, LIMIT);
    clear(&cluster, old, id);
    wait_told(&cluster, old, "wal: fault_cleared: fault 1, fsync_delay: it was cleared");
    load.wait_acked(100, LIMIT);
    let history = load.stop();
    println!("stalled disk: {}", history.summary());
    cluster.wait_formed();
    cluster.wait_converged();
    history.verify(&cluster.ports());
    history.verify_same(&cluster.ports());
}

/// A peer that is cut off by name is missed by that node alone, one that cuts itself off hears nobody; a delay makes
/// writes take longer and loses nothing.
#[test]
fn traffic_between_peers() {
    let mut cluster = start(Vec::new());
    let leader = cluster.leader();
    let (cut, other) = ((leader + 1) % 3, (leader + 2) % 3);
    let name = format!("node{cut}");

    let id = cluster.inject(leader, &json!({"kind":"peer_drop","peer":name,"duration":LONG}));
    eventually("the leader misses the one that is cut off", LIMIT, || {
        match (is_reachable(&cluster, leader, cut), is_reachable(&cluster, leader, other)) {
            (false, true) => Ok(()),
            seen => Err(format!("{seen:?}")),
        }
    });
    assert!(is_reachable(&cluster, other, cut), "the third node still speaks with it");
    cluster.must_put(other, "during-cut", "v");
    clear(&cluster, leader, id);
    cluster.wait_formed();
    cluster.wait_converged();

    // It ends by itself, and while it is on nothing comes from anybody.
    let leader = cluster.leader();
    let alone = (leader + 1) % 3;
    cluster.inject(alone, &json!({"kind":"peer_drop","duration":"3s"}));
    let read = cluster.get(alone, "during-cut", "timeout=300ms");
    assert_eq!((read.status, read.code().as_str()), (503, "no_leader"), "{}", read.text());
    wait_told(&cluster, alone, "peer_drop: its time is over");
    assert_eq!(cluster.ask(alone, &Request::get("/v1/faults")).json(), json!({"faults":[]}));
    cluster.wait_formed();
    assert_eq!(cluster.must_get(alone, "during-cut").as_deref(), Some("v"));

    let leader = cluster.leader();
    let id = cluster.inject(leader, &json!({"kind":"peer_delay","delay":"100ms","duration":LONG}));
    let timed_put = |key: &str| {
        let began = Instant::now();
        cluster.must_put(leader, key, "v");
        began.elapsed()
    };
    let slow = timed_put("delayed");
    if cluster.leader() == leader {
        assert!(slow >= Duration::from_millis(100), "{slow:?}");
    }
    clear(&cluster, leader, id);
    eventually("writes are fast again", LIMIT, || match timed_put("prompt") {
        fast if fast < Duration::from_millis(100) => Ok(()),
        slow => Err(format!("{slow:?}")),
    });
    cluster.wait_converged();
}

/// A panic and a hang are told of and healed; a failed fsync ends the node as unfit, and the others go on; the file
/// that is named is damaged, and no other byte around it.
#[test]
fn sudden_faults() {
    let mut cluster = start(vec![("VAULTDB_SNAPSHOT_LOGS_SINCE_LAST", "20".into())]);
    let victim = (cluster.leader() + 1) % 3;
    for (component, fault) in [
        ("dispatcher", json!({"kind":"actor_panic","component":"dispatcher"})),
        ("store", json!({"kind":"actor_panic","component":"store"})),
        ("raft", json!({"kind":"actor_hang","component":"raft","duration":"4s"})),
    ] {
        assert_eq!(cluster.inject(victim, &fault), None);
        wait_told(&cluster, victim, ": fault_injected: it is made to ");
        eventually(&format!("{component} is rebuilt"), LIMIT, || {
            let text = cluster.nodes[victim].log_text();
            let rebuilt = text.lines().any(|line| line.contains(component) && line.contains(": restarted: "));
            rebuilt.then_some(()).ok_or_else(|| "not rebuilt".to_owned())
        });
        cluster.must_put(victim, component, "v");
    }
    let refused =
        cluster.ask(victim, &Request::post("/v1/faults", r#"{"kind":"actor_panic","component":"x"}"#));
    assert_eq!((refused.status, refused.code().as_str()), (400, "invalid_parameter"), "{}", refused.text());
    let unknown = cluster.ask(victim, &Request::post("/v1/faults", r#"{"kind":"peer_drop","peer":"x"}"#));
    assert_eq!((unknown.status, unknown.code().as_str()), (400, "invalid_parameter"), "{}", unknown.text());

    let failing = (victim + 1) % 3;
    cluster.inject(failing, &json!({"kind":"fsync_fail","duration":LONG}));
    // Whoever leads, the entry reaches the log of each; the one that fails may have been asked.
    cluster.put((victim + 2) % 3, "after", "v", "timeout=5s");
    let stopped = cluster.nodes[failing].reap(LIMIT);
    assert_eq!(stopped.code, Some(EXIT_UNFIT));
    assert!(cluster.nodes[failing].log_text().contains("failed by an injected fault"));
    cluster.restart(failing);
    cluster.wait_formed();
    cluster.must_put(failing, "after", "v");

    // Last: what comes of damage is another matter.
    for i in 0..30 {
        cluster.must_put(victim, &format!("k{i}"), "some value");
    }
    eventually("there is a snapshot", LIMIT, || match cluster.status(victim).number("/raft/snapshot") {
        0 => Err("none".to_owned()),
        _ => Ok(()),
    });
    cluster.wait_converged();
    damage(&cluster, victim, "wal");
    damage(&cluster, victim, "snapshot");
    damage(&cluster, victim, "identity");
    assert_eq!(cluster.inject(victim, &json!({"kind":"flip_bits","file":"rocksdb"})), None);
    wait_told(&cluster, victim, ".sst were flipped at byte");
}

/// Damages a file, and checks that it is damaged where the node says and nowhere else in the bytes around.
fn damage(cluster: &Cluster, node: usize, kind: &str) {
    let data = &cluster.nodes[node].data;
    let before = contents(data);
    assert_eq!(cluster.inject(node, &json!({"kind":"flip_bits","file":kind})), None);
    let told = eventually(&format!("node{node} tells what was damaged"), LIMIT, || {
        let prefix = match kind {
            "wal" => "3 bits of wal/",
            "snapshot" => "3 bits of snapshots/",
            _ => "3 bits of identity.json",
        };
        let text = cluster.nodes[node].log_text();
        let told =
            text.lines().rev().find_map(|line| line.split_once(prefix).map(|(_, rest)| rest.to_owned()));
        told.map(|rest| format!("{prefix}{rest}")).ok_or_else(|| "not told".to_owned())
    });
    let (file, at) = told.strip_prefix("3 bits of ").unwrap().split_once(" were flipped at byte ").unwrap();
    let (path, at) = (data.join(file), at.trim().parse::<usize>().unwrap());
    let (old, new) = (&before[&path], fs::read(&path).unwrap());
    let around = at.saturating_sub(64)..(at + 64).min(old.len());
    let changed: Vec<usize> = around.filter(|i| old[*i] != new[*i]).collect();
    assert_eq!(changed, [at, at + 1, at + 2], "{told}");
}

fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(contents(&path));
        } else if let Ok(content) = fs::read(&path) {
            // What is gone since is not looked at.
            found.insert(path, content);
        }
    }
    found
}

/// A node that was not started for it has nothing of it.
#[test]
fn off_unless_asked_for() {
    let cluster = Cluster::start(1);
    for request in [
        Request::get("/v1/faults"),
        Request::post("/v1/faults", r#"{"kind":"disk_full"}"#),
        Request::delete("/v1/faults"),
        Request::delete("/v1/faults/1"),
    ] {
        let answer = cluster.ask(0, &request);
        assert_eq!((answer.status, answer.code().as_str()), (404, "no_such_route"), "{}", answer.text());
    }
}
