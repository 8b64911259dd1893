//! A node whose disk is nearly full: growth is refused before it reaches consensus, the rest goes on, and it ends by
//! itself.

#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use common::{key, options, set, until, within, Bench, Fate};
use tempfile::TempDir;
use vaultdb_actors::{ComponentHealth, EventKind, JoinRequest, Options, ProposeError, SpaceOptions};
use vaultdb_kv::{Command, FaultKind, Faults, Freshness, Health, MemberAddr, Room, Shortage, WriteError};

const BALLAST_BYTES: u64 = 64 * 1024;
const LONG: Duration = Duration::from_secs(60);

/// A node on a disk that has room: the line is so low that only the fault crosses it.
async fn start(dir: &Path) -> (Bench, Arc<Faults>) {
    let faults = Arc::new(Faults::default());
    let space = SpaceOptions::new(dir.to_owned(), 2 * BALLAST_BYTES, BALLAST_BYTES);
    let space = SpaceOptions { interval: Duration::from_millis(5), ..space };
    let room = Arc::new(Room::new("node0", faults.clone()));
    (Bench::start(Options { space: Some(space), room, ..options() }).await, faults)
}

fn ballast(dir: &TempDir) -> Option<u64> {
    std::fs::metadata(dir.path().join("ballast")).ok().map(|file| file.len())
}

async fn disk(bench: &Bench) -> ComponentHealth {
    let components = bench.worker.status().await.health.components;
    components.into_iter().find(|component| component.name == "disk").unwrap()
}

fn delete() -> Command {
    Command::Delete { key: key("k") }
}

#[actix::test]
async fn growth_is_refused_while_the_disk_is_full() {
    let dir = tempfile::tempdir().unwrap();
    let (bench, faults) = start(dir.path()).await;
    assert_eq!(ballast(&dir), Some(BALLAST_BYTES));
    bench.worker.submit(set("k"), within(5_000)).await.unwrap();
    let sent = bench.fake.sent();

    let fault = faults.inject(FaultKind::DiskFull, LONG);
    let needed_bytes = 2 * BALLAST_BYTES / 4 * 5;
    let refusal = WriteError::OutOfSpace(Shortage { node: "node0".into(), free_bytes: 0, needed_bytes });
    assert_eq!(bench.worker.submit(set("k"), within(5_000)).await, Err(refusal.clone()));
    assert_eq!(bench.worker.accept(set("k"), within(5_000)).await, Err(refusal));
    assert_eq!(bench.fake.sent(), sent, "nothing of it reached consensus");
    bench.worker.submit(delete(), within(5_000)).await.unwrap();
    bench.worker.accept(delete(), within(5_000)).await.unwrap();
    let read = bench.worker.read(key("k"), Freshness::default(), within(5_000)).await.unwrap();
    assert_eq!(read.found, None);
    let newcomer =
        JoinRequest { name: "n".into(), addr: MemberAddr::default(), instance: None, stays_learner: false };
    bench.worker.join(newcomer, within(5_000)).await.unwrap();

    until("the node says so and lets its ballast go", || async {
        disk(&bench).await.state == Health::Failed && ballast(&dir).is_none()
    })
    .await;
    let reason = disk(&bench).await.reason.unwrap();
    assert!(reason.contains("writes that set a value are refused until 160.0 KiB are free"), "{reason}");
    assert!(bench.worker.status().await.disk.unwrap().read_only);

    faults.clear(fault);
    until("growth is taken again, by itself", || async {
        bench.worker.submit(set("k"), within(5_000)).await.is_ok()
    })
    .await;
    until("all is as before", || async {
        disk(&bench).await.state == Health::Healthy && ballast(&dir) == Some(BALLAST_BYTES)
    })
    .await;
    let told: Vec<EventKind> =
        bench.worker.events(0).await.iter().filter(|e| e.component == "disk").map(|e| e.what).collect();
    assert_eq!(told, [EventKind::ReadOnly, EventKind::Failed, EventKind::Recovered]);
}

/// What a leader elsewhere refuses for want of room reaches the caller as that, and at once.
#[actix::test]
async fn the_refusal_of_a_leader_elsewhere_is_told() {
    let bench = Bench::start(options()).await;
    bench.fake.lead(Some(7));
    let why = Shortage { node: "node7".into(), free_bytes: 1, needed_bytes: 2 };
    bench.fake.answer(Some(7), Fate::Refuse(ProposeError::OutOfSpace(why.clone())));
    let refusal = WriteError::OutOfSpace(why);
    assert_eq!(bench.worker.submit(set("k"), within(5_000)).await, Err(refusal.clone()));
    assert_eq!(bench.worker.accept(set("k"), within(5_000)).await, Err(refusal));
    assert_eq!(bench.fake.sent(), 2, "asked once each");
}

/// A node without a disk watches none: it has no such component, and the fault means nothing to it.
#[actix::test]
async fn a_node_in_memory_is_never_full() {
    let faults = Arc::new(Faults::default());
    let room = Arc::new(Room::new("node0", faults.clone()));
    let bench = Bench::start(Options { room, ..options() }).await;
    faults.inject(FaultKind::DiskFull, LONG);
    bench.worker.submit(set("k"), within(5_000)).await.unwrap();
    let status = bench.worker.status().await;
    assert_eq!(status.disk, None);
    assert!(status.health.components.iter().all(|component| component.name != "disk"));
}
