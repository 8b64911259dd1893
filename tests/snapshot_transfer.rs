//! A snapshot on its way: it shows how far it is, goes on where it stopped, and survives the death of its sender.

#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use support::snapshots::{check_filled, fill, leave_behind, metric, plan, transfer, try_metric};
use support::{eventually, Cluster, Plan};

const TRANSFER_LIMIT: Duration = Duration::from_secs(60);
/// Slow enough to interfere in the middle: some megabytes take a few seconds.
const SLOW: (&str, &str) = ("VAULTDB_SNAPSHOT_BYTES_PER_SECOND_MAX", "2MiB");
/// What may have been on its way, and is sent twice: the pieces in flight, in bytes.
const IN_FLIGHT_BYTES: u64 = 4 * 512 * 1024;
const RECEIVED: &str = "vaultdb_snapshot_received_bytes_total";

/// A follower that is brought back by a snapshot, of which a third has arrived. Answers who it is, and bytes done
/// and in total.
fn caught_in_the_middle(cluster: &mut Cluster) -> (usize, u64, u64) {
    fill(cluster);
    let victim = (cluster.leader() + 1) % 3;
    let last_log = cluster.status(victim).number("/raft/last_log");
    cluster.kill9(victim);
    leave_behind(cluster, last_log);
    cluster.restart(victim);
    let (done, total) =
        eventually("a third of the snapshot has arrived", TRANSFER_LIMIT, || {
            match transfer(cluster, victim, "receive") {
                Some((done, total)) if done * 3 > total => Ok((done, total)),
                other => Err(format!("{other:?}")),
            }
        });
    assert!(done < total && total > 2 * IN_FLIGHT_BYTES, "{done} of {total}");
    let (sent, of) = transfer(cluster, cluster.leader(), "send").expect("the sender shows it, too");
    assert!(sent > 0 && of == total, "{sent} of {of}, the receiver says of {total}");
    (victim, done, total)
}

fn wait_installed(cluster: &Cluster, node: usize) {
    eventually("the snapshot is installed", TRANSFER_LIMIT, || {
        match try_metric(cluster, node, "vaultdb_snapshot_installed_total")? {
            0 => Err(format!("{:?}", transfer(cluster, node, "receive"))),
            _ => Ok(()),
        }
    });
    cluster.wait_converged();
    check_filled(cluster, node);
    assert_eq!(transfer(cluster, node, "receive"), None);
}

#[test]
fn broken_connection_costs_what_was_in_flight() {
    let mut cluster = Cluster::start_plan(&Plan { links: true, ..plan(3, &[SLOW]) });
    let (victim, done, total) = caught_in_the_middle(&mut cluster);
    cluster.links.as_ref().unwrap().break_all();
    wait_installed(&cluster, victim);
    let received = metric(&cluster, victim, RECEIVED);
    println!("{received} bytes received of a snapshot of {total}, broken off at {done}");
    assert!(received >= total && received <= total + IN_FLIGHT_BYTES, "{received} of {total}");
    let sent = metric(&cluster, cluster.leader(), "vaultdb_snapshot_sent_bytes_total");
    assert!(sent <= total + IN_FLIGHT_BYTES, "{sent} of {total}");
}

#[test]
fn restarted_receiver_takes_the_rest() {
    let mut cluster = Cluster::start_plan(&plan(3, &[SLOW]));
    let (victim, done, total) = caught_in_the_middle(&mut cluster);
    cluster.kill9(victim);
    cluster.restart(victim);
    wait_installed(&cluster, victim);
    let received = metric(&cluster, victim, RECEIVED);
    println!("{received} bytes received by the second process, {done} of {total} before");
    assert!(received <= total - done + IN_FLIGHT_BYTES, "{received}, {done} of {total} were there");
}

/// The next leader's snapshot has other files under the same names.
#[test]
fn next_leader_sends_when_the_sender_dies() {
    let mut cluster = Cluster::start_plan(&plan(3, &[SLOW]));
    let (victim, done, total) = caught_in_the_middle(&mut cluster);
    let sender = cluster.leader();
    cluster.kill9(sender);
    let next = cluster.wait_for_leader_other_than(sender);
    println!("node{sender} died at {done} of {total}, node{next} leads");
    assert_ne!(next, victim, "it lacks what is committed");
    wait_installed(&cluster, victim);
    cluster.must_put(victim, "goes-on", "yes");
    cluster.restart(sender);
    cluster.wait_formed();
    cluster.wait_converged();
    assert_eq!(cluster.must_get(sender, "goes-on").as_deref(), Some("yes"));
}
