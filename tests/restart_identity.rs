//! Who a node is stands on its disk and outlives every restart. A directory that contradicts itself is
//! refused with a clear word and stays as it is: it is never taken for an empty one.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use support::node::Node;
use support::{eventually, Cluster, Plan};

const START_LIMIT: Duration = Duration::from_secs(20);
/// Longest wait for a node to find that it must not start.
const REFUSE_LIMIT: Duration = Duration::from_secs(15);
/// How long a node is watched for founding a cluster of its own.
const WATCH: Duration = Duration::from_secs(3);

fn identity(node: &Node) -> serde_json::Value {
    serde_json::from_slice(&fs::read(node.data.join("identity.json")).unwrap()).unwrap()
}

/// The file tells cluster, id and name, agrees with `/status`, and does not change over restarts.
#[test]
fn identity_outlives_restarts() {
    let mut cluster = Cluster::start(3);
    let before: Vec<_> = cluster.nodes.iter().map(identity).collect();
    for (i, identity) in before.iter().enumerate() {
        let status = cluster.status(i);
        assert_eq!(identity["name"], format!("node{i}"));
        assert_eq!(identity["node_id"].as_u64(), status.id());
        assert_eq!(identity["cluster_id"].as_str(), status.cluster_id().as_deref());
        assert!(cluster.nodes[i].data.join("rocksdb").is_dir());
        assert!(cluster.nodes[i].data.join("wal").is_dir());
    }
    cluster.must_put(0, "k", "v");
    cluster.kill9_all(&[0, 1, 2]);
    (0..3).for_each(|i| cluster.restart(i));
    cluster.wait_formed();
    assert_eq!(cluster.nodes.iter().map(identity).collect::<Vec<_>>(), before);
    assert_eq!(cluster.must_get(1, "k").as_deref(), Some("v"));
}

