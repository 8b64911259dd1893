//! A listing is as fresh as was asked for, shows one state on all its pages, and never waits on the arbiter.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use common::{key, options, set, within, Bench};
use vaultdb_actors::{component_names, Fault, Listing, ScanFrom};
use vaultdb_kv::{Consistency, Freshness, Key, ListQuery, Page, PageRequest, ReadError};

const FRESH: Freshness =
    Freshness { consistency: Consistency::Linearizable, max_staleness: None, min_revision: None };

fn two_after(after: Option<Key>) -> PageRequest {
    let query = ListQuery { keys_only: true, ..ListQuery::default() };
    PageRequest { query, after, items_max: 2, bytes_max: 1 << 20, encode: |item, out| out.extend(item.key) }
}

async fn scan(bench: &Bench, from: ScanFrom, after: Option<Key>) -> Result<(Listing, Page), ReadError> {
    bench.worker.scan(from, two_after(after), within(2_000)).await
}

/// Later pages are of the state of the first, whatever was written between, also after the actor was rebuilt.
#[actix::test]
async fn pages_are_of_one_state() {
    let bench = Bench::start(options()).await;
    for name in ["a", "c", "e"] {
        bench.worker.submit(set(name), within(5_000)).await.unwrap();
    }
    let (listing, first) = scan(&bench, ScanFrom::Now(FRESH), None).await.unwrap();
    assert_eq!((&first.body[..], first.next.clone()), (&b"ac"[..], Some(key("c"))));
    assert_eq!((listing.revision(), listing.consistency()), (3, Consistency::Linearizable));
    bench.worker.submit(set("d"), within(5_000)).await.unwrap();
    assert!(bench.worker.inject(component_names::STORE, Fault::Panic).await);
    let id = bench.worker.listings().keep(listing, Instant::now());
    let listing = bench.worker.listings().resume(id, Instant::now()).unwrap();
    let (_, second) = scan(&bench, ScanFrom::Listing(listing), first.next).await.unwrap();
    assert_eq!((&second.body[..], second.next), (&b"e"[..], None));
    let (_, anew) = scan(&bench, ScanFrom::Now(FRESH), Some(key("c"))).await.unwrap();
    assert_eq!(&anew.body[..], b"de");
}

/// A linearizable listing waits for its barrier; a stale one and later pages do not. A store that fails says
/// so.
#[actix::test]
async fn listings_are_as_fresh_as_asked() {
    let bench = Bench::start(options()).await;
    bench.worker.submit(set("a"), within(5_000)).await.unwrap();
    let (listing, _) = scan(&bench, ScanFrom::Now(FRESH), None).await.unwrap();
    bench.fake.barrier_hangs.store(true, Ordering::SeqCst);
    let soon = Instant::now() + Duration::from_millis(50);
    let waited = bench.worker.scan(ScanFrom::Now(FRESH), two_after(None), soon).await;
    assert_eq!(waited.map(|_| ()), Err(ReadError::NoLeader));
    scan(&bench, ScanFrom::Listing(listing), None).await.unwrap();
    let stale = ScanFrom::Now(Consistency::Stale.into());
    let (listing, _) = scan(&bench, stale.clone(), None).await.unwrap();
    assert_eq!(listing.consistency(), Consistency::Stale);
    bench.fake.store_fails.store(true, Ordering::SeqCst);
    assert!(matches!(scan(&bench, stale, None).await, Err(ReadError::Store { .. })));
}

/// When the node stops, no view of its store is left.
#[actix::test]
async fn listings_end_with_the_node() {
    let bench = Bench::start(options()).await;
    let (listing, _) = scan(&bench, ScanFrom::Now(FRESH), None).await.unwrap();
    let id = bench.worker.listings().keep(listing, Instant::now());
    bench.system.shutdown().await;
    assert!(bench.worker.listings().resume(id, Instant::now()).is_none());
}
