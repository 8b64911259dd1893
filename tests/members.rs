//! Members come, go, are promoted and removed while the cluster works: no acknowledged write is lost, no
//! change leaves the cluster without a quorum, and whoever was removed says so and stays out.

#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use support::{eventually, Cluster, Load, LoadPlan, Plan, Request, Response, Stopped};

const CHANGE_LIMIT: Duration = Duration::from_secs(40);
const LOAD_LIMIT: Duration = Duration::from_secs(20);
/// Longest wait for a removed node to hear of it and end.
const END_LIMIT: Duration = Duration::from_secs(20);
/// Entries that must pass a learner by before it is believed to stay one.
const PASSED_BY: usize = 200;

fn names(of: &[usize]) -> Vec<String> {
    of.iter().map(|i| format!("node{i}")).collect()
}

fn remove(cluster: &Cluster, via: usize, name: &str) -> Response {
    cluster.ask(via, &Request::delete(format!("/v1/members/{name}?timeout=10s")).limit(CHANGE_LIMIT))
}

fn promote(cluster: &Cluster, via: usize, name: &str) -> Response {
    cluster.ask(via, &Request::post(format!("/v1/members/{name}/promote"), ""))
}

fn must_remove(cluster: &Cluster, via: usize, name: &str) {
    let answer = remove(cluster, via, name);
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!((&answer.json()["removed"], &answer.json()["name"]), (&true.into(), &name.into()));
}

/// The node ends by itself, with 1 and with the reason.
fn ends_removed(cluster: &mut Cluster, i: usize) {
    let Stopped { code, .. } = cluster.nodes[i].reap(END_LIMIT);
    let log = cluster.nodes[i].log_text();
    assert_eq!(code, Some(1), "{log}");
    let last = log.lines().last().unwrap_or_default();
    assert!(last.contains("was removed from cluster") && last.contains("empty its data directory"), "{last}");
}

/// Two of three voters lose their disks, one after the other: nothing that was acknowledged is lost, and no
/// id is given out twice.
#[test]
fn two_voters_wiped_in_turn() {
    let mut cluster = Cluster::start(3);
    let load = Load::start(&cluster.ports(), &LoadPlan::new("wipe", 4));
    load.wait_acked(200, LOAD_LIMIT);
    let mut ids: Vec<u64> = (0..3).map(|i| cluster.status(i).id().unwrap()).collect();
    for victim in [1, 2] {
        cluster.kill9(victim);
        cluster.wipe(victim);
        load.wait_acked(100, LOAD_LIMIT);
        let join = cluster.join_flag(0);
        cluster.start_node(victim, Some(&join));
        cluster.wait_members(&names(&[0, 1, 2]), CHANGE_LIMIT);
        ids.push(cluster.status(victim).id().unwrap());
        load.wait_acked(100, LOAD_LIMIT);
    }
    let history = load.stop();
    println!("two voters wiped in turn: {}", history.summary());
    ids.sort_unstable();
    assert!(ids.windows(2).all(|two| two[0] < two[1]), "an id was used again: {ids:?}");
    cluster.wait_converged();
    history.verify(&cluster.ports());
    history.verify_same(&cluster.ports());
}

/// Three members grow to five and shrink to three others, the leader among those that go, under load.
#[test]
fn three_five_three_under_load() {
    let mut cluster = Cluster::prepare(&Plan::nodes(5));
    cluster.start_node(0, None);
    let join = cluster.join_flag(0);
    (1..3).for_each(|i| cluster.start_node(i, Some(&join)));
    cluster.wait_members(&names(&[0, 1, 2]), CHANGE_LIMIT);
    let load = Load::start(&cluster.ports(), &LoadPlan::new("churn", 4));
    load.wait_acked(200, LOAD_LIMIT);

    let join = cluster.join_flag(1);
    (3..5).for_each(|i| cluster.start_node(i, Some(&join)));
    cluster.wait_members(&names(&[0, 1, 2, 3, 4]), CHANGE_LIMIT);
    load.wait_acked(200, LOAD_LIMIT);

    let first = cluster.leader();
    must_remove(&cluster, (first + 1) % 5, &format!("node{first}"));
    ends_removed(&mut cluster, first);
    let staying: Vec<usize> = (0..5).filter(|i| *i != first).collect();
    cluster.wait_members(&names(&staying), CHANGE_LIMIT);
    load.wait_acked(100, LOAD_LIMIT);

    // This time the leader is asked itself.
    let second = cluster.wait_for_leader(&staying);
    must_remove(&cluster, second, &format!("node{second}"));
    ends_removed(&mut cluster, second);
    let staying: Vec<usize> = staying.into_iter().filter(|i| *i != second).collect();
    cluster.wait_members(&names(&staying), CHANGE_LIMIT);
    load.wait_acked(200, LOAD_LIMIT);

    let history = load.stop();
    println!("three, five, three: {}", history.summary());
    cluster.wait_converged();
    history.verify(&cluster.running_ports());
    history.verify_same(&cluster.running_ports());

    // Those that went count for nothing: of the three that stay, one may fail.
    let gone = cluster.wait_for_leader(&staying);
    cluster.kill9(gone);
    let other = *staying.iter().find(|i| **i != gone).unwrap();
    cluster.must_put(other, "after", "churn");
}

