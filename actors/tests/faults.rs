//! Faults by order: refused with the reason where they make no sense, told of where they show.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use common::{options, until, Bench};
use vaultdb_actors::{DataFile, EventKind, FaultOrder, FaultRefusal, Options};
use vaultdb_kv::FaultKind;

fn timed(kind: FaultKind) -> FaultOrder {
    FaultOrder::Timed { kind, duration: Duration::from_secs(600) }
}

/// With fault injection off nothing can be ordered, and nothing is told.
#[actix::test]
async fn nothing_goes_wrong_while_it_is_off() {
    let bench = Bench::start(Options { fault_injection: false, ..options() }).await;
    for order in [timed(FaultKind::DiskFull), FaultOrder::FlipState, FaultOrder::FlipBits(DataFile::Wal)] {
        assert_eq!(bench.worker.inject_fault(order).await, Err(FaultRefusal::Off));
    }
    assert!(bench.worker.active_faults().is_empty());
    assert!(bench.worker.events(0).await.iter().all(|event| event.what != EventKind::FaultInjected));
}

/// What this node does not have cannot go wrong on it.
#[actix::test]
async fn orders_without_an_object_are_refused() {
    let bench = Bench::start(options()).await;
    let peer = FaultKind::PeerDrop { peer: Some("nobody".into()) };
    let refused = bench.worker.inject_fault(timed(peer)).await;
    assert_eq!(refused, Err(FaultRefusal::NoSuchPeer { name: "nobody".into() }));
    for order in [
        timed(FaultKind::FsyncFail),
        timed(FaultKind::FsyncDelay { delay: Duration::from_secs(1) }),
        FaultOrder::FlipBits(DataFile::RocksDb),
    ] {
        let refused = bench.worker.inject_fault(order.clone()).await;
        assert!(matches!(refused, Err(FaultRefusal::Impossible { .. })), "{order:?}: {refused:?}");
    }
    assert!(bench.worker.active_faults().is_empty());
}

/// A fault that ends by itself is told as over without anybody asking.
#[actix::test]
async fn the_end_of_a_fault_is_told() {
    let bench = Bench::start(options()).await;
    let order = FaultOrder::Timed { kind: FaultKind::DiskFull, duration: Duration::from_millis(20) };
    // A slow machine may see it end before it is looked at.
    bench.worker.inject_fault(order).await.unwrap();
    until("its end is told", || async {
        let events = bench.worker.events(0).await;
        events.iter().any(|event| event.what == EventKind::FaultCleared && event.component == "disk")
    })
    .await;
    assert!(bench.worker.active_faults().is_empty());
}
