//! When a majority is lost for good, one survivor becomes a new cluster, deliberately: with everything that it
//! had, under a new id, and without the nodes of the old one.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::process::{Command, Output};
use std::time::Duration;

use support::{vaultdb, Client, Cluster, Load, LoadPlan, Request};

const LOAD_LIMIT: Duration = Duration::from_secs(20);
const REFUSED_LIMIT: Duration = Duration::from_secs(20);
/// What is added to the revision unless told.
const BUMP: u64 = 1_000_000_000;

fn recover(cluster: &Cluster, i: usize, flags: &[&str]) -> Command {
    let node = &cluster.nodes[i];
    let mut command = vaultdb();
    command.args(["recover", "--force-new-cluster", "-id", &node.name]).args(flags).arg(&node.data);
    command
}

fn told(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn expect(command: &mut Command, code: i32, says: &[&str]) -> String {
    let output = command.output().unwrap();
    let told = told(&output);
    assert_eq!(output.status.code(), Some(code), "{told}");
    says.iter().for_each(|words| assert!(told.contains(words), "\"{words}\" is not in: {told}"));
    told
}

fn line<'t>(told: &'t str, name: &str) -> &'t str {
    let found = told.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    found.unwrap_or_else(|| panic!("no {name} in {told}"))
}

/// The number behind the last `=` of a value of the load, which grows with each write of a key.
fn sequence(value: &str) -> u64 {
    value.rsplit_once('=').and_then(|(_, number)| number.parse().ok()).unwrap()
}

fn read_stale(client: &mut Client, key: &str) -> Option<String> {
    let answer = client.send(&Request::get(format!("/v1/kv/{key}?consistency=stale"))).unwrap();
    (answer.status == 200).then(|| answer.text())
}

#[test]
fn survivor_of_five_becomes_a_new_cluster() {
    let mut cluster = Cluster::start(5);
    let load = Load::start(&cluster.ports(), &LoadPlan::new("before", 4));
    load.wait_acked(400, LOAD_LIMIT);
    let settled = load.stop();
    cluster.wait_converged();

    // Three are lost amid the load, the leader among the survivors: its log ends in what nobody confirmed.
    let survivor = cluster.leader();
    let other = (survivor + 1) % 5;
    let lost: Vec<usize> = (0..5).filter(|i| *i != survivor && *i != other).collect();
    let load = Load::start(&cluster.ports(), &LoadPlan::new("amid", 4));
    load.wait_acked(200, LOAD_LIMIT);
    cluster.kill9_all(&lost);
    // Taken by the leader alone, if it does not know yet that it leads nobody.
    let early = cluster.ask(survivor, &Request::put("/v1/kv/early?ack=leader", "kept"));
    let amid = load.stop();
    let mut client = Client::new(cluster.port(survivor));
    let keys = amid.writes.iter().map(|write| &write.key);
    let had: Vec<(String, String)> =
        keys.filter_map(|key| Some((key.clone(), read_stale(&mut client, key)?))).collect();
    assert!(!had.is_empty());

    expect(&mut recover(&cluster, survivor, &["--yes"]), 1, &["in use by another vaultdb"]);
    let (old_id, old_revision) =
        (cluster.status(survivor).cluster_id().unwrap(), cluster.status(survivor).revision());
    cluster.kill9_all(&[survivor, other]);
    // Nobody answers the question: nothing is changed.
    let identity = fs::read(cluster.nodes[survivor].data.join("identity.json")).unwrap();
    let asked = expect(&mut recover(&cluster, survivor, &[]), 1, &["May be lost", "nothing was changed"]);
    assert_eq!(fs::read(cluster.nodes[survivor].data.join("identity.json")).unwrap(), identity);
    let told = expect(&mut recover(&cluster, survivor, &["--yes"]), 0, &["Kept: everything", "May be lost"]);
    println!("{told}");
    assert_eq!(line(&told, "last_log"), line(&asked, "last_log"));
    assert_eq!(line(&told, "cluster_id"), old_id);
    let mut members: Vec<&str> = line(&told, "members").split(", ").collect();
    members.sort_unstable();
    assert_eq!(members, ["node0", "node1", "node2", "node3", "node4"]);

    cluster.restart(survivor);
    let name = cluster.nodes[survivor].name.clone();
    cluster.wait_members(&[name], support::cluster::FORM_LIMIT);
    cluster.leader();
    let status = cluster.status(survivor);
    assert_eq!(status.cluster_id().as_deref(), Some(line(&told, "new cluster_id")));
    assert_ne!(status.cluster_id(), Some(old_id.clone()));
    let port = [cluster.port(survivor)];
    settled.verify(&port);
    for (key, before) in &had {
        let after = cluster.must_get(survivor, key).unwrap_or_else(|| panic!("{key} is lost"));
        assert!(sequence(&after) >= sequence(before), "{key}: {before:?} became {after:?}");
    }
    if early.status == 202 {
        assert_eq!(cluster.must_get(survivor, "early").as_deref(), Some("kept"));
    }
    println!("early answer {}; {} keys kept", early.status, had.len());
    assert!(cluster.must_put(survivor, "new", "v") > old_revision + BUMP, "revisions go on upward");

    // A node with old data is let in by nobody, and ends once it is sure. Until then it takes nothing.
    let join = cluster.join_flag(survivor);
    cluster.start_node(other, Some(&join));
    for i in 0..50 {
        cluster.must_put(survivor, &format!("beside-{i}"), "v");
    }
    let put = Request::put("/v1/kv/elsewhere?timeout=300ms", "v");
    if let Ok(refused) = cluster.send(other, &put) {
        assert_eq!((refused.status, refused.applied().as_str()), (503, "no"), "{}", refused.text());
    }
    if let Ok(read) = cluster.send(other, &Request::get("/v1/kv/new?timeout=300ms")) {
        assert_eq!(read.status, 503, "{}", read.text());
    }
    assert_eq!(cluster.nodes[other].reap(REFUSED_LIMIT).code, Some(1));
    let both = format!(
        "belongs to cluster {old_id}, but localhost:{} belongs to cluster",
        cluster.nodes[survivor].raft
    );
    assert!(cluster.nodes[other].log_text().contains(&both), "it names both clusters");
    assert_eq!(cluster.status(survivor).members().len(), 1);

    // With empty directories they join under their old names.
    let ids: Vec<u64> = (0..5).map(|i| i + 1).collect();
    for joiner in [other, lost[0]] {
        cluster.wipe(joiner);
        cluster.start_node(joiner, Some(&join));
    }
    let mut names = [survivor, other, lost[0]].map(|i| cluster.nodes[i].name.clone());
    names.sort();
    cluster.wait_members(&names, support::cluster::FORM_LIMIT);
    for joiner in [other, lost[0]] {
        let id = cluster.status(joiner).id().unwrap();
        assert!(!ids.contains(&id), "id {id} is used again");
    }
    cluster.wait_converged();
    settled.verify(&cluster.running_ports());
    cluster.kill9(survivor);
    cluster.wait_for_leader(&[other, lost[0]]);
    assert_eq!(cluster.must_get(other, "new").as_deref(), Some("v"));
    cluster.must_put(lost[0], "newer", "v");
}

