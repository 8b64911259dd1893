//! A node whose disk is nearly full refuses growth with 507 and says so; reads, deletes and membership go on, and it ends by
//! itself. One whose disk is full in earnest stops instead of losing what it acknowledged.
//!
//! On filesystems in memory, which are filled, where this machine lets one mount them; otherwise by the fault.

#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use support::{eventually, skip, Cluster, Node, Plan, Request, Response, SmallDisk};
use tempfile::TempDir;

/// Size of a node's disk. A twentieth of it is the line: 4.8 MiB; growth comes back at 6 MiB.
const DISK_MIB: u32 = 96;
/// Between the floor (1.2 MiB) and the line.
const LOW_BYTES: u64 = 3 * 1024 * 1024;
/// What is left to a node that fills it by itself.
const ROOM_BYTES: u64 = 24 * 1024 * 1024;
/// Longest wait for a node to look at its disk, which it does once a second.
const LOOK_LIMIT: Duration = Duration::from_secs(15);
/// Longest wait for a node to end by itself.
const END_LIMIT: Duration = Duration::from_secs(30);
/// Most writes until a disk is full.
const WRITES_MAX: usize = 10_000;

/// The disks of a test, which fill and empty.
struct Disks {
    /// One for each node; none where they are not allowed.
    mounted: Vec<SmallDisk>,
    _dir: TempDir,
}

impl Disks {
    fn new(count: usize) -> Self {
        let dir = tempfile::Builder::new().prefix("vaultdb-disks-").tempdir().unwrap();
        let disk = |i: usize| SmallDisk::mount(&dir.path().join(i.to_string()), DISK_MIB);
        let mounted = (0..count).map(disk).collect::<Result<_, String>>().unwrap_or_else(|why| {
            skip("nodes on small disks", &why);
            Vec::new()
        });
        Self { mounted, _dir: dir }
    }

    fn fill(&self, cluster: &Cluster, i: usize) {
        match self.mounted.get(i) {
            Some(disk) => disk.leave(LOW_BYTES),
            None => {
                let fault = r#"{"kind":"disk_full","duration":"10m"}"#;
                assert_eq!(cluster.ask(i, &Request::post("/v1/faults", fault)).status, 200);
            }
        }
    }

    fn empty(&self, cluster: &Cluster, i: usize) {
        match self.mounted.get(i) {
            Some(disk) => disk.clear(),
            None => assert_eq!(cluster.ask(i, &Request::delete("/v1/faults")).status, 200),
        }
    }
}

/// So that nodes on a small disk do not fill it by themselves.
fn plan(nodes: usize) -> Plan {
    let env = [("VAULTDB_WAL_SEGMENT_BYTES", "64KiB"), ("VAULTDB_WRITE_BUFFER_BYTES", "1MiB")];
    let env = env.into_iter().map(|(name, value)| (name, value.to_owned())).collect();
    Plan { env, flags: vec!["--enable-fault-injection".into()], ..Plan::nodes(nodes) }
}

/// Nodes on the disks; nodes beyond them on the machine's own.
fn start(disks: &Disks, nodes: usize) -> Cluster {
    let mut cluster = Cluster::prepare(&plan(nodes));
    for (node, disk) in cluster.nodes.iter_mut().zip(&disks.mounted) {
        node.data = disk.path.join("data");
    }
    cluster.start_node(0, None);
    let join = cluster.join_flag(0);
    (1..nodes).for_each(|i| cluster.start_node(i, Some(&join)));
    cluster.wait_formed();
    cluster
}

/// The state of the node's disk in its own words.
fn disk_state(cluster: &Cluster, i: usize) -> String {
    let status = cluster.status(i);
    let components = status.0["health"]["components"].as_array().unwrap().clone();
    let disk = components.iter().find(|component| component["name"] == "disk").expect("a disk");
    disk["state"].as_str().unwrap().to_owned()
}

