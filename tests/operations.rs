//! The commands of docs/operations.md do what the page says, as they are printed.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use support::walk::{fits, has, rewrite_ports, steps, Step};
use support::{eventually, skip, vaultdb, Cluster, Plan, Request};

/// Longest wait for a node to serve.
const READY_LIMIT: Duration = Duration::from_secs(30);

/// The steps of one section.
fn section(title: &str) -> Vec<Step> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations.md");
    let text = fs::read_to_string(page).unwrap();
    let begin = text.find(&format!("## {title}\n")).unwrap_or_else(|| panic!("no section {title}"));
    let rest = &text[begin + 3..];
    let steps = steps(&rest[..rest.find("\n## ").unwrap_or(rest.len())]);
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
    if !can_walk() {
        return None;
    }
    let cluster = Cluster::start(5);
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
