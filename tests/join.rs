//! Nodes find together whatever the order in which they start and whichever member they ask; asking
//! twice changes nothing; and a node of another cluster never becomes part of this one.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use support::http;
use support::{eventually, ports, Cluster, Node, Plan, Request, Response};

/// Longest wait for five nodes that start at once on two cores.
const FORM_LIMIT: Duration = Duration::from_secs(60);
const RESTART_LIMIT: Duration = Duration::from_secs(20);
/// How long a stranger is watched for being let in.
const WATCH: Duration = Duration::from_secs(3);

fn names(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|i| format!("node{i}")).collect()
}

/// One cluster: one id, one revision, distinct node ids, and a write on one is read on all.
fn check_one_cluster(cluster: &Cluster) {
    let statuses: Vec<_> = cluster.running().into_iter().map(|i| cluster.status(i)).collect();
    let cluster_ids: Vec<_> = statuses.iter().map(|s| s.cluster_id().unwrap()).collect();
    assert!(cluster_ids.windows(2).all(|two| two[0] == two[1]), "{cluster_ids:?}");
    let mut ids: Vec<_> = statuses.iter().map(|s| s.id().unwrap()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), statuses.len(), "ids are distinct: {ids:?}");
    let last = *cluster.running().last().unwrap();
    cluster.must_put(last, "together", "yes");
    for i in cluster.running() {
        assert_eq!(cluster.must_get(i, "together").as_deref(), Some("yes"));
    }
}

#[test]
fn five_at_the_same_moment() {
    let mut cluster = Cluster::prepare(&Plan::nodes(5));
    let join = cluster.join_flag(0);
    for i in (0..5).rev() {
        cluster.start_node(i, (i > 0).then_some(&join));
    }
    cluster.wait_members(&names(0..5), FORM_LIMIT);
    check_one_cluster(&cluster);
}

#[test]
fn first_node_started_last() {
    let mut cluster = Cluster::prepare(&Plan::nodes(5));
    let join = cluster.join_flag(0);
    for i in 1..5 {
        cluster.start_node(i, Some(&join));
    }
    for i in 1..5 {
        let status = cluster.nodes[i].wait_answers(FORM_LIMIT);
        assert_eq!(status.leader(), None, "a node that waits to join leads nothing");
        check_starting(&cluster, i);
    }
    cluster.start_node(0, None);
    cluster.wait_members(&names(0..5), FORM_LIMIT);
    check_one_cluster(&cluster);
}

/// A node that has not joined yet refuses definitely, and tells what it is.
fn check_starting(cluster: &Cluster, i: usize) {
    let write = cluster.put(i, "early", "no", "timeout=300ms");
    assert_eq!((write.status, write.code().as_str()), (503, "starting"), "{}", write.text());
    assert_eq!(write.applied(), "no");
    let read = cluster.get(i, "early", "timeout=300ms");
    assert_eq!((read.status, read.code().as_str()), (503, "starting"), "{}", read.text());
    assert_eq!(cluster.ask(i, &Request::get("/readyz")).status, 503);
}

