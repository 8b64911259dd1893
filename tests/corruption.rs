//! A damaged file is found before it is served, and the node is rebuilt from its peers under a new id, without a
//! human; the others answer every request meanwhile.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::{json, Value};
use support::{eventually, Client, Cluster, Load, LoadPlan, Outcome, Plan, Request};

const REBUILT_LIMIT: Duration = Duration::from_secs(60);
const LOAD_LIMIT: Duration = Duration::from_secs(30);
const FLUSHED_LIMIT: Duration = Duration::from_secs(30);
const FLIPS_MAX: usize = 10;
/// More than a quarantine has.
const STEPS_MAX: usize = 20;
/// Exit code of a node that is to be started again.
const UNFIT: i32 = 70;

/// Snapshots and full segments soon, and everything verified each second.
fn plan(nodes: usize) -> Plan {
    let env = [
        ("VAULTDB_SNAPSHOT_LOGS_SINCE_LAST", "200"),
        ("VAULTDB_WAL_SEGMENT_BYTES", "256KiB"),
        ("VAULTDB_WAL_CACHE_BYTES", "64KiB"),
        ("VAULTDB_SCRUB_INTERVAL_MS", "1000"),
    ];
    Plan { env: env.map(|(name, value)| (name, value.to_owned())).to_vec(), ..Plan::nodes(nodes) }
}

