//! A backup that is taken under load is exactly one revision, is noticed when it is not whole, and becomes a
//! cluster that holds exactly that revision and goes on upward.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use support::{eventually, vaultdb, Client, Cluster, Plan, Request};

const BATCH_PAIRS: usize = 128;
/// Some twenty pieces of a stream.
const KEYS: usize = 128 * 160;
const WRITERS: usize = 3;
/// Writes that lie before and after each backup.
const WRITES_AROUND: usize = 300;
const LIMIT: Duration = Duration::from_secs(30);
/// What `vaultdb restore` adds to the revision unless told.
const BUMP: u64 = 1_000_000_000;

/// What became of the keys of one write.
struct Event {
    revision: u64,
    changes: Vec<(String, Option<String>)>,
}

type State = BTreeMap<String, (String, u64)>;

/// One atomic write of all pairs, which a healthy cluster acknowledges.
fn set(client: &mut Client, pairs: Vec<(String, String)>) -> Event {
    let json: serde_json::Map<String, Value> =
        pairs.iter().map(|(key, value)| (key.clone(), Value::from(value.as_str()))).collect();
    let request = Request::post("/key?timeout=30s", Value::Object(json).to_string()).limit(LIMIT);
    let changes = pairs.into_iter().map(|(key, value)| (key, Some(value))).collect();
    Event { revision: acknowledged(client, &request), changes }
}

fn delete(client: &mut Client, key: String) -> Event {
    let request = Request::delete(format!("/v1/kv/{key}?timeout=30s")).limit(LIMIT);
    Event { revision: acknowledged(client, &request), changes: vec![(key, None)] }
}

fn acknowledged(client: &mut Client, request: &Request) -> u64 {
    let answer = client.send(request).unwrap();
    assert_eq!(answer.status, 200, "{}: {}", request.target, answer.text());
    answer.json()["revision"].as_u64().unwrap()
}

fn prefill(port: u16) -> Vec<Event> {
    let mut client = Client::new(port);
    let pair = |i: usize| (format!("key/{i:06}"), format!("{i}-{}", "x".repeat(100)));
    let batches = (0..KEYS).step_by(BATCH_PAIRS);
    batches.map(|begin| set(&mut client, (begin..begin + BATCH_PAIRS).map(pair).collect())).collect()
}

/// Changes pairs of keys that lie far apart, and deletes keys, until told to stop.
fn change(port: u16, writer: usize, written: &AtomicUsize, stop: &AtomicBool) -> Vec<Event> {
    let (mut client, mut events) = (Client::new(port), Vec::new());
    for round in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let index = (round * 7_919 * WRITERS + writer) % (KEYS / 2);
        let (low, high) = (format!("key/{index:06}"), format!("key/{:06}", index + KEYS / 2));
        events.push(match round % 3 {
            0 | 1 => {
                let value = format!("{writer}-{round}");
                set(&mut client, vec![(low, value.clone()), (high, value)])
            }
            _ => delete(&mut client, if round % 2 == 0 { low } else { high }),
        });
        written.fetch_add(1, Ordering::Relaxed);
    }
    events
}

/// Ends the writers when it is dropped.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What the store holds at a revision.
fn state_at(events: &mut [Event], revision: u64) -> State {
    events.sort_by_key(|event| event.revision);
    let mut state = State::new();
    for event in events.iter().take_while(|event| event.revision <= revision) {
        for (key, value) in &event.changes {
            match value {
                Some(value) => state.insert(key.clone(), (value.clone(), event.revision)),
                None => state.remove(key),
            };
        }
    }
    state
}

fn run(args: &[&str]) -> Output {
    vaultdb().args(args).output().unwrap()
}

