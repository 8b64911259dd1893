//! What a read may ask for besides linearizability is kept or refused, never ignored: a least revision on
//! every node, a bound on staleness whatever is cut off or stopped.

#![allow(clippy::unwrap_used)]

mod support;

use std::time::{Duration, Instant};

use support::{eventually, Cluster, Plan, Response};

const BOUND: Duration = Duration::from_millis(500);
const LIMIT: Duration = Duration::from_secs(20);

/// With the revision of its own write a client reads it on every node, at every level, at once.
#[test]
fn least_revision_reads_own_writes_everywhere() {
    let cluster = Cluster::start(3);
    let mut last = 0;
    for round in 0..60 {
        let value = format!("v{round}");
        last = cluster.must_put(round % 3, "own", &value);
        for reader in 0..3 {
            for level in ["stale", "lease", "linearizable"] {
                let read = cluster.get(reader, "own", &format!("consistency={level}&min_revision={last}"));
                assert_eq!((read.status, read.text()), (200, value.clone()), "{level} on node{reader}");
                assert_eq!(read.header("vault-consistency"), Some(level));
                let revision: u64 = read.header("vault-revision").unwrap().parse().unwrap();
                assert!(revision >= last, "{revision} < {last}");
            }
        }
    }
    for reader in 0..3 {
        for level in ["stale", "lease", "linearizable"] {
            let query = format!("consistency={level}&min_revision={}&timeout=200ms", last + 1_000);
            let read = cluster.get(reader, "own", &query);
            assert_eq!((read.status, read.code().as_str()), (503, "behind"), "{}", read.text());
            assert_eq!(read.json()["revision"], last, "{}", read.text());
        }
    }
}

/// Reads `key` with the bound again and again until `done`. A value other than `new`, which was acknowledged
/// at `acked`, may come only from a read that began within the bound.
fn watch(cluster: &Cluster, node: usize, new: &str, acked: Instant, done: impl Fn(&Response) -> bool) {
    eventually(&format!("node{node} and {new}"), LIMIT, || {
        let began = Instant::now();
        let read = cluster.get(node, "k", "consistency=stale&max_staleness=500ms&timeout=2s");
        match read.status {
            200 if read.text() == new => {}
            200 => {
                let late = began.saturating_duration_since(acked);
                assert!(late <= BOUND, "{:?} was read {late:?} after {new:?} was acknowledged", read.text());
            }
            503 => assert_eq!(read.code(), "too_stale", "{}", read.text()),
            other => panic!("{other}: {}", read.text()),
        }
        if done(&read) {
            return Ok(());
        }
        Err(format!("{} {}", read.status, read.text()))
    });
}

/// Whoever is cut off answers within the bound, then refuses; after healing it answers with the new value.
/// That holds for a follower and for a leader that does not know yet that it is none.
#[test]
fn bounded_staleness_is_kept_or_refused() {
    let cluster = Cluster::start_plan(&Plan { links: true, ..Plan::nodes(3) });
    let links = cluster.links.clone().unwrap();
    cluster.must_put(0, "k", "old");
    for node in 0..3 {
        watch(&cluster, node, "old", Instant::now(), |read| read.status == 200);
    }
    for (round, is_leader) in [false, true, false, true].into_iter().enumerate() {
        let leader = cluster.leader();
        let alone = if is_leader { leader } else { (leader + 1) % 3 };
        let rest: Vec<usize> = (0..3).filter(|i| *i != alone).collect();
        links.cut(&[alone], &rest);
        let new = format!("new{round}");
        let writer = cluster.wait_for_leader(&rest);
        cluster.must_put(writer, "k", &new);
        let acked = Instant::now();
        watch(&cluster, alone, &new, acked, |read| read.status == 503);
        let stale = cluster.get(alone, "k", "consistency=stale");
        assert_eq!(stale.status, 200, "without a bound: {}", stale.text());
        assert_ne!(stale.text(), new);
        links.heal();
        watch(&cluster, alone, &new, acked, |read| read.status == 200);
    }
}

/// A follower that was stopped does not take its old news for new ones when it goes on.
#[test]
fn a_stopped_follower_knows_that_it_was() {
    let mut cluster = Cluster::start(3);
    for round in 0..3 {
        let asleep = (cluster.leader() + 1) % 3;
        let old = format!("old{round}");
        cluster.must_put(asleep, "k", &old);
        watch(&cluster, asleep, &old, Instant::now(), |read| read.status == 200);
        cluster.pause(asleep);
        let new = format!("new{round}");
        cluster.must_put((asleep + 1) % 3, "k", &new);
        let acked = Instant::now();
        // The time that passes is what this is about.
        std::thread::sleep(BOUND + Duration::from_millis(100));
        cluster.resume(asleep);
        watch(&cluster, asleep, &new, acked, |read| read.status == 200);
    }
}
