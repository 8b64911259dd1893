//! The commands of docs/operations.md do what the page says, as they are printed.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::json;
use support::walk::{fits, has, rewrite_ports, steps, Step};
use support::{eventually, skip, vaultdb, Cluster, Load, LoadPlan, Plan, Request};

/// Longest wait for a node to serve.
const READY_LIMIT: Duration = Duration::from_secs(30);

/// So many entries are never written: tables stay as they are, since it takes several of them to be compacted.
const NO_SNAPSHOT: u64 = 1_000_000;

/// The steps of one section.
fn section(title: &str) -> Vec<Step> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations.md");
    let text = fs::read_to_string(page).unwrap();
    let begin = text.find(&format!("## {title}\n")).unwrap_or_else(|| panic!("no section {title}"));
    let rest = &text[begin + 3..];
    let steps = steps(&rest[..rest.find("\n##").unwrap_or(rest.len())]);
    assert!(!steps.is_empty(), "{title} has no walk");
    steps
}

/// Runs the steps with the cluster's directory as the home. A node that is started goes on; whatever follows
/// waits until it is ready.
fn walk(cluster: &mut Cluster, title: &str) {
    let home = cluster.dir();
    let mut starting = Vec::new();
    for Step { command, expected } in section(title) {
        let line = rewrite_ports(&command, cluster);
        if let Some(flags) = line.strip_prefix("vaultdb -id node") {
            let node: usize = flags[..1].parse().unwrap();
            let flags = line.replace("~/", &format!("{}/", home.display()));
            cluster.nodes[node].spawn(vaultdb().args(flags.split_whitespace().skip(1)));
            starting.push(node);
            continue;
        }
        starting.drain(..).for_each(|node| wait_ready(cluster, node));
        let printed = run(&line, &home);
        if let Some((_, node)) = line.split_once("~/node").filter(|_| line.starts_with("kill ")) {
            cluster.nodes[node[..1].parse::<usize>().unwrap()].reap(READY_LIMIT);
        }
        if expected.is_empty() {
            continue;
        }
        let lines: Vec<&str> = printed.lines().map(str::trim).collect();
        let expected: Vec<String> = expected.iter().map(|line| rewrite_ports(line, cluster)).collect();
        assert!(
            lines.len() == expected.len() && expected.iter().zip(&lines).all(|(e, line)| fits(e, line)),
            "{line}\nprinted  {lines:#?}\nexpected {expected:#?}"
        );
    }
    starting.drain(..).for_each(|node| wait_ready(cluster, node));
}

/// What a line prints, run as a shell would with `home` as the home.
fn run(line: &str, home: &Path) -> String {
    let path = format!("{}:{}", home.display(), std::env::var("PATH").unwrap());
    let mut shell = Command::new("bash");
    shell.args(["-o", "pipefail", "-c", line]).env("HOME", home).env("PATH", path);
    let output = shell.output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{line}: {printed}{}", String::from_utf8_lossy(&output.stderr));
    printed
}

fn wait_ready(cluster: &mut Cluster, node: usize) {
    eventually(&format!("node{node} is ready"), READY_LIMIT, || {
        let node = &mut cluster.nodes[node];
        if let Some(code) = node.exited() {
            panic!("{} ended with {code:?}:\n{}", node.name, node.log_tail());
        }
        match support::http::send(node.http, &Request::get("/readyz?verbose")).map_err(|f| f.to_string())? {
            ready if ready.status == 200 => Ok(()),
            other => Err(other.text()),
        }
    });
}

/// Whether the walks can be done here.
fn can_walk() -> bool {
    if !has("curl") {
        skip("the walks of docs/operations.md", "curl is not installed");
        return false;
    }
    true
}

