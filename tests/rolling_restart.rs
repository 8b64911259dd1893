//! A restart of one node after the other, as an upgrade does it, is invisible to clients that follow the
//! contract: each node stops cleanly in time, returns by itself under its id, and nothing acknowledged
//! is lost.

#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use support::dice::seed;
use support::{Cluster, Contention, ContentionPlan, Load, LoadPlan, Outcome};

/// What the contract grants a node to stop.
const STOP_MAX: Duration = Duration::from_secs(10);
const LOAD_LIMIT: Duration = Duration::from_secs(20);
/// Writes that may end as unknown for each node restarted: those in flight on its connections or at it
/// as leader when it stops. The load has eight writers, so more would mean that draining does not work.
const UNKNOWN_MAX: usize = 5 * 8;

#[test]
fn rolling_restart_loses_nothing() {
    let mut cluster = Cluster::start(5);
    let ids: Vec<_> = (0..5).map(|i| cluster.status(i).id().unwrap()).collect();
    let cluster_id = cluster.status(0).cluster_id().unwrap();
    let load = Load::start(&cluster.ports(), &LoadPlan::new("roll", 8));
    let contention = Contention::start(&cluster.ports(), &ContentionPlan::new("linearizable", seed()));
    load.wait_acked(200, LOAD_LIMIT);

    for (i, id) in ids.into_iter().enumerate() {
        let was_leader = cluster.leader() == i;
        let stopped = cluster.terminate(i);
        println!("node{i} (leader: {was_leader}) stopped with {:?} in {:?}", stopped.code, stopped.took);
        assert_eq!(stopped.code, Some(0), "exit code of node{i}");
        assert!(stopped.took < STOP_MAX, "node{i} took {:?} to stop", stopped.took);
        // The four that remain go on.
        load.wait_acked(100, LOAD_LIMIT);
        cluster.restart(i);
        cluster.wait_formed();
        let status = cluster.status(i);
        assert_eq!(status.id(), Some(id), "node{i} keeps its id");
        assert_eq!(status.cluster_id().as_ref(), Some(&cluster_id));
        load.wait_acked(100, LOAD_LIMIT);
    }

    let history = load.stop();
    println!("{}", contention.stop());
    println!("rolling restart: {}", history.summary());
    let unknown = history.count(|outcome| matches!(outcome, Outcome::Unknown { .. }));
    let definite = history.count(|outcome| matches!(outcome, Outcome::Definite { .. }));
    println!("rolling restart: {unknown} unknown, {definite} definite failures");
    assert!(unknown <= UNKNOWN_MAX, "{unknown} writes ended as unknown");
    cluster.wait_converged();
    history.verify(&cluster.ports());
    history.verify_same(&cluster.ports());
}
