//! Equal nodes that are started together form one cluster and never two, in whatever order they start, late,
//! killed half-way or wiped; a wiped one comes back into the cluster that there is.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use support::{eventually, Cluster, Dice, Plan};

const NODES: usize = 5;
const ROUNDS: usize = 50;
/// Longest pause between the starts of two nodes, in milliseconds.
const DELAY_MS_MAX: u64 = 150;
const FORM_LIMIT: Duration = Duration::from_secs(20);

/// Starts nothing; each node knows the addresses of all, in an order of its own.
fn prepare(dice: &mut Dice) -> Cluster {
    let mut cluster = Cluster::prepare(&Plan::nodes(NODES));
    let mut peers: Vec<String> = (0..NODES).map(|i| cluster.join_flag(i)).collect();
    for i in 0..NODES {
        dice.shuffle(&mut peers);
        let flags = ["--bootstrap-expect", &NODES.to_string(), "--peers", &peers.join(",")];
        cluster.nodes[i].flags = flags.map(str::to_owned).to_vec();
    }
    cluster
}

/// One cluster id on all nodes, ids 1 to 5 in the order of the names, and a write through each node.
fn check(cluster: &mut Cluster) -> String {
    cluster.wait_formed();
    let statuses: Vec<_> = (0..NODES).map(|i| cluster.status(i)).collect();
    let clusters: BTreeSet<String> = statuses.iter().map(|s| s.cluster_id().expect("a cluster")).collect();
    assert_eq!(clusters.len(), 1, "{clusters:?}");
    for (i, status) in statuses.iter().enumerate() {
        assert_eq!(status.member(&format!("node{i}")).expect("a member").id, i as u64 + 1);
    }
    for i in 0..NODES {
        cluster.must_put(i, &format!("k{i}"), "v");
    }
    clusters.into_iter().next().expect("one")
}

#[test]
fn fifty_times_in_any_order_one_cluster() {
    let mut dice = Dice::new(20_240_607);
    let mut times = Vec::new();
    for round in 0..ROUNDS {
        let mut cluster = prepare(&mut dice);
        let mut order: Vec<usize> = (0..NODES).collect();
        dice.shuffle(&mut order);
        // Every fifth time one of the first is killed soon after, and perhaps wiped, before all are there.
        let (victim, wiped) = (order[0], dice.below(2) == 0);
        let killed = round % 5 == 0;
        for (started, i) in order.into_iter().enumerate() {
            cluster.start_node(i, None);
            // The order and the pauses are what is tried here, not a wait for anything.
            dice.wait(0..DELAY_MS_MAX);
            if killed && started == NODES - 2 {
                cluster.kill9(victim);
                if wiped && cluster.nodes[victim].data.exists() {
                    cluster.wipe(victim);
                }
                cluster.start_node(victim, None);
            }
        }
        let began = Instant::now();
        check(&mut cluster);
        times.push(began.elapsed());
    }
    times.sort();
    println!("formed after the last start: median {:?}, longest {:?}", times[ROUNDS / 2], times[ROUNDS - 1]);
}

/// The proposer dies at the moment of forming, with its disk or without; whoever is left never makes a second.
#[test]
fn killed_while_forming() {
    let mut dice = Dice::new(7);
    for round in 0..10_u64 {
        let mut cluster = prepare(&mut dice);
        (0..NODES).for_each(|i| cluster.start_node(i, None));
        // From before the nodes know each other until after the cluster is begun.
        thread::sleep(Duration::from_millis(20 * round));
        let victims = if round % 2 == 0 { vec![0] } else { vec![0, 1] };
        cluster.kill9_all(&victims);
        for victim in &victims {
            cluster.start_node(*victim, None);
        }
        check(&mut cluster);
    }
}

/// A node that lost its disk joins the cluster that lives, though it is told to form one; without a member
/// that it can reach it forms none.
#[test]
fn a_wiped_node_founds_no_second_cluster() {
    let mut dice = Dice::new(11);
    let mut cluster = prepare(&mut dice);
    (0..NODES).for_each(|i| cluster.start_node(i, None));
    let id = check(&mut cluster);
    cluster.kill9_all(&[0, 1, 2, 3, 4]);
    cluster.wipe(0);
    cluster.start_node(0, None);
    eventually("the wiped node waits for the others", FORM_LIMIT, || {
        match cluster.nodes[0].log_text().contains("no cluster yet: 1 of 5 nodes") {
            true => Ok(()),
            false => Err("it does not say so".into()),
        }
    });
    assert_eq!(cluster.status(0).cluster_id(), None, "it made a cluster of its own");
    (1..NODES).for_each(|i| cluster.start_node(i, None));
    cluster.wait_formed();
    let status = cluster.status(0);
    assert_eq!(status.cluster_id(), Some(id));
    assert!(status.id() > Some(NODES as u64), "a wiped node never votes under its old id: {:?}", status.id());
    assert_eq!(cluster.must_get(0, "k3").as_deref(), Some("v"));
}