/// Killed at any step, the directory is as before, or no node starts on it until the command is given again.
#[test]
fn killed_commands_are_given_again() {
    for place in ["recover-renamed", "recover-appended"] {
        let mut cluster = Cluster::start(3);
        let revision = (0..20).map(|i| cluster.must_put(i % 3, &format!("k{i}"), "v")).max().unwrap();
        cluster.wait_converged();
        cluster.kill9_all(&[0, 1, 2]);
        let mut killed = recover(&cluster, 1, &["--yes"]);
        let output = killed.env("VAULT_FAILPOINT", format!("{place}:1")).output().unwrap();
        assert_eq!(output.status.code(), None, "ends by a signal: {}", told(&output));
        cluster.restart(1);
        let stopped = cluster.nodes[1].reap(LOAD_LIMIT);
        assert_eq!(stopped.code, Some(1), "{}", cluster.nodes[1].log_tail());
        assert!(cluster.nodes[1].log_text().contains("vaultdb recover again"), "{place}");

        let told = expect(&mut recover(&cluster, 1, &["--yes"]), 0, &["cut short"]);
        cluster.restart(1);
        cluster.wait_members(&["node1".into()], support::cluster::FORM_LIMIT);
        cluster.leader();
        assert_eq!(cluster.status(1).cluster_id().as_deref(), Some(line(&told, "new cluster_id")));
        (0..20).for_each(|i| assert_eq!(cluster.must_get(1, &format!("k{i}")).as_deref(), Some("v")));
        assert!(cluster.must_put(1, "new", "v") > revision + BUMP);
    }
}

/// What no cluster can be made of is refused, and what is damaged is called so.
#[test]
fn what_cannot_be_recovered() {
    let mut cluster = Cluster::start(1);
    cluster.must_put(0, "k", "v");
    let node = &cluster.nodes[0];
    let data = node.data.to_str().unwrap().to_owned();
    expect(vaultdb().args(["recover", "-id", "node0", &data]), 2, &["--force-new-cluster"]);
    expect(vaultdb().args(["recover", "--force-new-cluster", &data]), 2, &["name is missing"]);
    assert_eq!(cluster.terminate(0).code, Some(0));
    let none = cluster.dir().join("none");
    let none = none.to_str().unwrap();
    let base = ["recover", "--force-new-cluster", "--yes", "-id"];
    expect(vaultdb().args(base).args(["node0", none]), 1, &["is no directory"]);
    fs::create_dir(none).unwrap();
    expect(vaultdb().args(base).args(["node0", none]), 1, &["no identity.json"]);
    expect(vaultdb().args(base).args(["nodeX", &data]), 1, &["belongs to node \"node0\""]);
    let (rocks, aside) = (cluster.nodes[0].data.join("rocksdb"), cluster.dir().join("aside"));
    fs::rename(&rocks, &aside).unwrap();
    expect(&mut recover(&cluster, 0, &["--yes"]), 70, &["rocksdb"]);
    fs::rename(&aside, &rocks).unwrap();
    expect(&mut recover(&cluster, 0, &["--yes"]), 0, &["new cluster_id"]);
    cluster.restart(0);
    cluster.leader();
    assert_eq!(cluster.must_get(0, "k").as_deref(), Some("v"));
}