fn write_user1(cluster: &Cluster) {
    let post = Request::post("/key", r#"{"user1": "batman"}"#);
    assert_eq!(cluster.ask(0, &post).status, 200);
}

fn with_user1() -> Option<Cluster> {
    with_user1_in(&Plan::nodes(5))
}

fn with_user1_in(plan: &Plan) -> Option<Cluster> {
    if !can_walk() {
        return None;
    }
    let cluster = Cluster::start_plan(plan);
    symlink(env!("CARGO_BIN_EXE_vaultdb"), cluster.dir().join("vaultdb")).unwrap();
    write_user1(&cluster);
    Some(cluster)
}

#[test]
fn forming_growing_shrinking_replacing_upgrading() {
    if !can_walk() {
        return;
    }
    let mut cluster = Cluster::prepare(&Plan::nodes(4));
    walk(&mut cluster, "Start, join, stop");
    write_user1(&cluster);
    walk(&mut cluster, "Members");
    assert_eq!(cluster.nodes[3].reap(READY_LIMIT).code, Some(1), "a removed node says so and ends");
    walk(&mut cluster, "A node lost its disk");
    walk(&mut cluster, "Upgrading");
    cluster.wait_members(&["node0", "node1", "node2"].map(str::to_owned), READY_LIMIT);
    cluster.wait_converged();
}

#[test]
fn backing_up_and_restoring() {
    let Some(mut cluster) = with_user1() else { return };
    walk(&mut cluster, "Backing up");
    cluster.kill9_all(&[0, 1, 2, 3, 4]);
    walk(&mut cluster, "Restoring");
    cluster.wait_members(&["node0", "node1", "node2"].map(str::to_owned), READY_LIMIT);
}

#[test]
fn losing_the_quorum() {
    let Some(mut cluster) = with_user1() else { return };
    cluster.wait_converged();
    cluster.kill9_all(&[0, 1, 2]);
    [0, 1, 2].iter().for_each(|lost| cluster.wipe(*lost));
    [3, 4].iter().for_each(|left| assert_eq!(cluster.terminate(*left).code, Some(0)));
    walk(&mut cluster, "Losing the quorum");
    cluster.wait_members(&["node3", "node4"].map(str::to_owned), READY_LIMIT);
}

/// Everything is verified again and again, and a snapshot built after so many entries.
fn plan_of_damage(nodes: usize, snapshot_logs: u64) -> Plan {
    let env = [
        ("VAULTDB_SCRUB_INTERVAL_MS", "500".to_owned()),
        ("VAULTDB_SNAPSHOT_LOGS_SINCE_LAST", snapshot_logs.to_string()),
    ];
    let env = env.to_vec();
    Plan { env, flags: vec!["--enable-fault-injection".to_owned()], ..Plan::nodes(nodes) }
}

/// Damages a file of each of these nodes at once, and waits until all of them have found it and ended.
fn damage(cluster: &mut Cluster, files: &[(usize, &str)]) {
    for (node, file) in files {
        cluster.inject(*node, &json!({"kind":"flip_bits","file":file}));
    }
    for (node, file) in files {
        let stopped = cluster.nodes[*node].reap(READY_LIMIT);
        assert_eq!(stopped.code, Some(70), "{file}: {}", cluster.nodes[*node].log_tail());
    }
}

/// What a stopped node has of the data that are set aside, under `dir`.
fn data(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let parts = ["wal", "rocksdb", "snapshots", "identity.json"].map(|part| dir.join(part));
    let mut todo: Vec<PathBuf> = parts.into_iter().filter(|part| part.exists()).collect();
    while let Some(path) = todo.pop() {
        match fs::read_dir(&path) {
            Ok(entries) => todo.extend(entries.map(|entry| entry.unwrap().path())),
            Err(_) => {
                let content = fs::read(&path).unwrap();
                found.insert(path.strip_prefix(dir).unwrap().to_owned(), content);
            }
        }
    }
    found
}

/// Starts nodes again whose data are corrupt, and waits until each has set them aside and says what it waits for.
fn start_without_a_majority(cluster: &mut Cluster, which: &[usize]) {
    for node in which {
        let said = cluster.nodes[*node].log_text().len();
        cluster.restart(*node);
        eventually(&format!("node{node} waits for a leader"), READY_LIMIT, || {
            if let Some(code) = cluster.nodes[*node].exited() {
                panic!("node{node} ended with {code:?}:\n{}", cluster.nodes[*node].log_tail());
            }
            let says = cluster.nodes[*node].log_text()[said..].to_owned();
            let told = ["is in quarantined/", "\"Corrupt data\"", "not joined through"];
            told.iter().all(|words| says.contains(words)).then_some(()).ok_or(says)
        });
        for request in [Request::get("/v1/kv/user1?consistency=stale"), Request::put("/v1/kv/k", "v")] {
            let answer = cluster.ask(*node, &request);
            assert_eq!((answer.status, answer.code().as_str()), (503, "starting"), "{}", answer.text());
        }
    }
}

/// Three of five are corrupt at once: nothing is thrown away however often they are started, and the one that is made
/// the new cluster has everything that it had applied.
#[test]
fn corrupt_majority_and_one_that_is_whole() {
    let Some(mut cluster) = with_user1_in(&plan_of_damage(5, NO_SNAPSHOT)) else { return };
    let load = Load::start(&cluster.ports(), &LoadPlan::new("before", 4));
    load.wait_acked(400, READY_LIMIT);
    let settled = load.stop();
    cluster.wait_converged();
    let load = Load::start(&cluster.ports(), &LoadPlan::new("amid", 4));
    load.wait_acked(100, READY_LIMIT);
    let corrupt = [0, 1, 2];
    damage(&mut cluster, &[(0, "wal"), (1, "rocksdb"), (2, "identity")]);
    println!("{}", load.stop().summary());
    let found: Vec<_> = corrupt.iter().map(|node| data(&cluster.nodes[*node].data)).collect();
    for times in 1..=2 {
        start_without_a_majority(&mut cluster, &corrupt);
        for (node, found) in corrupt.iter().zip(&found) {
            let aside = data(&cluster.nodes[*node].data.join("quarantined"));
            assert!(found.len() > 5 && aside == *found, "node{node}, started {times} times");
        }
        if times == 1 {
            cluster.kill9_all(&corrupt);
        }
    }
    let mut recover = vaultdb();
    recover.args(["recover", "--force-new-cluster", "--yes", "-id", "node1"]);
    cluster.kill9(1);
    let refused = recover.arg(&cluster.nodes[1].data).output().unwrap();
    let told = String::from_utf8_lossy(&refused.stderr);
    assert!(refused.status.code() == Some(1) && told.contains("set aside in quarantined/"), "{told}");
    cluster.restart(1);
    cluster.nodes[1].wait_answers(READY_LIMIT);

    let (old_id, (_, held)) = (cluster.status(3).cluster_id(), cluster.list(3, "stale"));
    walk(&mut cluster, "One node is whole");
    cluster.wait_formed();
    cluster.wait_converged();
    assert_ne!(cluster.status(3).cluster_id(), old_id);
    settled.verify(&cluster.ports());
    for node in 0..5 {
        let (_, found) = cluster.list(node, "stale");
        // What was in its log only may have taken effect since.
        let lost = |key: &&String| found.get(*key).is_none_or(|(_, revision)| *revision < held[*key].1);
        let lost: Vec<_> = held.keys().filter(lost).collect();
        assert!(lost.is_empty(), "{} of {} on node{node}: {lost:?}", lost.len(), held.len());
    }
    println!("{} keys", held.len());
}

/// Two of three have a damaged snapshot: one takes its data back, and the cluster goes on and rebuilds the other.
#[test]
fn corrupt_majority_of_snapshots() {
    let Some(mut cluster) = with_user1_in(&plan_of_damage(3, 100)) else { return };
    let load = Load::start(&cluster.ports(), &LoadPlan::new("before", 4));
    load.wait_acked(400, READY_LIMIT);
    let settled = load.stop();
    cluster.wait_converged();
    for node in [0, 1] {
        eventually(&format!("node{node} has a snapshot"), READY_LIMIT, || {
            match cluster.status(node).number("/raft/snapshot") {
                0 => Err("none".to_owned()),
                _ => Ok(()),
            }
        });
    }
    let ids = [0, 1, 2].map(|node| cluster.status(node).id());
    damage(&mut cluster, &[(0, "snapshot"), (1, "snapshot")]);
    start_without_a_majority(&mut cluster, &[0, 1]);
    assert_eq!([0, 1, 2].map(|node| cluster.terminate(node).code), [Some(0); 3]);
    walk(&mut cluster, "Only a snapshot is damaged");
    cluster.wait_formed();
    cluster.wait_converged();
    settled.verify(&cluster.ports());
    settled.verify_same(&cluster.ports());
    let now = [0, 1, 2].map(|node| cluster.status(node).id());
    assert!(now[0] == ids[0] && now[1] != ids[1] && now[2] == ids[2], "{ids:?} became {now:?}");
}
