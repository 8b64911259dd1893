//! Members are known by their names, not by where they are: addresses may change at a restart, all of them
//! at once, and even be exchanged.

#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use support::{eventually, ports, Cluster, Load, LoadPlan};

/// Longest wait for nodes that moved to find each other and to have it written down.
const FIND_LIMIT: Duration = Duration::from_secs(40);
const LOAD_LIMIT: Duration = Duration::from_secs(20);

/// Waits until every node shows every member where it is now.
fn wait_shown(cluster: &mut Cluster) {
    cluster.wait_formed();
    let want: Vec<(String, String, String)> = cluster
        .nodes
        .iter()
        .map(|node| {
            (node.name.clone(), format!("localhost:{}", node.http), format!("localhost:{}", node.raft))
        })
        .collect();
    eventually("every node shows where every member is", FIND_LIMIT, || {
        for node in &cluster.nodes {
            let members = node.status()?.members();
            for (name, haddr, raddr) in &want {
                match members.iter().find(|member| member.name == *name) {
                    Some(m) if m.haddr == *haddr && m.raddr == *raddr && m.reachable => {}
                    other => return Err(format!("{} shows {other:?}, not {raddr}", node.name)),
                }
            }
        }
        Ok(())
    });
}

fn put_at(cluster: &mut Cluster, i: usize, http: u16, raft: u16) {
    let node = &mut cluster.nodes[i];
    (node.http, node.raft, node.advertised_raft) = (http, raft, raft);
}

/// One that moves tells the others, under load and with nothing but what its own disk says.
#[test]
fn one_member_moves() {
    let mut cluster = Cluster::start(3);
    let load = Load::start(&cluster.ports(), &LoadPlan::new("move", 2));
    load.wait_acked(100, LOAD_LIMIT);
    for i in 0..3 {
        let id = cluster.status(i).id();
        cluster.terminate(i);
        put_at(&mut cluster, i, ports::free(), ports::free());
        cluster.restart(i);
        wait_shown(&mut cluster);
        assert_eq!(cluster.status(i).id(), id, "it is who it was");
    }
    let history = load.stop();
    println!("moved one by one: {}", history.summary());
    history.verify(&cluster.ports());
}

/// All five change both addresses at one restart. Nobody knows any but the first one's new HTTP address.
#[test]
fn all_five_move_at_once() {
    let mut cluster = Cluster::start(5);
    let ids: Vec<_> = (0..5).map(|i| cluster.status(i).id()).collect();
    for i in 0..50 {
        cluster.must_put(i % 5, &format!("k{i}"), "v");
    }
    cluster.kill9_all(&[0, 1, 2, 3, 4]);
    for i in 0..5 {
        put_at(&mut cluster, i, ports::free(), ports::free());
    }
    let join = cluster.join_flag(0);
    for i in (0..5).rev() {
        cluster.start_node(i, (i > 0).then_some(&join));
    }
    wait_shown(&mut cluster);
    assert_eq!((0..5).map(|i| cluster.status(i).id()).collect::<Vec<_>>(), ids);
    for i in 0..50 {
        assert_eq!(cluster.must_get(i % 5, &format!("k{i}")).as_deref(), Some("v"));
    }
    // Written down: the next restart needs no hint.
    cluster.kill9_all(&[0, 1, 2, 3, 4]);
    (0..5).for_each(|i| cluster.restart(i));
    wait_shown(&mut cluster);
    cluster.must_put(3, "after", "v");
}

/// Each takes the place of the next one: whoever is dialled at a known address is somebody else.
#[test]
fn all_five_exchange_their_addresses() {
    let mut cluster = Cluster::start(5);
    for i in 0..50 {
        cluster.must_put(i % 5, &format!("k{i}"), "v");
    }
    let places: Vec<(u16, u16)> = cluster.nodes.iter().map(|node| (node.http, node.raft)).collect();
    cluster.kill9_all(&[0, 1, 2, 3, 4]);
    for i in 0..5 {
        let (http, raft) = places[(i + 1) % 5];
        put_at(&mut cluster, i, http, raft);
    }
    let join: Vec<String> = (0..5).map(|i| cluster.join_flag(i)).collect();
    let join = join.join(",");
    (0..5).for_each(|i| cluster.start_node(i, Some(&join)));
    wait_shown(&mut cluster);
    for i in 0..50 {
        assert_eq!(cluster.must_get(i % 5, &format!("k{i}")).as_deref(), Some("v"));
    }
}