fn told(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Runs a command that must succeed; what it printed as `name: value`.
fn run_well(args: &[&str]) -> BTreeMap<String, String> {
    let output = run(args);
    assert_eq!(output.status.code(), Some(0), "{args:?}: {}", told(&output));
    let printed = told(&output);
    let lines = printed.lines().filter_map(|line| line.split_once(": "));
    lines.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fn save(cluster: &Cluster, node: usize, file: &Path) -> u64 {
    let from = format!("http://localhost:{}", cluster.port(node));
    let printed = run_well(&["backup", "save", file.to_str().unwrap(), "--from", &from]);
    printed["revision"].parse().unwrap()
}

/// The flags with which node `i` is restored and started.
fn restore_args(cluster: &Cluster, i: usize, file: &Path) -> Vec<String> {
    let node = &cluster.nodes[i];
    let (http, raft) = (format!("localhost:{}", node.http), format!("localhost:{}", node.raft));
    let words = ["restore", file.to_str().unwrap(), "-id", &node.name, "-haddr", &http, "-raddr", &raft];
    words.into_iter().map(str::to_owned).chain([node.data.display().to_string()]).collect()
}

fn restore(cluster: &Cluster, i: usize, file: &Path) -> Output {
    vaultdb().args(restore_args(cluster, i, file)).output().unwrap()
}

/// The difference is told, not the whole states.
fn assert_same(found: &State, expected: &State, what: &str) {
    let differ = |key: &&String| found.get(*key) != expected.get(*key);
    let keys: Vec<_> = expected.keys().chain(found.keys()).filter(differ).take(5).collect();
    assert!(keys.is_empty(), "{what}: {} and {} keys differ at {keys:?}", found.len(), expected.len());
}

#[test]
fn backup_under_load_restores_to_exactly_one_revision() {
    let cluster = Cluster::start(3);
    let leader = cluster.leader();
    let follower = (leader + 1) % 3;
    let mut events = prefill(cluster.port(leader));
    let (written, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let over = Over(&stop);
    let wait_written = |more: usize| {
        let goal = written.load(Ordering::Relaxed) + more;
        eventually("the load goes on", LIMIT, || match written.load(Ordering::Relaxed) {
            now if now >= goal => Ok(()),
            now => Err(format!("{now} of {goal}")),
        });
    };
    let files: Vec<_> = (0..3).map(|i| cluster.dir().join(format!("{i}.backup"))).collect();
    let revisions: Vec<u64> = thread::scope(|scope| {
        // However this ends, the writers do, too.
        let over = over;
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let (port, written, stop) = (cluster.port(writer % 3), &written, &stop);
                scope.spawn(move || change(port, writer, written, stop))
            })
            .collect();
        let save = |(i, file): (usize, &PathBuf)| {
            wait_written(WRITES_AROUND);
            save(&cluster, if i == 0 { follower } else { i }, file)
        };
        let revisions = files.iter().enumerate().map(save).collect();
        wait_written(WRITES_AROUND);
        drop(over);
        writers.into_iter().for_each(|writer| events.extend(writer.join().unwrap()));
        revisions
    });
    let last = events.iter().map(|event| event.revision).max().unwrap();
    println!("backups at revisions {revisions:?} of {last}");
    assert!(revisions.windows(2).all(|two| two[0] < two[1]) && revisions[2] < last, "amid the load");
    let old_id = cluster.status(leader).cluster_id().unwrap();
    for (file, revision) in files.iter().zip(&revisions) {
        let printed = run_well(&["backup", "verify", file.to_str().unwrap()]);
        let expected = state_at(&mut events, *revision);
        assert_eq!(printed["revision"], revision.to_string());
        assert_eq!(printed["keys"], expected.len().to_string());
        assert_eq!(printed["bytes"], fs::metadata(file).unwrap().len().to_string());
        assert_eq!((printed["cluster_id"].as_str(), printed["sha256"].len()), (old_id.as_str(), 64));
    }

    // The first of them, taken from a follower, becomes a cluster of three.
    let (revision, expected) = (revisions[0], state_at(&mut events, revisions[0]));
    let mut restored = Cluster::prepare(&Plan { beside: true, ..Plan::nodes(3) });
    let output = restore(&restored, 0, &files[0]);
    assert_eq!(output.status.code(), Some(0), "{}", told(&output));
    restored.start_node(0, None);
    let join = restored.join_flag(0);
    (1..3).for_each(|i| restored.start_node(i, Some(&join)));
    restored.wait_formed();
    for node in 0..3 {
        let (at, found) = restored.list(node, "linearizable");
        assert_eq!(at, revision + BUMP, "revisions go on upward");
        assert_same(&found, &expected, &format!("node{node}"));
    }
    let new_id = restored.status(0).cluster_id().unwrap();
    assert_ne!(new_id, old_id);
    assert_eq!(restored.must_put(2, "key/new", "v"), revision + BUMP + 1);

    // It is a cluster like any other: it outlives the loss of the node that was restored.
    restored.kill9(0);
    restored.wait_for_leader_other_than(0);
    restored.must_put(1, "key/newer", "v");
    restored.restart(0);
    restored.wait_formed();
    restored.wait_converged();
    let (_, found) = restored.list(0, "stale");
    assert_eq!(found.len(), expected.len() + 2);
    assert_eq!(found["key/newer"], ("v".to_owned(), revision + BUMP + 2));
    drop(cluster);
}

/// Nobody takes a part of a backup, or a damaged one, for a backup; the place of the damage is told, and what
/// was there before stays.
#[test]
fn damage_is_refused_and_changes_nothing() {
    let mut cluster = Cluster::start(1);
    for i in 0..20 {
        cluster.must_put(0, &format!("k{i}"), "v");
    }
    let file = cluster.dir().join("small.backup");
    let path = file.to_str().unwrap();
    assert_eq!(save(&cluster, 0, &file), 20);
    let whole = fs::read(&file).unwrap();
    let restored = Cluster::prepare(&Plan { beside: true, ..Plan::nodes(1) });
    let refused = |bytes: &[u8], what: &str| {
        fs::write(&file, bytes).unwrap();
        let output = run(&["backup", "verify", path]);
        assert_eq!(output.status.code(), Some(1), "{what}: {}", told(&output));
        let why = told(&output);
        assert!(why.contains(path) && why.contains("at byte "), "{what}: {why}");
        let output = restore(&restored, 0, &file);
        assert_eq!(output.status.code(), Some(1), "{what}: {}", told(&output));
        let left: Vec<_> = fs::read_dir(&restored.nodes[0].data).unwrap().flatten().collect();
        assert_eq!(left.len(), 1, "{what}: only the lock is there: {left:?}");
    };
    for step in 0..12 {
        let at = step * whole.len() / 12;
        refused(&whole[..at], &format!("cut at {at}"));
        let mut flipped = whole.clone();
        flipped[at] ^= 0x10;
        refused(&flipped, &format!("flipped at {at}"));
    }
    refused(&[&whole[..], b"\n"].concat(), "one byte more");
    fs::write(&file, &whole).unwrap();

    // A download that fails leaves the backup of before.
    cluster.kill9(0);
    let from = format!("http://localhost:{}", cluster.port(0));
    let output = run(&["backup", "save", path, "--from", &from]);
    assert_eq!(output.status.code(), Some(1), "{}", told(&output));
    assert_eq!(fs::read(&file).unwrap(), whole);
    let leftovers = fs::read_dir(cluster.dir()).unwrap().flatten();
    let leftovers: Vec<_> =
        leftovers.filter(|e| e.file_name().to_string_lossy().contains("partial")).collect();
    assert!(leftovers.is_empty(), "{leftovers:?}");

    // Restored once, and not over itself.
    let output = restore(&restored, 0, &file);
    assert_eq!(output.status.code(), Some(0), "{}", told(&output));
    let output = restore(&restored, 0, &file);
    assert_eq!(output.status.code(), Some(1), "{}", told(&output));
    assert!(told(&output).contains("not empty"), "{}", told(&output));
    let output = run(&["restore", path]);
    assert_eq!(output.status.code(), Some(2), "{}", told(&output));
}

/// Any node gives a backup, at the level that is asked for, also without a quorum; others find no backup there.
#[test]
fn any_node_gives_a_backup() {
    let mut cluster = Cluster::start(3);
    let leader = cluster.leader();
    let revision = cluster.must_put(leader, "k", "v");
    let follower = (leader + 1) % 3;
    for node in 0..3 {
        let answer = cluster.ask(node, &Request::get("/v1/snapshot"));
        assert_eq!((answer.status, answer.header("vault-consistency")), (200, Some("linearizable")));
        assert_eq!(answer.header("vault-revision"), Some(revision.to_string().as_str()));
        let name = format!("attachment; filename=\"vaultdb-{revision}.backup\"");
        assert_eq!(answer.header("content-disposition"), Some(name.as_str()));
        assert!(answer.body.starts_with(b"VaultDB backup\n"));
        let file = cluster.dir().join("curl.backup");
        fs::write(&file, &answer.body).unwrap();
        let printed = run_well(&["backup", "verify", file.to_str().unwrap()]);
        assert_eq!((printed["keys"].as_str(), &printed["node"]), ("1", &cluster.nodes[node].name));
    }
    let refused = cluster.ask(follower, &Request::put("/v1/snapshot", "x"));
    assert_eq!((refused.status, refused.header("allow")), (405, Some("GET, HEAD")));
    let lost: Vec<usize> = (0..3).filter(|i| *i != follower).collect();
    cluster.kill9_all(&lost);
    let refused = cluster.ask(follower, &Request::get("/v1/snapshot?timeout=300ms"));
    assert_eq!((refused.status, refused.code().as_str()), (503, "no_leader"));
    let file = cluster.dir().join("stale.backup");
    let from = format!(":{}", cluster.port(follower));
    let args = ["backup", "save", file.to_str().unwrap(), "--from", &from, "--consistency", "stale"];
    assert_eq!(run_well(&args)["revision"], revision.to_string());
}