/// What would leave the cluster without a living majority is refused at once, and nothing has changed.
#[test]
fn a_removal_that_would_lose_the_quorum_is_refused() {
    let mut cluster = Cluster::start(3);
    let leader = cluster.leader();
    let (dead, other) = ((leader + 1) % 3, (leader + 2) % 3);
    let unknown = remove(&cluster, other, "nobody");
    assert_eq!((unknown.status, unknown.code().as_str()), (404, "no_such_member"), "{}", unknown.text());

    cluster.kill9(dead);
    // At once: that the dead one was heard of a moment ago does not count. Neither does the leader go.
    for victim in [other, leader] {
        let refused = remove(&cluster, other, &format!("node{victim}"));
        assert_eq!(
            (refused.status, refused.code().as_str()),
            (409, "would_lose_quorum"),
            "{}",
            refused.text()
        );
        assert_eq!(refused.applied(), "no");
    }
    assert_eq!(cluster.status(other).members().iter().filter(|m| m.voter).count(), 3);
    assert_eq!(cluster.status(other).leader(), Some(format!("node{leader}")));
    cluster.must_put(other, "still", "writable");

    // The dead one may go: the two that stay answer.
    must_remove(&cluster, other, &format!("node{dead}"));
    let pair: Vec<usize> = (0..3).filter(|i| *i != dead).collect();
    cluster.wait_members(&names(&pair), CHANGE_LIMIT);
    must_remove(&cluster, other, &format!("node{leader}"));
    ends_removed(&mut cluster, leader);
    let last = remove(&cluster, other, &format!("node{other}"));
    assert_eq!((last.status, last.code().as_str()), (409, "would_lose_quorum"), "{}", last.text());
    cluster.must_put(other, "still", "writable");
    assert_eq!(cluster.must_get(other, "still").as_deref(), Some("writable"));
}

