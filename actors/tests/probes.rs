//! What each probe of the health monitor sees, how it is told, and that it ends.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{forbearing, key, options, set, until, within, Bench, FakeFigures};
use vaultdb_actors::port::Standstill;
use vaultdb_actors::{component_names, Divergence, EventKind, Fault, HealthOptions, Options};
use vaultdb_kv::{Consistency, Health};

const HOUR: Duration = Duration::from_secs(3_600);

/// A bench whose process and time are what the test says.
async fn figured(health: HealthOptions) -> (Bench, Arc<FakeFigures>) {
    let figures = Arc::new(FakeFigures::default());
    let bench = Bench::start(Options { figures: figures.clone(), health, ..options() }).await;
    (bench, figures)
}

/// Waits until the component is so and gives that reason.
async fn shows(bench: &Bench, name: &str, state: Health, reason: &str) {
    until(&format!("{name} is {state:?}: {reason}"), || async {
        let seen = bench.state(name).await;
        seen.0 == state && seen.1.contains(reason)
    })
    .await;
}

/// Waits until it is well again, and that was told.
async fn recovers(bench: &Bench, name: &str) {
    shows(bench, name, Health::Healthy, "").await;
    assert!(bench.saw(name, EventKind::Recovered).await, "{name}");
}

/// With the limits of a real node a hung actor is detected within a second, and what replaces it answers within
/// 100 ms of that.
#[actix::test]
async fn a_hang_is_detected_and_healed_in_time() {
    let bench = Bench::start(Options { health: HealthOptions::default(), ..options() }).await;
    let name = component_names::DISPATCHER;
    let struck = Instant::now();
    assert!(bench.worker.inject(name, Fault::Hang(Duration::from_secs(5))).await);
    // Which of the two on that thread blocks it cannot be told from outside: either may be named.
    let hung = || async {
        let events = bench.worker.events(0).await;
        events.into_iter().find(|event| event.what == EventKind::Hung)
    };
    until("it is detected", || async { hung().await.is_some() }).await;
    let detected = Instant::now();
    bench.worker.submit(set("k"), within(5_000)).await.unwrap();
    let healed = detected.elapsed();
    // What the machine is late with is not the monitor's: the bounds are those of the limits, and some for the test.
    let limits = HealthOptions::default();
    let bound = limits.probe_failed + 3 * limits.probe_interval;
    assert!(bound <= Duration::from_secs(1));
    let hung = hung().await.unwrap();
    let silent_ms: u128 = hung.detail.split(' ').find_map(|word| word.parse().ok()).unwrap();
    assert!(silent_ms <= bound.as_millis(), "{}", hung.detail);
    assert!(detected - struck < Duration::from_secs(5) && healed < Duration::from_secs(3), "{healed:?}");
}

/// A mailbox that is slow to answer shows how long it takes, also while it does not answer at all.
#[actix::test]
async fn the_delay_of_a_mailbox_is_measured() {
    let bench = Bench::start(forbearing()).await;
    let delay = || async {
        let health = bench.worker.status().await.health;
        let raft = health.components.into_iter().find(|component| component.name == component_names::RAFT);
        raft.unwrap().mailbox_delay
    };
    until("it was probed", || async { delay().await.is_some() }).await;
    let hang = Duration::from_millis(300);
    assert!(bench.worker.inject(component_names::RAFT, Fault::Hang(hang)).await);
    until("it shows", || async { delay().await >= Some(Duration::from_millis(80)) }).await;
    shows(&bench, component_names::RAFT, Health::Degraded, "slow: no answer within 80 ms").await;
    recovers(&bench, component_names::RAFT).await;
    until("it answers fast again", || async { delay().await < Some(Duration::from_millis(80)) }).await;
    assert!(!bench.saw(component_names::RAFT, EventKind::Hung).await, "a slow decline is no hang");
}

/// A read of the store that hangs is told while it does, other requests go on, and it is over when it ends.
#[actix::test]
async fn a_store_read_that_hangs_is_seen() {
    let ms = Duration::from_millis;
    let health = HealthOptions { store_read_degraded: ms(40), store_failed: ms(120), ..options().health };
    let bench = Bench::start(Options { health, ..options() }).await;
    bench.fake.store_hangs.store(true, Ordering::SeqCst);
    // The status needs no read of the store.
    shows(&bench, component_names::STORE, Health::Degraded, "a read of the store hangs").await;
    shows(&bench, component_names::STORE, Health::Failed, "a read of the store hangs").await;
    bench.fake.store_hangs.store(false, Ordering::SeqCst);
    recovers(&bench, component_names::STORE).await;
    bench.worker.read(key("k"), Consistency::Stale.into(), within(5_000)).await.unwrap();
}