/// A stopped node of one with some data, and a pristine copy of its directory.
fn with_data(cluster: &mut Cluster) -> std::path::PathBuf {
    cluster.start_node(0, None);
    cluster.wait_formed();
    for i in 0..50 {
        cluster.must_put(0, &format!("k{i}"), "v");
    }
    assert_eq!(cluster.terminate(0).code, Some(0));
    let pristine = cluster.dir().join("pristine");
    copy(&cluster.nodes[0].data, &pristine);
    pristine
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

type Damage = Box<dyn Fn(&Path)>;

/// Every way to damage a directory that must keep the node from starting.
#[test]
fn damaged_directory_is_refused() {
    let mut cluster = Cluster::prepare(&Plan::nodes(1));
    let pristine = with_data(&mut cluster);
    let whole = fs::read_to_string(pristine.join("identity.json")).unwrap();
    let cut = whole[..whole.len() / 2].to_owned();
    let write =
        |text: String| move |data: &Path| fs::write(data.join("identity.json"), text.as_bytes()).unwrap();
    let cases: Vec<(&str, Damage)> = vec![
        ("identity.json is empty", Box::new(write(String::new()))),
        ("identity.json is cut", Box::new(write(cut))),
        ("identity.json is not JSON", Box::new(write("{\u{0}\u{0}".into()))),
        ("identity.json is missing", Box::new(|data| fs::remove_file(data.join("identity.json")).unwrap())),
        (
            "identity.json and the state are missing, the log is not",
            Box::new(|data| {
                fs::remove_file(data.join("identity.json")).unwrap();
                fs::remove_dir_all(data.join("rocksdb")).unwrap();
            }),
        ),
        ("the wal is missing", Box::new(|data| fs::remove_dir_all(data.join("wal")).unwrap())),
        (
            "the wal is empty",
            Box::new(|data| {
                fs::remove_dir_all(data.join("wal")).unwrap();
                fs::create_dir(data.join("wal")).unwrap();
            }),
        ),
    ];
    for (what, damage) in cases {
        restore(&cluster.nodes[0].data, &pristine);
        damage(&cluster.nodes[0].data);
        let identity_before = fs::read(cluster.nodes[0].data.join("identity.json")).ok();
        fs::remove_file(&cluster.nodes[0].log).unwrap();
        cluster.restart(0);
        expect_refusal(&mut cluster, what);
        let identity_after = fs::read(cluster.nodes[0].data.join("identity.json")).ok();
        assert_eq!(identity_after, identity_before, "{what}: the directory was changed");
    }

    // Undamaged, everything is there.
    restore(&cluster.nodes[0].data, &pristine);
    cluster.restart(0);
    cluster.wait_formed();
    assert_eq!(cluster.must_get(0, "k49").as_deref(), Some("v"));
}

fn restore(data: &Path, pristine: &Path) {
    fs::remove_dir_all(data).unwrap();
    copy(pristine, data);
}

fn expect_refusal(cluster: &mut Cluster, what: &str) {
    let node = &mut cluster.nodes[0];
    let code = eventually(&format!("the node refuses to start: {what}"), REFUSE_LIMIT, || {
        node.exited().ok_or_else(|| match node.status() {
            Ok(status) => format!("it runs: {}", status.0),
            Err(reason) => reason,
        })
    });
    let said = node.log_text();
    println!("{what}: exit {code:?}: {}", said.trim_end().lines().last().unwrap_or_default());
    assert!(matches!(code, Some(1 | 70)), "{what}: exit {code:?}\n{said}");
    let named = if what.contains("wal") { "wal" } else { "identity" };
    assert!(said.contains(named), "{what}: the message does not name it:\n{said}");
    assert!(!said.contains("panicked"), "{what}: it panicked:\n{said}");
}

/// The state machine can be rebuilt from the log, or its loss is refused; it is never just empty.
#[test]
fn lost_state_machine_is_no_empty_one() {
    let mut cluster = Cluster::prepare(&Plan::nodes(1));
    with_data(&mut cluster);
    fs::remove_dir_all(cluster.nodes[0].data.join("rocksdb")).unwrap();
    cluster.restart(0);
    let node = &mut cluster.nodes[0];
    let started = eventually("the node starts or refuses", START_LIMIT, || {
        if let Some(code) = node.exited() {
            assert!(matches!(code, Some(1 | 70)), "exit {code:?}\n{}", node.log_text());
            return Ok(false);
        }
        node.status()?.leader().map(|_| true).ok_or_else(|| "no leader".into())
    });
    println!("without its state machine the node {}", if started { "rebuilds it" } else { "refuses" });
    for i in 0..if started { 50 } else { 0 } {
        assert_eq!(cluster.must_get(0, &format!("k{i}")).as_deref(), Some("v"));
    }
}

/// Whoever stops a node need not wait for a read that never ends: here of a pipe, elsewhere of a disk that hangs.
#[test]
fn start_that_hangs_can_be_stopped() {
    let mut cluster = Cluster::prepare(&Plan::nodes(1));
    with_data(&mut cluster);
    let pipe = cluster.nodes[0].data.join("rocksdb/CURRENT-GENERATION");
    fs::remove_file(&pipe).unwrap();
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let said = cluster.nodes[0].log_text().len();
    cluster.restart(0);
    eventually("the node opens its data", START_LIMIT, || {
        let says = cluster.nodes[0].log_text()[said..].to_owned();
        says.contains("\"node0\" of cluster").then_some(()).ok_or(says)
    });
    assert_eq!(cluster.status(0).state(), "starting");
    assert_eq!(cluster.terminate(0).code, Some(0));
}

/// A directory belongs to one name.
#[test]
fn other_name_is_refused() {
    let mut cluster = Cluster::prepare(&Plan::nodes(1));
    with_data(&mut cluster);
    let data = cluster.nodes[0].data.clone();
    let output = support::vaultdb()
        .args(["-id", "somebody", "-haddr", &format!("localhost:{}", cluster.port(0))])
        .args(["-raddr", &format!("localhost:{}", cluster.nodes[0].raft)])
        .arg(&data)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(matches!(output.status.code(), Some(1 | 2 | 70)), "{:?}: {said}", output.status);
    assert!(said.contains("node0") && said.contains("somebody"), "both names are told: {said}");
}

/// A node that was started to join and has not done so yet founds no cluster when it is restarted
/// without `-join`: its directory is not empty.
#[test]
fn unfinished_join_founds_nothing() {
    let mut cluster = Cluster::prepare(&Plan::nodes(1));
    let nowhere = format!(":{}", support::ports::free());
    cluster.start_node(0, Some(&nowhere));
    cluster.nodes[0].wait_answers(START_LIMIT);
    cluster.kill9(0);
    cluster.restart(0);
    let end = std::time::Instant::now() + WATCH;
    while std::time::Instant::now() < end {
        if let Some(code) = cluster.nodes[0].exited() {
            assert!(matches!(code, Some(1 | 2 | 70)), "exit {code:?}");
            return;
        }
        if let Ok(status) = cluster.nodes[0].status() {
            assert_eq!(status.leader(), None, "it founded a cluster: {}", status.0);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