fn post_join(cluster: &Cluster, via: usize, name: &str, raft: u16, http: u16) -> Response {
    let body = format!(r#"{{"id":"{name}","addr":"localhost:{raft}","http_addr":"localhost:{http}"}}"#);
    cluster.ask(via, &Request::post("/join", body))
}

/// Through a follower, through a list of which the first address is dead, and again and again.
#[test]
fn through_any_member_and_idempotent() {
    let mut cluster = Cluster::prepare(&Plan::nodes(4));
    cluster.start_node(0, None);
    let join = cluster.join_flag(0);
    cluster.start_node(1, Some(&join));
    cluster.wait_members(&names(0..2), FORM_LIMIT);
    let follower = 1 - cluster.leader();
    let dead = ports::free();
    let list = format!("localhost:{dead},{}", cluster.join_flag(follower));
    cluster.start_node(2, Some(&list));
    cluster.wait_members(&names(0..3), FORM_LIMIT);
    check_one_cluster(&cluster);

    // A live member that is asked for again by hand keeps its id and its vote.
    let before = cluster.status(0).members();
    for via in [0, 1, 2, 0] {
        let (raft, http) = (cluster.nodes[2].raft, cluster.nodes[2].http);
        let answer = post_join(&cluster, via, "node2", raft, http);
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.json()["id"].as_u64(), cluster.status(2).id(), "{}", answer.text());
    }
    // The HTTP address may be left out, and stays what it is.
    let body = format!(r#"{{"id":"node2","addr":"localhost:{}"}}"#, cluster.nodes[2].raft);
    let answer = cluster.ask(1, &Request::post("/join", body));
    assert_eq!(answer.status, 200, "{}", answer.text());
    let after = cluster.status(0).members();
    assert_eq!(ids(&after), ids(&before));
    assert_eq!(after[2].haddr, before[2].haddr);

    // A node that does not run yet: twice the same id, a learner, and no harm to the voters.
    let (raft, http) = (cluster.nodes[3].raft, cluster.nodes[3].http);
    let first = post_join(&cluster, 0, "absent", raft, http);
    let second = post_join(&cluster, 1, "absent", raft, http);
    assert_eq!((first.status, second.status), (200, 200), "{} {}", first.text(), second.text());
    assert_eq!(first.json()["id"], second.json()["id"]);
    assert!(first.json()["id"].is_u64());
    let absent = cluster.status(cluster.leader()).member("absent").expect("it is listed");
    assert!(!absent.voter, "a node that was never heard of has no vote");

    // Told without its HTTP address at first, then with it.
    let (raft, http) = (ports::free(), ports::free());
    let body = format!(r#"{{"id":"later","addr":"localhost:{raft}"}}"#);
    let first = cluster.ask(0, &Request::post("/join", body));
    let second = post_join(&cluster, 1, "later", raft, http);
    assert_eq!((first.status, second.status), (200, 200), "{} {}", first.text(), second.text());
    assert_eq!(first.json()["id"], second.json()["id"]);
    let later = cluster.status(cluster.leader()).member("later").expect("it is listed");
    assert_eq!(later.haddr, format!("localhost:{http}"));
    cluster.must_put(0, "still", "writable");
}

fn ids(members: &[support::status::Member]) -> Vec<(String, u64, bool)> {
    members.iter().map(|m| (m.name.clone(), m.id, m.voter)).collect()
}

/// What a node belongs to is on its disk; `-join` changes nothing of it.
#[test]
fn member_ignores_join() {
    let mut cluster = Cluster::start(3);
    let id = cluster.status(2).id();
    let leader = cluster.leader();
    cluster.must_put(leader, "k", "v");
    cluster.terminate(2);
    let nowhere = format!(":{}", ports::free());
    cluster.start_node(2, Some(&nowhere));
    cluster.wait_members(&names(0..3), RESTART_LIMIT);
    assert_eq!(cluster.status(2).id(), id);
    assert_eq!(cluster.must_get(2, "k").as_deref(), Some("v"));
}

/// A name belongs to its node while that lives: a second node that claims it stays outside.
#[test]
fn impostor_stays_outside() {
    let mut cluster = Cluster::start(3);
    let before = ids(&cluster.status(0).members());
    let dir = cluster.dir().join("impostor");
    fs::create_dir(&dir).unwrap();
    let mut impostor = Node::new("node2", &dir, ports::free(), ports::free());
    impostor.start(Some(&cluster.join_flag(0)));
    impostor.wait_answers(RESTART_LIMIT);
    let end = Instant::now() + WATCH;
    while Instant::now() < end {
        assert_eq!(ids(&cluster.status(0).members()), before);
        assert_eq!(impostor.exited(), None, "it goes on asking: {}", impostor.log_tail());
        assert_eq!(impostor.status().unwrap().leader(), None);
        thread::sleep(Duration::from_millis(100));
    }
    check_one_cluster(&cluster);
    let stopped = impostor.terminate();
    assert_eq!(stopped.code, Some(0), "a node that still asks stops cleanly");
    assert!(stopped.took < Duration::from_secs(10), "{:?}", stopped.took);
    cluster.wait_formed();
}

/// Two clusters of one stay two, also when one is told to take the other's running node in, and when a
/// member of one is started with `-join` to the other.
#[test]
fn other_cluster_is_refused() {
    let mut a = Cluster::start(1);
    let mut b = Cluster::start_plan(&Plan { beside: true, ..Plan::nodes(1) });
    let (a_id, b_id) = (a.status(0).cluster_id().unwrap(), b.status(0).cluster_id().unwrap());
    assert_ne!(a_id, b_id);
    a.must_put(0, "whose", "a");
    b.must_put(0, "whose", "b");
    let b_node = b.status(0).id();

    // Under a name of its own and under the name that both use.
    for name in ["stranger", "node0"] {
        let body = format!(
            r#"{{"id":"{name}","addr":"localhost:{}","http_addr":"localhost:{}"}}"#,
            b.nodes[0].raft, b.nodes[0].http
        );
        let answer = http::send(a.port(0), &Request::post("/join?timeout=3s", body)).unwrap();
        assert_eq!((answer.status, answer.code().as_str()), (409, "conflict"), "{name}: {}", answer.text());
    }
    let end = Instant::now() + WATCH;
    while Instant::now() < end {
        let status = a.status(0);
        let voters: Vec<_> = status.members().into_iter().filter(|m| m.voter).collect();
        assert_eq!(voters.len(), 1, "{:?}", status.members());
        assert_eq!((voters[0].name.as_str(), voters[0].id), ("node0", status.id().unwrap()));
        assert!(
            status.members().iter().all(|m| m.voter || !m.reachable),
            "a node of another cluster counts as reachable: {:?}",
            status.members()
        );
        check_untouched(&b, &b_id, b_node);
        thread::sleep(Duration::from_millis(100));
    }
    a.must_put(0, "still", "writable");

    // B's directory started with -join to A.
    b.terminate(0);
    let join_a = a.join_flag(0);
    b.start_node(0, Some(&join_a));
    eventually("B leads itself again", RESTART_LIMIT, || {
        b.nodes[0].status()?.leader().ok_or_else(|| "no leader".to_owned())
    });
    check_untouched(&b, &b_id, b_node);
    // And A's the same with everything restarted.
    a.terminate(0);
    a.restart(0);
    eventually("A leads itself again", RESTART_LIMIT, || {
        a.nodes[0].status()?.leader().ok_or_else(|| "no leader".to_owned())
    });
    assert_eq!(a.must_get(0, "whose").as_deref(), Some("a"));
}

fn check_untouched(b: &Cluster, cluster_id: &str, node_id: Option<u64>) {
    let status = b.status(0);
    assert_eq!(status.cluster_id().as_deref(), Some(cluster_id));
    assert_eq!(status.id(), node_id);
    assert_eq!(status.members().len(), 1, "{:?}", status.members());
    assert_eq!(status.state(), "leader");
    assert_eq!(b.must_get(0, "whose").as_deref(), Some("b"));
}