/// Applied writes that the engine does not get are told.
#[actix::test]
async fn store_writes_that_wait_are_seen() {
    let bench = Bench::start(options()).await;
    let limits = options().health;
    let name = component_names::STORE;
    for (store, state) in
        [(limits.store_write_degraded, Health::Degraded), (limits.store_failed, Health::Failed)]
    {
        *bench.fake.standstill.lock() = Standstill { store, ..Standstill::default() };
        shows(&bench, name, state, "waiting to be written out").await;
    }
    *bench.fake.standstill.lock() = Standstill::default();
    recovers(&bench, name).await;
}

/// An fsync that does not end is told while it does not.
#[actix::test]
async fn a_log_that_stands_still_is_seen() {
    let bench = Bench::start(options()).await;
    let limits = options().health;
    let name = component_names::WAL;
    for (log, state) in [(limits.fsync_degraded, Health::Degraded), (limits.fsync_failed, Health::Failed)] {
        *bench.fake.standstill.lock() = Standstill { log, ..Standstill::default() };
        shows(&bench, name, state, "the log has written nothing").await;
    }
    *bench.fake.standstill.lock() = Standstill::default();
    recovers(&bench, name).await;
}

/// Slow fsyncs that do end are a slow decline.
#[actix::test]
async fn slow_fsyncs_are_seen() {
    let bench = Bench::start(options()).await;
    let name = component_names::WAL;
    let record = |count, duration| (0..count).for_each(|_| bench.fake.fsyncs.record(duration));
    let slow = options().health.fsync_degraded + Duration::from_millis(1);
    until("it is degraded", || async {
        record(10, slow);
        bench.state(name).await.0 == Health::Degraded
    })
    .await;
    shows(&bench, name, Health::Degraded, "of the recent fsyncs").await;
    recovers(&bench, name).await;
}

/// The leader names a peer that lacks many entries, and one that has not answered for long although its connection
/// stands.
#[actix::test]
async fn lagging_and_silent_peers_are_named() {
    let bench = Bench::start(options()).await;
    let name = component_names::CLUSTER;
    let lag = options().health.peer_lag_entries_degraded + 1;
    bench.fake.lag_entries.store(lag, Ordering::SeqCst);
    shows(&bench, name, Health::Degraded, "more than 10000 log entries behind: node1").await;
    bench.fake.lag_entries.store(0, Ordering::SeqCst);
    recovers(&bench, name).await;
    bench.fake.silent_ms.store(1_000, Ordering::SeqCst);
    shows(&bench, name, Health::Degraded, "unreachable: node1").await;
    // Only a leader hears of everybody all the time.
    bench.fake.lead(Some(1));
    recovers(&bench, name).await;
}

/// A leader that no quorum follows says so, whatever openraft makes of it.
#[actix::test]
async fn a_leader_without_a_quorum_is_seen() {
    let bench = Bench::start(options()).await;
    bench.fake.leads_alone.store(true, Ordering::SeqCst);
    shows(&bench, component_names::CLUSTER, Health::Degraded, "it leads without a quorum").await;
    bench.fake.leads_alone.store(false, Ordering::SeqCst);
    recovers(&bench, component_names::CLUSTER).await;
}

/// Applying that stands still is told, and applying that goes on and stays far behind as well.
#[actix::test]
async fn applying_behind_committed_is_seen() {
    let bench = Bench::start(options()).await;
    let name = component_names::CLUSTER;
    bench.fake.unapplied.store(1, Ordering::SeqCst);
    shows(&bench, name, Health::Degraded, "committed entries are not being applied").await;
    bench.fake.applies.store(true, Ordering::SeqCst);
    recovers(&bench, name).await;
    bench.fake.unapplied.store(10_001, Ordering::SeqCst);
    shows(&bench, name, Health::Degraded, "applying is more than 10000 entries behind").await;
    bench.fake.unapplied.store(0, Ordering::SeqCst);
    recovers(&bench, name).await;
}