/// A removed node that starts again hears of it; with an empty directory it is a new member.
#[test]
fn a_removed_node_stays_out_until_it_joins_anew() {
    let mut cluster = Cluster::start(3);
    let leader = cluster.leader();
    let gone = (leader + 1) % 3;
    let name = format!("node{gone}");
    let old_id = cluster.status(gone).id().unwrap();
    cluster.terminate(gone);
    must_remove(&cluster, leader, &name);
    // Also where somebody asks for it by hand: what it was is over.
    let (raft, http) = (cluster.nodes[gone].raft, cluster.nodes[gone].http);
    let body = format!(r#"{{"id":"{name}","addr":"localhost:{raft}","http_addr":"localhost:{http}"}}"#);
    let by_hand = cluster.ask(leader, &Request::post("/join", body));
    assert_eq!(by_hand.status, 200, "{}", by_hand.text());
    assert!(by_hand.json()["id"].as_u64().unwrap() > old_id, "{}", by_hand.text());

    cluster.restart(gone);
    ends_removed(&mut cluster, gone);
    cluster.wipe(gone);
    let join = cluster.join_flag(leader);
    cluster.start_node(gone, Some(&join));
    cluster.wait_formed();
    assert!(cluster.status(gone).id().unwrap() > old_id);
    cluster.must_put(gone, "k", "v");
}

/// A learner that is to stay one does, is ready to read from, and votes once it is told to.
#[test]
fn a_learner_stays_one_until_it_is_promoted() {
    let mut cluster = Cluster::prepare(&Plan::nodes(3));
    cluster.start_node(0, None);
    let join = cluster.join_flag(0);
    cluster.start_node(1, Some(&join));
    cluster.wait_members(&names(&[0, 1]), CHANGE_LIMIT);
    cluster.nodes[2].flags.push("--learner".into());
    cluster.start_node(2, Some(&join));
    eventually("the learner is ready", CHANGE_LIMIT, || match cluster.send(2, &Request::get("/readyz")) {
        Ok(answer) if answer.status == 200 => Ok(()),
        Ok(answer) => Err(answer.text()),
        Err(failure) => Err(failure.to_string()),
    });
    for i in 0..PASSED_BY {
        cluster.must_put(i % 3, &format!("k{i}"), "v");
    }
    assert_eq!(cluster.must_get(2, "k0").as_deref(), Some("v"));
    // A node that is starting lists nobody yet.
    let shown = |cluster: &Cluster, i: usize| {
        eventually(&format!("node{i} lists node2"), CHANGE_LIMIT, || {
            let answer =
                cluster.send(i, &Request::get("/v1/members")).map_err(|failure| failure.to_string())?;
            let rows = answer.json()["members"].as_array().cloned().unwrap_or_default();
            let row = rows.into_iter().find(|row| row["name"] == "node2").ok_or_else(|| answer.text())?;
            Ok((row["role"].as_str().unwrap().to_owned(), row["stays_learner"] == true))
        })
    };
    (0..3).for_each(|i| assert_eq!(shown(&cluster, i), ("learner".into(), true)));

    // What it is outlives a restart of everybody, with the state from disk and from the log.
    cluster.kill9_all(&[0, 1, 2]);
    (0..3).for_each(|i| cluster.restart(i));
    cluster.leader();
    (0..3).for_each(|i| assert_eq!(shown(&cluster, i), ("learner".into(), true)));

    let changed = eventually("it is promoted", CHANGE_LIMIT, || {
        let answer = promote(&cluster, 2, "node2");
        match answer.status {
            200 => Ok(answer.json()["changed"].clone()),
            // Not heard of since the leader began.
            409 => Err(answer.text()),
            _ => panic!("{}", answer.text()),
        }
    });
    assert_eq!(changed, true);
    cluster.wait_formed();
    assert_eq!(shown(&cluster, 2), ("voter".into(), false));
    let again = promote(&cluster, 1, "node2");
    assert_eq!((again.status, &again.json()["changed"]), (200, &false.into()), "{}", again.text());
    let nobody = promote(&cluster, 1, "nobody");
    assert_eq!((nobody.status, nobody.code().as_str()), (404, "no_such_member"));
}

/// With a time set, the dead are removed as long as three voters stay; without, nobody is.
#[test]
fn the_dead_are_removed_after_their_time() {
    let env = vec![("VAULTDB_DEAD_MEMBER_TIMEOUT_MS", "3s".to_owned())];
    let mut cluster = Cluster::start_plan(&Plan { env, ..Plan::nodes(4) });
    let leader = cluster.leader();
    let [first, second, third] = [1, 2, 3].map(|i| (leader + i) % 4);
    for dead in [first, third] {
        cluster.kill9(dead);
        let staying: Vec<usize> = (0..4).filter(|i| *i != dead).collect();
        cluster.wait_members(&names(&staying), CHANGE_LIMIT);
        cluster.wipe(dead);
        if dead == first {
            // A new member has its time, however long the leader leads already.
            let join = cluster.join_flag(leader);
            cluster.start_node(first, Some(&join));
            cluster.wait_formed();
        }
    }
    cluster.kill9(second);
    let silent = |cluster: &Cluster| {
        let members = cluster.ask(leader, &Request::get("/v1/members")).json();
        let rows = members["members"].as_array().unwrap().clone();
        let row = rows.into_iter().find(|row| row["name"] == format!("node{second}").as_str());
        row.unwrap_or_else(|| panic!("it was removed: {members}"))["last_contact_ms"].as_u64().unwrap()
    };
    eventually("the second one is dead for twice its time", CHANGE_LIMIT, || match silent(&cluster) {
        6_000.. => Ok(()),
        ms => Err(format!("{ms} ms")),
    });
    cluster.must_put(leader, "k", "v");
}

/// A node with another cluster's data, in the place of a member, says so and ends; the cluster goes on.
#[test]
fn the_data_of_another_cluster_is_refused() {
    let mut a = Cluster::start(3);
    let mut b = Cluster::start_plan(&Plan { beside: true, ..Plan::nodes(3) });
    a.must_put(0, "whose", "a");
    b.kill9_all(&[0, 1, 2]);
    let join = a.join_flag(0);
    b.start_node(2, Some(&join));
    let Stopped { code, .. } = b.nodes[2].reap(END_LIMIT);
    let log = b.nodes[2].log_text();
    assert_eq!(code, Some(1), "{log}");
    let last = log.lines().last().unwrap_or_default();
    let a_id = a.status(0).cluster_id().unwrap();
    assert!(last.contains(&a_id) && last.contains("belongs to cluster"), "{last}");
    // With its own cluster around it is at home, whatever -join says.
    (0..3).for_each(|i| b.start_node(i, Some(&join)));
    b.wait_formed();
    a.wait_formed();
    assert_eq!(a.must_get(1, "whose").as_deref(), Some("a"));
}
