//! A node whose disk was lost comes back under its name with a new id, and takes the place of its
//! predecessor; the old id is never used again (a voter that forgot its vote may vote twice).

#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use support::{eventually, Cluster, Load, LoadPlan, Plan};

const REJOIN_LIMIT: Duration = Duration::from_secs(40);
const LOAD_LIMIT: Duration = Duration::from_secs(20);

#[test]
fn wiped_follower_returns_with_a_new_id() {
    let mut cluster = Cluster::start(5);
    let load = Load::start(&cluster.ports(), &LoadPlan::new("wipe", 4));
    load.wait_acked(200, LOAD_LIMIT);
    let leader = cluster.leader();
    let victim = (leader + 2) % 5;
    let old_id = cluster.status(victim).id().unwrap();

    cluster.kill9(victim);
    cluster.wipe(victim);
    load.wait_acked(100, LOAD_LIMIT);
    // Through a follower: any member will do.
    let join = cluster.join_flag((leader + 1) % 5);
    cluster.start_node(victim, Some(&join));

    let name = cluster.nodes[victim].name.clone();
    eventually(&format!("{name} is a voter with a new id on every node"), REJOIN_LIMIT, || {
        for i in cluster.running() {
            let status = cluster.nodes[i].status()?;
            let members = status.members();
            let ok = members.len() == 5
                && members.iter().all(|m| m.voter && m.id != old_id)
                && members.iter().filter(|m| m.name == name).count() == 1;
            if !ok {
                return Err(format!("node{i} sees {members:?}"));
            }
        }
        Ok(())
    });
    cluster.wait_formed();
    let status = cluster.status(victim);
    assert_ne!(status.id(), Some(old_id));
    assert_eq!(status.member(&name).unwrap().id, status.id().unwrap());

    let history = load.stop();
    println!("wiped follower: {}", history.summary());
    cluster.wait_converged();
    history.verify(&cluster.ports());
    history.verify_same(&cluster.ports());
    let stale = cluster.get(victim, &history.writes[0].key, "consistency=stale");
    assert_eq!(stale.status, 200, "{}", stale.text());

    // Its vote counts: with two others gone, the newcomer is needed for a majority.
    let new_leader = cluster.leader();
    let others: Vec<usize> = (0..5).filter(|i| *i != victim && *i != new_leader).take(2).collect();
    cluster.kill9_all(&others);
    cluster.must_put(victim, "needs-the-newcomer", "yes");
    assert_eq!(cluster.must_get(victim, "needs-the-newcomer").as_deref(), Some("yes"));
}

/// The same with the leader's disk: the cluster elects another and takes the name back in.
#[test]
fn wiped_leader_returns_with_a_new_id() {
    let mut cluster = Cluster::start(3);
    let leader = cluster.leader();
    let old_id = cluster.status(leader).id().unwrap();
    cluster.must_put(leader, "kept", "yes");
    cluster.kill9(leader);
    cluster.wipe(leader);
    let new = cluster.wait_for_leader_other_than(leader);
    let join = cluster.join_flag(new);
    cluster.start_node(leader, Some(&join));
    let name = cluster.nodes[leader].name.clone();
    eventually(&format!("{name} is a voter with a new id"), REJOIN_LIMIT, || {
        let status = cluster.nodes[leader].status()?;
        match status.member(&name) {
            Some(member) if member.voter && member.id != old_id && status.members().len() == 3 => Ok(()),
            _ => Err(format!("{:?}", status.members())),
        }
    });
    cluster.wait_formed();
    assert_eq!(cluster.must_get(leader, "kept").as_deref(), Some("yes"));
}

/// A node in memory loses its disk at each stop: it comes back as a new one, and writes nothing anywhere.
#[test]
fn node_in_memory_returns_with_a_new_id() {
    let mut cluster = Cluster::start_plan(&Plan { flags: vec!["-inmem".into()], ..Plan::nodes(3) });
    let leader = cluster.leader();
    let victim = (leader + 1) % 3;
    let old_id = cluster.status(victim).id().unwrap();
    for i in 0..100 {
        cluster.must_put(i % 3, &format!("k{i}"), "v");
    }
    cluster.kill9(victim);
    let join = cluster.join_flag(leader);
    cluster.start_node(victim, Some(&join));
    cluster.wait_formed();
    assert_ne!(cluster.status(victim).id(), Some(old_id));
    for i in 0..100 {
        assert_eq!(cluster.must_get(victim, &format!("k{i}")).as_deref(), Some("v"));
    }
    for node in &cluster.nodes {
        for part in ["rocksdb", "wal"] {
            assert!(!node.data.join(part).exists(), "{} has {part}/ on disk", node.name);
        }
    }
}