/// Open files against their limit.
#[actix::test]
async fn open_files_are_watched() {
    let (bench, figures) = figured(options().health).await;
    let name = component_names::PROCESS;
    figures.process.lock().open_files = 800;
    shows(&bench, name, Health::Degraded, "over 80 % of the 1000 files allowed are open").await;
    figures.process.lock().open_files = 980;
    shows(&bench, name, Health::Failed, "over 98 % of the 1000 files").await;
    figures.process.lock().open_files_max = None;
    recovers(&bench, name).await;
}

/// Memory against what the process may use: what the kernel says, or what the configuration does.
#[actix::test]
async fn memory_is_watched() {
    let (bench, figures) = figured(options().health).await;
    let name = component_names::PROCESS;
    figures.process.lock().resident_bytes = 90 << 20;
    shows(&bench, name, Health::Degraded, "over 90 % of its 100 MiB").await;
    figures.process.lock().resident_bytes = 10 << 20;
    recovers(&bench, name).await;

    let health = HealthOptions { memory_bytes_max: 20 << 20, ..options().health };
    let (bench, figures) = figured(health).await;
    figures.process.lock().resident_bytes = 18 << 20;
    shows(&bench, name, Health::Degraded, "over 90 % of its 20 MiB").await;
    figures.process.lock().resident_bytes = 1 << 20;
    recovers(&bench, name).await;
}

/// A kernel that does not tell is told of.
#[actix::test]
async fn figures_that_cannot_be_had_are_told() {
    let (bench, figures) = figured(options().health).await;
    figures.tells.store(false, Ordering::SeqCst);
    shows(&bench, component_names::PROCESS, Health::Degraded, "no such file").await;
    figures.tells.store(true, Ordering::SeqCst);
    recovers(&bench, component_names::PROCESS).await;
}

/// A clock that somebody sets is told, in both directions, and shown for a while.
#[actix::test]
async fn jumps_of_the_clock_are_seen() {
    let (bench, figures) = figured(options().health).await;
    let name = component_names::CLOCK;
    *figures.wall_ahead.lock() = HOUR;
    shows(&bench, name, Health::Degraded, "the clock was set forward by 3600000 ms").await;
    recovers(&bench, name).await;
    *figures.wall_ahead.lock() = Duration::ZERO;
    shows(&bench, name, Health::Degraded, "the clock was set back by 3600000 ms").await;
    recovers(&bench, name).await;
    assert_eq!(bench.state(component_names::PROCESS).await.0, Health::Healthy);
}

/// A process that was not run is told of, and the clock is not blamed for it.
#[actix::test]
async fn a_pause_of_the_process_is_seen() {
    let (bench, figures) = figured(options().health).await;
    let name = component_names::PROCESS;
    *figures.both_ahead.lock() = HOUR;
    shows(&bench, name, Health::Degraded, "the process was not run for 3599990 ms").await;
    recovers(&bench, name).await;
    assert_eq!(bench.state(component_names::CLOCK).await.0, Health::Healthy);
}

/// Data that were set aside, and a replica that differs, are told until they are made good; each ends in its own way.
#[actix::test]
async fn integrity() {
    let bench = Bench::start(options()).await;
    let name = component_names::INTEGRITY;
    shows(&bench, name, Health::Healthy, "").await;
    bench.fake.integrity.lock().rebuilding = Some("a table is corrupt".into());
    shows(&bench, name, Health::Degraded, "a table is corrupt: the data are set aside").await;
    assert!(bench.saw(name, EventKind::Quarantined).await);
    bench.fake.integrity.lock().rebuilding = None;
    shows(&bench, name, Health::Healthy, "").await;
    assert!(bench.saw(name, EventKind::Rebuilt).await);

    let differs = Divergence { peer: "node1".into(), index: 7, is_minority: true };
    bench.fake.diverged.lock().push(differs);
    shows(&bench, name, Health::Degraded, "the state of node1 differs from the majority's at log index 7")
        .await;
    assert!(bench.saw(name, EventKind::Degraded).await);
    bench.fake.diverged.lock().clear();
    recovers(&bench, name).await;
    let rebuilt = bench.worker.events(0).await.into_iter().filter(|event| event.what == EventKind::Rebuilt);
    assert_eq!(rebuilt.count(), 1, "a replica that agrees again was not rebuilt");

    bench.fake.integrity.lock().corruption = Some("a segment is corrupt".into());
    shows(&bench, name, Health::Failed, "a segment is corrupt").await;
}