/// Every way to set a value, through node `i`.
fn growth(cluster: &Cluster, i: usize) -> Vec<Response> {
    let create = Request::put("/v1/kv/new", "v").header("If-None-Match", "*");
    vec![
        cluster.put(i, "refused", "v", ""),
        cluster.put(i, "refused", "v", "ack=leader"),
        cluster.ask(i, &Request::post("/key", r#"{"refused":"v"}"#)),
        cluster.ask(i, &create),
    ]
}

/// Each of them is refused because of the disk of `low`.
fn refused_for(cluster: &Cluster, i: usize, low: &str) {
    for response in growth(cluster, i) {
        assert_eq!(response.status, 507, "{}", response.text());
        assert_eq!((response.code().as_str(), response.applied().as_str()), ("out_of_space", "no"));
        let problem = response.json();
        let detail = problem["detail"].as_str().unwrap();
        let needed = problem["limit"].as_u64().unwrap();
        assert!(detail.contains(&format!("the disk of {low}")), "{detail}");
        assert!(detail.contains("bytes are free") && detail.contains(&needed.to_string()), "{detail}");
    }
}

/// Waits until node `i` refuses growth because of the disk of `low`; then all of it is refused.
fn wait_refused(cluster: &Cluster, i: usize, low: &str) {
    eventually(&format!("node{i} refuses growth"), LOOK_LIMIT, || {
        match cluster.put(i, "tried", "v", "").status {
            507 => Ok(()),
            other => Err(other.to_string()),
        }
    });
    refused_for(cluster, i, low);
}

fn wait_taken(cluster: &Cluster, i: usize) {
    eventually(&format!("node{i} takes growth by itself"), LOOK_LIMIT, || {
        match cluster.put(i, "tried", "v", "") {
            response if response.status == 200 => Ok(()),
            response => Err(response.text()),
        }
    });
    eventually(&format!("node{i} says that its disk is healthy"), LOOK_LIMIT, || {
        match disk_state(cluster, i) {
            state if state == "healthy" => Ok(()),
            state => Err(state),
        }
    });
}

/// How low changes with each look, and a ballast that goes is enough for the better word.
fn wait_says_low(cluster: &Cluster, i: usize) {
    eventually(&format!("node{i} says that its disk is nearly full"), LOOK_LIMIT, || {
        match disk_state(cluster, i) {
            state if state == "healthy" => Err(state),
            _ => Ok(()),
        }
    });
}

/// Reads and deletes go on through node `i`.
fn reads_and_deletes(cluster: &Cluster, i: usize, key: &str) {
    assert_eq!(cluster.must_get(i, key).as_deref(), Some("v"));
    let early = cluster.delete(i, key, "ack=leader");
    assert_eq!(early.status, 202, "{}", early.text());
    let deleted = cluster.delete(i, key, "");
    assert_eq!(deleted.status, 200, "{}", deleted.text());
    assert_eq!(cluster.must_get(i, key), None);
}

fn metric(cluster: &Cluster, i: usize, name: &str) -> u64 {
    let text = cluster.ask(i, &Request::get("/metrics")).text();
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
    line.unwrap_or_else(|| panic!("no {name}")).parse().unwrap()
}

#[test]
fn growth_ends_on_a_full_disk_and_the_rest_goes_on() {
    let disks = Disks::new(3);
    let mut cluster = start(&disks, 3);
    let leader = cluster.leader();
    let (follower, other) = ((leader + 1) % 3, (leader + 2) % 3);
    for i in 0..3 {
        for who in ["follower", "leader"] {
            cluster.must_put(i, &format!("{who}-{i}"), "v");
        }
        assert_eq!(metric(&cluster, i, "vaultdb_disk_read_only"), 0);
    }

    // A follower: only what is sent to it.
    disks.fill(&cluster, follower);
    wait_refused(&cluster, follower, &format!("node{follower}"));
    for i in 0..3 {
        reads_and_deletes(&cluster, i, &format!("follower-{i}"));
    }
    for i in [leader, other] {
        cluster.must_put(i, "taken", "v");
        assert_eq!(disk_state(&cluster, i), "healthy");
    }
    disks.empty(&cluster, follower);
    wait_taken(&cluster, follower);

    // The leader: whoever is asked.
    disks.fill(&cluster, leader);
    for i in [leader, follower, other] {
        wait_refused(&cluster, i, &format!("node{leader}"));
    }
    for i in 0..3 {
        reads_and_deletes(&cluster, i, &format!("leader-{i}"));
    }
    wait_says_low(&cluster, leader);
    assert_eq!(metric(&cluster, leader, "vaultdb_disk_read_only"), 1);
    assert!(metric(&cluster, leader, "vaultdb_disk_free_bytes") <= LOW_BYTES);
    assert!(metric(&cluster, leader, "vaultdb_disk_total_bytes") > LOW_BYTES);
    join_and_leave(&mut cluster, leader);
    refused_for(&cluster, other, &format!("node{leader}"));
    disks.empty(&cluster, leader);
    for i in [leader, follower, other] {
        wait_taken(&cluster, i);
    }
    for i in 0..3 {
        assert_eq!(cluster.must_get(i, "refused"), None, "what was refused never appears");
    }
}

/// A node joins through the leader, becomes a voter, and goes again.
fn join_and_leave(cluster: &mut Cluster, leader: usize) {
    let node = Node::new("node3", &cluster.dir(), support::ports::free(), support::ports::free());
    cluster.nodes.push(node);
    let join = cluster.join_flag(leader);
    cluster.start_node(3, Some(&join));
    cluster.wait_formed();
    let removed = cluster.ask(leader, &Request::delete("/v1/members/node3"));
    assert_eq!(removed.status, 200, "{}", removed.text());
    cluster.nodes[3].reap(END_LIMIT);
    cluster.nodes.pop();
    cluster.wait_formed();
}

/// Writes of its own fill a node's disk: it refuses before it breaks, and everything acknowledged is there.
#[test]
fn a_node_that_fills_its_disk_refuses_before_it_breaks() {
    let disks = Disks::new(1);
    let Some(disk) = disks.mounted.first() else { return };
    let cluster = start(&disks, 1);
    // It counts its own writes between two looks, not what somebody else took.
    disk.leave(ROOM_BYTES);
    eventually("the node sees what is left", LOOK_LIMIT, || {
        match metric(&cluster, 0, "vaultdb_disk_free_bytes") {
            free if free <= ROOM_BYTES => Ok(()),
            free => Err(format!("{free} bytes")),
        }
    });
    let value = "v".repeat(64 * 1024);
    let mut acked = Vec::new();
    let refused = (0..WRITES_MAX).find(|n| {
        let key = format!("k{n}");
        let response = cluster.put(0, &key, &value, "");
        match response.status {
            200 => acked.push(key),
            507 => return true,
            other => panic!("{other}: {}", response.text()),
        }
        false
    });
    println!("refused after {} writes with {} bytes free", acked.len(), disk.free_bytes());
    assert!(refused.is_some() && acked.len() > 10, "{} writes", acked.len());
    for key in &acked {
        assert_eq!(cluster.must_get(0, key).map(|found| found.len()), Some(value.len()), "{key}");
    }
    for key in &acked[..10] {
        assert_eq!(cluster.delete(0, key, "").status, 200);
    }
    disk.clear();
    wait_taken(&cluster, 0);
    assert_eq!(cluster.must_get(0, &acked[0]), None);
}

/// A disk without a byte: the ballast goes, then the node stops with 70, says why, and comes back whole once there is room.
#[test]
fn a_disk_without_a_byte_ends_the_node_and_loses_nothing() {
    let disks = Disks::new(1);
    let Some(disk) = disks.mounted.first() else { return };
    let mut cluster = start(&disks, 1);
    let ballast = cluster.nodes[0].data.join("ballast");
    eventually("there is a ballast", LOOK_LIMIT, || match ballast.exists() {
        true => Ok(()),
        false => Err(format!("{} bytes free", disk.free_bytes())),
    });
    for key in ["kept", "gone"] {
        cluster.must_put(0, key, "v");
    }
    disk.leave(0);
    // The name goes first, and the room that it held a moment later.
    eventually("the ballast makes room", LOOK_LIMIT, || match (ballast.exists(), disk.free_bytes()) {
        (false, 1..) => Ok(()),
        (exists, free) => Err(format!("{free} bytes free, there is a ballast: {exists}")),
    });
    wait_says_low(&cluster, 0);
    reads_and_deletes(&cluster, 0, "gone");

    // Nothing is left, and what was made ahead is used up sooner or later.
    let mut deletes = 0;
    let code = eventually("the node ends by itself", END_LIMIT, || {
        disk.leave(0);
        if let Some(code) = cluster.nodes[0].exited() {
            return Ok(code);
        }
        // Each takes a place in the log. The last one may be cut off by the node's end.
        for _ in 0..16 {
            deletes += usize::from(cluster.send(0, &Request::delete("/v1/kv/none")).is_ok());
        }
        Err(format!("{deletes} deletes"))
    });
    assert_eq!(code, Some(70), "{}", cluster.nodes[0].log_tail());
    let said = cluster.nodes[0].log_text();
    assert!(said.contains("No space left on device"), "{said}");
    println!("the node took {deletes} deletes on a full disk and stopped");

    cluster.restart(0);
    let refused =
        eventually("the node says what is wrong, or runs", END_LIMIT, || match cluster.nodes[0].exited() {
            Some(code) => Ok(Some(code)),
            None => cluster.nodes[0].status()?.leader().map(|_| None).ok_or_else(|| "no leader".into()),
        });
    if let Some(code) = refused {
        assert_eq!(code, Some(70), "{}", cluster.nodes[0].log_tail());
        let again = cluster.nodes[0].log_text()[said.len()..].to_owned();
        assert!(again.contains("No space left on device"), "{again}");
        disk.clear();
        cluster.restart(0);
    }
    disk.clear();
    cluster.wait_formed();
    wait_taken(&cluster, 0);
    assert_eq!(cluster.must_get(0, "kept").as_deref(), Some("v"));
    assert_eq!(cluster.must_get(0, "gone"), None);
}
