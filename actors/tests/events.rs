//! The time line tells who leads and which peers come and go, each once, and is there while the supervisor hangs.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use common::{options, set, until, within, Bench, Fate};
use tokio::time::timeout;
use vaultdb_actors::{component_names, EventKind, Fault, ProposeError};

/// How long the supervisor hangs; less than what makes the node give up.
const HANG: Duration = Duration::from_secs(1);

fn details(bench: &Bench, what: EventKind) -> Vec<String> {
    let events = bench.worker.event_ring().page(0, usize::MAX).events;
    let told = events.into_iter().filter(|event| event.what == what);
    told.inspect(|event| assert_eq!(event.component, component_names::CLUSTER)).map(|e| e.detail).collect()
}

/// Each change of the leader is told with both names and the term; an election between them is none.
#[actix::test]
async fn leader_changes_are_told() {
    let bench = Bench::start(options()).await;
    let told = |count| details(&bench, EventKind::LeaderChanged).len() >= count;
    until("the first leader", || async { told(1) }).await;
    bench.fake.lead(None);
    bench.fake.lead(Some(1));
    until("another leader", || async { told(2) }).await;
    bench.fake.lead(Some(1));
    until("the same leader again", || async { told(3) }).await;
    assert!(bench.worker.restart(component_names::HEALTH).await);
    until("a new monitor", || async { bench.restarts(component_names::HEALTH).await == 1 }).await;
    bench.fake.lead(Some(0));
    until("told by the new monitor", || async { told(4) }).await;
    assert_eq!(
        details(&bench, EventKind::LeaderChanged),
        [
            "node0 leads in term 1",
            "leadership went from node0 to node1 in term 3",
            "node1 leads again, now in term 4",
            "leadership went from node1 to node0 in term 5",
        ]
    );
    bench.system.shutdown().await;
}

/// A peer that falls silent is told once, and once when it is back.
#[actix::test]
async fn peers_that_go_and_come_are_told() {
    let bench = Bench::start(options()).await;
    let count = |what| details(&bench, what).len();
    bench.fake.peer_unreachable.store(true, Ordering::SeqCst);
    until("the loss is told", || async { count(EventKind::PeerUnreachable) == 1 }).await;
    assert_eq!(count(EventKind::PeerBack), 0);
    bench.fake.peer_unreachable.store(false, Ordering::SeqCst);
    until("the return is told", || async { count(EventKind::PeerBack) == 1 }).await;
    let back = &details(&bench, EventKind::PeerBack)[0];
    assert!(back.starts_with("node1 is heard of again after "), "{back}");
    assert_eq!(details(&bench, EventKind::PeerUnreachable), ["node1 is not heard of any more"]);
    bench.system.shutdown().await;
}

/// What wakes readers is not the supervisor.
#[actix::test]
async fn readers_are_woken_while_the_supervisor_hangs() {
    let bench = Bench::start(options()).await;
    assert!(bench.worker.inject(component_names::SUPERVISOR, Fault::Hang(HANG)).await);
    let mut news = bench.worker.event_ring().subscribe();
    let begun = Instant::now();
    bench.fake.lead(Some(1));
    let told =
        |_: &u64| details(&bench, EventKind::LeaderChanged).iter().any(|detail| detail.contains("to node1"));
    let woken = timeout(HANG / 2, news.wait_for(told)).await;
    assert!(woken.is_ok(), "not within {:?}", begun.elapsed());
    bench.system.shutdown().await;
}

/// Counters never fall, though the dispatcher is rebuilt, and are there while it hangs, when what waits is unknown.
#[actix::test]
async fn counters_outlive_the_dispatcher() {
    let bench = Bench::start(options()).await;
    let totals = || async { bench.worker.status().await.replication_totals };
    bench.fake.answer(None, Fate::Refuse(ProposeError::Overloaded));
    assert!(bench.worker.submit(set("a"), within(5_000)).await.is_err());
    bench.fake.answer(None, Fate::Commit);
    bench.worker.submit(set("a"), within(5_000)).await.unwrap();
    bench.fake.lead(None);
    until("the change is counted", || async { totals().await.leader_changes == 1 }).await;
    bench.fake.lead(Some(0));
    until("that, too", || async { totals().await.leader_changes == 2 }).await;
    let before = totals().await;
    assert_eq!((before.committed, before.failed, before.batches), (1, 1, 2));

    let name = component_names::DISPATCHER;
    assert!(bench.worker.inject(name, Fault::Panic).await);
    until("it was rebuilt", || async { bench.restarts(name).await == 1 }).await;
    assert_eq!(totals().await, before);
    bench.worker.submit(set("a"), within(5_000)).await.unwrap();
    assert_eq!(totals().await.committed, 2);

    assert!(bench.worker.inject(name, Fault::Hang(HANG)).await);
    until("it hangs", || async {
        let status = bench.worker.status().await;
        assert_eq!(status.replication_totals.committed, 2);
        status.replication.is_none()
    })
    .await;
    until("it answers again", || async { bench.worker.status().await.replication.is_some() }).await;
    bench.system.shutdown().await;
}