/// The same, with faults to be injected, no values in the cache, no snapshots by themselves, so that tables stay as they
/// are, and settings besides.
fn faulty_plan(settings: &[(&'static str, &str)]) -> Plan {
    let mut plan = Plan { flags: vec!["--enable-fault-injection".to_owned()], ..plan(3) };
    let own = [("VAULTDB_CACHE_BYTES", "0"), ("VAULTDB_SNAPSHOT_LOGS_SINCE_LAST", "1000000")];
    let settings = own.iter().chain(settings);
    plan.env.extend(settings.map(|(name, value)| (*name, (*value).to_owned())));
    plan
}

/// Whether a file is of a kind: the end of its name, or what stands before its number.
fn is_of(name: &str, kind: &str) -> bool {
    name.ends_with(kind) || name.starts_with(&format!("{kind}-0"))
}

/// Files under `dir` of a kind, but for what was set aside and snapshots; sorted.
fn files(dir: &Path, kind: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut todo = vec![dir.to_path_buf()];
    while let Some(next) = todo.pop() {
        // One that goes away meanwhile is none.
        for entry in fs::read_dir(&next).into_iter().flatten().flatten() {
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            if path.is_dir() && !name.starts_with("quarantined") && name != "snapshots" {
                todo.push(path);
            } else if is_of(&name, kind) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// Flips a bit near the beginning of what a file holds, in place, and answers the file. Of a table it is one of its first
/// block: behind the last block with data, early in a small one, damage changes no answer and is not looked for.
fn flip(path: &Path, content: &[u8], used: usize) -> fs::File {
    let place = (used / 8).min(if is_of(&path.to_string_lossy(), ".sst") { 40 } else { used });
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(&[content[place] ^ 4], place as u64).unwrap();
    println!("flipped a bit at byte {place} of {}", path.display());
    file
}

/// Waits for a file of a kind, and flips a bit of the newest one that holds anything.
fn flip_one(data: &Path, kind: &str) -> fs::File {
    let found = eventually(&format!("{} has {kind}", data.display()), FLUSHED_LIMIT, || {
        let newest = files(data, kind).into_iter().rev().find_map(|path| {
            let content = fs::read(&path).ok()?;
            // A segment of the log is zeros behind what was written.
            let used = content.iter().rposition(|byte| *byte != 0)?;
            Some((path, content, used))
        });
        newest.ok_or_else(|| "none".to_owned())
    });
    flip(&found.0, &found.1, found.2)
}

/// Flips bits under a running node until it ends because of one. A file that the node no longer needs goes with its damage:
/// a compaction replaces a table by what is in the block cache of it. Then nobody can come upon it any more, nothing is
/// wrong, and another file is damaged.
fn flip_until_found(cluster: &mut Cluster, victim: usize, kind: &str) {
    let data = cluster.nodes[victim].data.clone();
    for _ in 0..FLIPS_MAX {
        let flipped = flip_one(&data, kind);
        let found = eventually(&format!("{kind}: the damage is found, or gone"), REBUILT_LIMIT, || {
            if let Some(code) = cluster.nodes[victim].exited() {
                assert_eq!(code, Some(UNFIT), "{kind}:\n{}", cluster.nodes[victim].log_tail());
                return Ok(true);
            }
            match flipped.metadata().unwrap().nlink() {
                0 => Ok(false),
                links => Err(format!("the node runs, and the file has {links} names")),
            }
        });
        if found {
            return;
        }
        println!("{kind}: the file is gone, and the damage with it");
    }
    panic!("{kind}: {FLIPS_MAX} damaged files went away before anybody read them");
}

/// Starts the node again whenever it ends with 70, as a supervisor would, until it is a voter under a new id.
fn supervise(cluster: &mut Cluster, victim: usize, old_id: u64, what: &str) -> u64 {
    let name = cluster.nodes[victim].name.clone();
    let others: Vec<usize> = (0..cluster.nodes.len()).filter(|i| *i != victim).collect();
    eventually(&format!("{name} is rebuilt: {what}"), REBUILT_LIMIT, || {
        if let Some(code) = cluster.nodes[victim].exited() {
            assert_eq!(code, Some(UNFIT), "{what}:\n{}", cluster.nodes[victim].log_tail());
        }
        if !cluster.nodes[victim].runs() {
            cluster.restart(victim);
        }
        let mut ids = vec![cluster.nodes[victim].status()?.id().ok_or("it has no id yet")?];
        for i in &others {
            let status = cluster.nodes[*i].status()?;
            let member = status.member(&name).filter(|member| member.voter).ok_or("it is no voter yet")?;
            if status.members().len() != cluster.nodes.len() {
                return Err(format!("{:?}", status.members()));
            }
            ids.push(member.id);
        }
        match ids.iter().all(|id| *id == ids[0] && *id != old_id) {
            true => Ok(ids[0]),
            false => Err(format!("ids {ids:?}, before {old_id}")),
        }
    })
}

/// Waits until the node itself says that it is whole again.
fn wait_healthy(cluster: &Cluster, victim: usize) {
    eventually("integrity is healthy", REBUILT_LIMIT, || {
        let status = cluster.nodes[victim].status()?;
        let components = status.0.pointer("/health/components").and_then(|found| found.as_array()).cloned();
        let found = components.into_iter().flatten().find(|component| component["name"] == "integrity");
        match found {
            Some(component) if component["state"] == "healthy" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
}

/// A kind of file, and whether the node is stopped while it is damaged.
const KINDS: [(&str, bool); 8] = [
    ("identity.json", true),
    (".seg", true),
    (".seg", false),
    (".sst", true),
    (".sst", false),
    ("MANIFEST", true),
    ("CURRENT", true),
    ("CURRENT-GENERATION", false),
];

/// For each kind of file: no request to the others fails, no acknowledged write is lost, and the node has them all.
#[test]
fn any_damaged_file_of_a_follower() {
    let mut cluster = Cluster::start_plan(&plan(3));
    let leader = cluster.leader();
    let victim = (leader + 1) % 3;
    let others: Vec<u16> = (0..3).filter(|i| *i != victim).map(|i| cluster.port(i)).collect();
    // Each snapshot writes a table and reads it: compactions would replace tables before anything else reads them.
    cluster.nodes[victim].env.push(("VAULTDB_SNAPSHOT_LOGS_SINCE_LAST", "1000000".into()));
    cluster.terminate(victim);
    cluster.restart(victim);
    cluster.wait_formed();
    let mut id = cluster.status(victim).id().unwrap();
    for (round, (part, stopped)) in KINDS.into_iter().enumerate() {
        let what = format!("{part}, {}", if stopped { "stopped" } else { "running" });
        let load = Load::start(&others, &LoadPlan::new(&format!("r{round}"), 4));
        load.wait_acked(400, LOAD_LIMIT);
        let data = cluster.nodes[victim].data.clone();
        if stopped {
            cluster.kill9(victim);
            flip_one(&data, part);
        } else {
            flip_until_found(&mut cluster, victim, part);
        }
        id = supervise(&mut cluster, victim, id, &what);
        wait_healthy(&cluster, victim);
        let history = load.stop();
        println!("{what}: {}", history.summary());
        let failed = history.count(|outcome| !matches!(outcome, Outcome::Acked { .. }));
        assert_eq!(failed, 0, "{what}: others were disturbed: {}", history.summary());
        cluster.wait_converged();
        history.verify(&others);
        history.verify_same(&cluster.ports());
        assert!(data.join("quarantined").join("wal").is_dir(), "{what}: nothing was set aside");
        // The limit of quarantines in an hour has tests of its own.
        cluster.terminate(victim);
        fs::remove_file(data.join("quarantine.json")).unwrap();
        cluster.restart(victim);
        cluster.wait_formed();
    }
}

/// Starts the node again and again, and it dies after each single step of its quarantine, until `done`; answers how
/// often.
fn die_at_each_step(cluster: &mut Cluster, victim: usize, done: impl Fn(&Path) -> bool) -> usize {
    let data = cluster.nodes[victim].data.clone();
    cluster.nodes[victim].env.push(("VAULT_FAILPOINT", "quarantine-step:1".into()));
    let mut deaths = 0;
    while !done(&data) {
        assert!(deaths < STEPS_MAX, "after {deaths} deaths: {}", noted(&data));
        cluster.restart(victim);
        let code = eventually("the node dies", REBUILT_LIMIT, || {
            cluster.nodes[victim].exited().ok_or_else(|| "it runs".to_owned())
        });
        assert_eq!(code, None, "ended by a signal, not by itself");
        deaths += 1;
    }
    cluster.nodes[victim].env.retain(|(name, _)| *name != "VAULT_FAILPOINT");
    deaths
}

/// A node that dies after each single step of setting its data aside comes back all the same.
#[test]
fn killed_at_each_step_of_a_quarantine() {
    let mut cluster = Cluster::start_plan(&plan(3));
    let victim = (cluster.leader() + 1) % 3;
    let id = cluster.status(victim).id().unwrap();
    cluster.must_put(victim, "k", "v");
    cluster.kill9(victim);
    flip_one(&cluster.nodes[victim].data, "identity.json");
    let deaths = die_at_each_step(&mut cluster, victim, |data| {
        !data.join("identity.json").exists() && data.join("quarantined/identity.json").exists()
    });
    println!("died {deaths} times");
    // The mark of the end, and each of the parts.
    assert!(deaths >= 4, "{deaths}");
    supervise(&mut cluster, victim, id, "after its deaths");
    wait_healthy(&cluster, victim);
    assert_eq!(cluster.must_get(victim, "k").as_deref(), Some("v"));
}

/// What a node had before it was first set aside is kept, and not what it had got since, when that is found damaged
/// before the node is whole: its peers may have lost theirs meanwhile.
#[test]
fn damaged_again_before_it_is_rebuilt() {
    let mut cluster = Cluster::start_plan(&plan(3));
    let victim = (cluster.leader() + 1) % 3;
    cluster.must_put(victim, "k", "v");
    cluster.kill9(victim);
    let data = cluster.nodes[victim].data.clone();
    flip_one(&data, "identity.json");
    die_at_each_step(&mut cluster, victim, |data| {
        data.join("quarantine.json").exists() && noted(data)["phase"] == "rebuilding"
    });
    let inode = |dir: &str| fs::metadata(data.join(dir).join("wal")).unwrap().ino();
    let (first, second) = (inode("quarantined"), inode(""));
    let unfinished = read_json(&data.join("identity.json"))["node_id"].as_u64().unwrap();
    let members = cluster.status((victim + 1) % 3).members();
    assert!(!members.iter().any(|member| member.id == unfinished && member.voter), "{members:?}");
    flip_one(&data, "identity.json");
    let id = supervise(&mut cluster, victim, unfinished, "damaged again");
    assert!(id > unfinished, "{id}, and {unfinished} before");
    wait_healthy(&cluster, victim);
    assert_eq!(cluster.must_get(victim, "k").as_deref(), Some("v"));
    assert_eq!((inode("quarantined-first"), inode("quarantined")), (first, second));
}

/// An identity that is damaged before the node has joined under it is set aside like any other; the first data stay.
#[test]
fn damaged_before_it_has_joined() {
    let mut cluster = Cluster::start_plan(&plan(3));
    let victim = (cluster.leader() + 1) % 3;
    let id = cluster.status(victim).id().unwrap();
    cluster.must_put(victim, "k", "v");
    cluster.kill9(victim);
    let data = cluster.nodes[victim].data.clone();
    flip_one(&data, "identity.json");
    die_at_each_step(&mut cluster, victim, |data| {
        data.join("quarantine.json").exists() && noted(data)["phase"] == "joining"
    });
    let wal = |dir: &str| fs::metadata(data.join(dir).join("wal")).unwrap().ino();
    let first = wal("quarantined");
    fs::write(data.join("identity.json"), "{").unwrap();
    supervise(&mut cluster, victim, id, "damaged before it has joined");
    wait_healthy(&cluster, victim);
    assert_eq!(cluster.must_get(victim, "k").as_deref(), Some("v"));
    assert_eq!(wal("quarantined-first"), first);
    assert_eq!(fs::read_to_string(data.join("quarantined/identity.json")).unwrap(), "{");
}

/// The node never joins another cluster, and a node that is told not to rebuild moves nothing.
#[test]
fn refused_where_it_may_not() {
    let mut cluster = Cluster::start_plan(&plan(3));
    let victim = (cluster.leader() + 1) % 3;
    let id = cluster.status(victim).id().unwrap();
    cluster.kill9(victim);
    let data = cluster.nodes[victim].data.clone();
    flip_one(&data, "CURRENT-GENERATION");
    cluster.nodes[victim].env.push(("VAULTDB_REBUILD_AFTER_CORRUPTION", "false".into()));
    cluster.restart(victim);
    let code = eventually("the node refuses", REBUILT_LIMIT, || {
        cluster.nodes[victim].exited().ok_or_else(|| "it runs".to_owned())
    });
    assert_eq!(code, Some(UNFIT), "{}", cluster.nodes[victim].log_tail());
    assert!(data.join("identity.json").exists() && !data.join("quarantined").exists());

    // Another cluster lets everybody in who asks; this node does not ask.
    let beside = Cluster::start_plan(&Plan { beside: true, ..Plan::nodes(1) });
    cluster.nodes[victim].env.retain(|(name, _)| *name != "VAULTDB_REBUILD_AFTER_CORRUPTION");
    let members = data.join("members.json");
    fs::remove_file(&members).unwrap();
    cluster.start_node(victim, Some(&beside.join_flag(0)));
    eventually("the node says why it does not join", REBUILT_LIMIT, || {
        let said = cluster.nodes[victim].log_text();
        said.contains("it is of cluster").then_some(()).ok_or(said)
    });
    assert_eq!(beside.status(0).members().len(), 1);
    cluster.kill9(victim);
    let join = cluster.join_flag((victim + 1) % 3);
    cluster.start_node(victim, Some(&join));
    supervise(&mut cluster, victim, id, "through -join");
}

/// The store fails at once and the node is given up for that, but it does not end before the mark is on its disk, however
/// slow that is: without the mark the next start would use the data.
#[test]
fn marked_before_it_ends() {
    let mut cluster = Cluster::start_plan(&faulty_plan(&[]));
    write_fixed(&cluster, 200);
    let victim = (cluster.leader() + 1) % 3;
    cluster.nodes[victim].env.push(("VAULT_FAILPOINT", "quarantine-marking:1500".into()));
    cluster.terminate(victim);
    cluster.restart(victim);
    cluster.wait_formed();
    cluster.inject(victim, &json!({"kind":"flip_bits","file":"rocksdb"}));
    let stopped = cluster.nodes[victim].reap(REBUILT_LIMIT);
    let said = cluster.nodes[victim].log_tail();
    assert_eq!(stopped.code, Some(UNFIT), "{said}");
    assert!(cluster.nodes[victim].data.join("quarantine.json").exists(), "{said}");
    assert_eq!(noted(&cluster.nodes[victim].data)["phase"], "found");
}

type State = BTreeMap<String, (String, u64)>;

/// Writes so many keys, which nothing changes later, and answers what every node holds then.
fn write_fixed(cluster: &Cluster, keys: u64) -> State {
    let load = Load::start(&cluster.ports(), &LoadPlan::new("fixed", 4));
    load.wait_acked(keys, LOAD_LIMIT);
    load.stop().verify(&cluster.ports());
    cluster.wait_converged();
    let (_, fixed) = cluster.list(0, "stale");
    assert!(fixed.len() as u64 > keys / 2, "{} keys", fixed.len());
    fixed
}

/// Process and id of each of these nodes.
fn who(cluster: &Cluster, nodes: &[usize]) -> Vec<(Option<u32>, Option<u64>)> {
    nodes.iter().map(|i| (cluster.nodes[*i].pid(), cluster.status(*i).id())).collect()
}

/// Reads all keys from one node again and again until it ends, and answers how often it was told a value; panics if
/// that is ever another one than was written.
fn read_until_it_ends(port: u16, written: State) -> JoinHandle<usize> {
    thread::spawn(move || {
        let (mut client, mut told) = (Client::new(port), 0);
        for (key, (value, _)) in written.iter().cycle() {
            let request = Request::get(format!("/v1/kv/{key}?consistency=stale"));
            let Ok(answer) = client.send(&request) else { break };
            match answer.status {
                200 => assert_eq!(answer.text(), *value, "{key}"),
                404 => panic!("{key} is not there: {}", answer.text()),
                // It says that it cannot answer.
                _ => continue,
            }
            told += 1;
        }
        told
    })
}

/// What the node has noted for its next start.
fn noted(data: &Path) -> Value {
    read_json(&data.join("quarantine.json"))
}

fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// The leader finds its own file damaged before it answers from it, and ends; another one leads, nothing acknowledged is
/// lost, the others stay the processes and members that they are, and it comes back under a new id.
#[test]
fn a_damaged_file_of_the_leader() {
    let mut cluster = Cluster::start_plan(&faulty_plan(&[]));
    let fixed = write_fixed(&cluster, 600);
    for kind in ["rocksdb", "wal", "identity"] {
        let leader = cluster.leader();
        let others: Vec<usize> = (0..3).filter(|i| *i != leader).collect();
        let (id, before) = (cluster.status(leader).id().unwrap(), who(&cluster, &others));
        let load = Load::start(&cluster.ports(), &LoadPlan::new(kind, 4));
        load.wait_acked(200, LOAD_LIMIT);
        let reader = read_until_it_ends(cluster.port(leader), fixed.clone());
        cluster.inject(leader, &json!({"kind":"flip_bits","file":kind}));
        let stopped = cluster.nodes[leader].reap(REBUILT_LIMIT);
        assert_eq!(stopped.code, Some(UNFIT), "{kind}:\n{}", cluster.nodes[leader].log_tail());
        let told = reader.join().unwrap();
        let note = noted(&cluster.nodes[leader].data);
        println!("{kind}: ended after {told} right answers: {}", note["reason"]);
        assert_eq!(note["phase"], "found", "{note}");

        let next = cluster.wait_for_leader_other_than(leader);
        assert_ne!(next, leader);
        load.wait_acked(200, LOAD_LIMIT);
        supervise(&mut cluster, leader, id, kind);
        wait_healthy(&cluster, leader);
        let history = load.stop();
        println!("{kind}: {}", history.summary());
        cluster.wait_formed();
        cluster.wait_converged();
        history.verify(&cluster.ports());
        history.verify_same(&cluster.ports());
        assert_eq!(who(&cluster, &others), before, "{kind}: others were disturbed");
        let (_, found) = cluster.list(leader, "stale");
        let lost: Vec<_> = fixed.iter().filter(|(key, value)| found.get(*key) != Some(value)).collect();
        assert!(lost.is_empty(), "{kind}: {lost:?}");
    }
}

/// Nobody looks but a client: its reads get what was written until they come to the damage, and nothing from then on.
#[test]
fn damage_that_a_read_comes_upon() {
    let mut cluster = Cluster::start_plan(&faulty_plan(&[("VAULTDB_SCRUB_INTERVAL_MS", "0")]));
    let fixed = write_fixed(&cluster, 600);
    let leader = cluster.leader();
    let id = cluster.status(leader).id().unwrap();
    // Written out just before, so that no block of it is in memory.
    cluster.inject(leader, &json!({"kind":"flip_bits","file":"rocksdb"}));
    let reader = read_until_it_ends(cluster.port(leader), fixed.clone());
    let stopped = cluster.nodes[leader].reap(REBUILT_LIMIT);
    assert_eq!(stopped.code, Some(UNFIT), "{}", cluster.nodes[leader].log_tail());
    let told = reader.join().unwrap();
    println!("ended after {told} of {}: {}", fixed.len(), noted(&cluster.nodes[leader].data)["reason"]);
    assert!(told < fixed.len(), "it went on after {told} of {}", fixed.len());
    supervise(&mut cluster, leader, id, "damage that a read comes upon");
    cluster.wait_converged();
    assert_eq!(cluster.list(leader, "stale").1, fixed);
}

/// No checksum tells of a state that is wrong itself: the comparison with the others does, whether the node follows or
/// leads, and what comes of the rebuild is what the others have.
#[test]
fn a_state_that_differs() {
    let mut cluster = Cluster::start_plan(&faulty_plan(&[("VAULTDB_CONSISTENCY_CHECK_INTERVAL_MS", "200")]));
    let fixed = write_fixed(&cluster, 400);
    let leader = cluster.leader();
    for victim in [(leader + 1) % 3, leader] {
        let others: Vec<usize> = (0..3).filter(|i| *i != victim).collect();
        let (id, before) = (cluster.status(victim).id().unwrap(), who(&cluster, &others));
        cluster.inject(victim, &json!({"kind":"state_flip"}));
        let stopped = cluster.nodes[victim].reap(REBUILT_LIMIT);
        assert_eq!(stopped.code, Some(UNFIT), "{}", cluster.nodes[victim].log_tail());
        let note = noted(&cluster.nodes[victim].data);
        let reason = note["reason"].as_str().unwrap();
        assert!(reason.contains("differs from what a majority of the voters has"), "{note}");
        cluster.wait_for_leader_other_than(victim);
        supervise(&mut cluster, victim, id, "a state that differs");
        wait_healthy(&cluster, victim);
        cluster.wait_formed();
        cluster.wait_converged();
        for node in 0..3 {
            let (_, found) = cluster.list(node, "stale");
            let wrong: Vec<_> = fixed.iter().filter(|(key, value)| found.get(*key) != Some(value)).collect();
            assert!(
                wrong.is_empty() && found.len() == fixed.len(),
                "node{node}, {} keys: {wrong:?}",
                found.len()
            );
        }
        assert_eq!(who(&cluster, &others), before, "others were disturbed");
    }
}
