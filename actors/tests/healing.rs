//! What fails is rebuilt, callers always get a true answer, and what cannot be healed is given up.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::Duration;

use common::{forbearing, impatient, key, options, set, until, within, Bench, FakeNode, Port};
use tokio::time::timeout;
use vaultdb_actors::{component_names, CheckResult, EventKind, Fault, HealthOptions, MemberOrder, Options};
use vaultdb_kv::{AdminError, Consistency, Health, WriteError};

/// Whichever actor panics is rebuilt, and requests after it succeed.
#[actix::test]
async fn a_panicking_actor_is_rebuilt() {
    let bench = Bench::start(options()).await;
    let worker = &bench.worker;
    for name in
        [component_names::RAFT, component_names::DISPATCHER, component_names::STORE, component_names::HEALTH]
    {
        assert!(worker.inject(name, Fault::Panic).await);
        until("it was rebuilt", || async { bench.restarts(name).await == 1 }).await;
        worker.submit(set(name), within(5_000)).await.unwrap();
        let read = worker.read(key(name), Consistency::Linearizable.into(), within(5_000)).await.unwrap();
        assert_eq!(&read.found.unwrap().value[..], b"v");
        for what in [EventKind::FaultInjected, EventKind::Panicked, EventKind::Restarted] {
            assert!(bench.saw(name, what).await, "{name} {what:?}");
        }
        assert!(!bench.saw(name, EventKind::Hung).await, "{name} was alive until then");
    }
    until("the new monitor finds all well", || async {
        worker.status().await.health.state == Health::Healthy
    })
    .await;
}

/// An actor that hangs is replaced on a fresh thread, while status is answered all the time.
#[actix::test]
async fn a_hung_actor_is_replaced() {
    let bench = Bench::start(impatient()).await;
    let worker = &bench.worker;
    for name in [component_names::DISPATCHER, component_names::RAFT, component_names::HEALTH] {
        let before = bench.restarts(name).await;
        assert!(worker.inject(name, Fault::Hang(Duration::from_secs(3))).await);
        let status = timeout(Duration::from_millis(500), worker.status()).await.unwrap();
        assert!(status.cluster.is_some());
        until("it was replaced", || async { bench.restarts(name).await > before }).await;
        let events = worker.events(0).await;
        assert!(events.iter().any(|event| event.what == EventKind::Hung), "{name}");
        assert!(!events.iter().any(|event| event.what == EventKind::Panicked), "{name}");
        worker.submit(set(name), within(5_000)).await.unwrap();
    }
}

/// A component that is only slow is reported, and reported as well again.
#[actix::test]
async fn a_slow_actor_degrades_and_recovers() {
    let bench = Bench::start(forbearing()).await;
    let name = component_names::RAFT;
    assert!(bench.worker.inject(name, Fault::Hang(Duration::from_millis(300))).await);
    until("it is degraded", || async { bench.state(name).await.0 == Health::Degraded }).await;
    until("it is healthy", || async { bench.state(name).await.0 == Health::Healthy }).await;
    assert!(bench.saw(name, EventKind::Recovered).await);
    assert_eq!(bench.restarts(name).await, 0);
}

/// Nor does it stay degraded when the health monitor is rebuilt before it can say that it is well again.
#[actix::test]
async fn a_slow_actor_recovers_under_another_monitor() {
    let health = HealthOptions { probe_failed: Duration::from_secs(1), ..impatient().health };
    let bench = Bench::start(Options { health, ..options() }).await;
    let name = component_names::RAFT;
    assert!(bench.worker.inject(name, Fault::Hang(Duration::from_millis(500))).await);
    until("it is degraded", || async { bench.state(name).await.0 == Health::Degraded }).await;
    // Longer than the actor, which is well when the next monitor looks for the first time.
    assert!(bench.worker.inject(component_names::HEALTH, Fault::Hang(Duration::from_secs(3))).await);
    until("the monitor was replaced", || async { bench.restarts(component_names::HEALTH).await == 1 }).await;
    until("it is healthy", || async { bench.state(name).await.0 == Health::Healthy }).await;
}

/// Writes that wait when the dispatcher panics were certainly not applied; those handed over are
/// answered by consensus or unknown. Nobody waits for ever.
#[actix::test]
async fn writes_pending_in_a_panic_are_answered_truthfully() {
    let bench = Bench::start(options()).await;
    bench.fake.lead(None);
    let waiting = bench.worker.submit(set("a"), within(5_000));
    let strike = async {
        until("it waits", || async {
            bench.worker.status().await.replication.unwrap_or_default().pending == 1
        })
        .await;
        assert!(bench.worker.inject(component_names::DISPATCHER, Fault::Panic).await);
    };
    let (waiting, ()) = futures::join!(waiting, strike);
    assert_eq!(waiting, Err(WriteError::Unavailable));

    bench.fake.lead(Some(0));
    bench.fake.close_gate();
    let before = bench.restarts(component_names::DISPATCHER).await;
    let sent = bench.worker.submit(set("b"), within(5_000));
    let strike = async {
        until("it was sent", || async { bench.fake.sent() == 1 }).await;
        assert!(bench.worker.inject(component_names::DISPATCHER, Fault::Panic).await);
        until("it was rebuilt", || async { bench.restarts(component_names::DISPATCHER).await > before })
            .await;
        bench.fake.gate.add_permits(10);
    };
    let (sent, ()) = futures::join!(sent, strike);
    assert_eq!(sent.unwrap().applied.revision, 1, "the batch on its way went on");
    assert_eq!(bench.fake.commands_sent(), 1);
}

/// A hang that is healed answers as truthfully as a panic: what was handed over is done or unknown, what waited in the
/// mailbox is done, unknown, or certainly in no log.
#[actix::test]
async fn writes_pending_in_a_healed_hang_are_answered_truthfully() {
    let bench = Bench::start(impatient()).await;
    let name = component_names::DISPATCHER;
    bench.fake.close_gate();
    let before = bench.restarts(name).await;
    let sent = bench.worker.submit(set("a"), within(8_000));
    let strike = async {
        until("it was sent", || async { bench.fake.sent() == 1 }).await;
        assert!(bench.worker.inject(name, Fault::Hang(Duration::from_millis(600))).await);
        let waiting = bench.worker.submit(set("b"), within(8_000));
        let heal = async {
            until("it was replaced", || async { bench.restarts(name).await > before }).await;
            bench.fake.gate.add_permits(10);
        };
        futures::join!(waiting, heal).0
    };
    let (sent, waiting) = futures::join!(sent, strike);
    assert!(matches!(sent, Ok(_) | Err(WriteError::Unknown { .. })), "{sent:?}");
    match waiting {
        Ok(_) => assert_eq!(bench.fake.commands_sent(), 2),
        Err(WriteError::Unknown { .. }) => {}
        Err(refused) => assert_eq!(bench.fake.commands_sent(), 1, "{refused:?}"),
    }
}

/// A write that was handed over when its thread hangs ends by its deadline as unknown, and one that
/// was not as certainly not applied, although the actor never says a word.
#[actix::test]
async fn writes_in_a_hung_dispatcher_end_by_their_deadline() {
    // Never replaced here: only the deadline can end the wait.
    let bench = Bench::start(forbearing()).await;
    bench.fake.close_gate();
    let sent = bench.worker.submit(set("a"), within(300));
    let hang = async {
        until("it was sent", || async { bench.fake.sent() == 1 }).await;
        let hang = Fault::Hang(Duration::from_secs(2));
        assert!(bench.worker.inject(component_names::DISPATCHER, hang).await);
        bench.worker.submit(set("b"), within(100)).await
    };
    let (sent, waiting) = futures::join!(sent, hang);
    assert!(matches!(sent, Err(WriteError::Unknown { .. })), "{sent:?}");
    assert_eq!(waiting, Err(WriteError::Overloaded));
    bench.fake.gate.add_permits(10);
    until("it works again", || async { bench.worker.submit(set("c"), within(500)).await.is_ok() }).await;
    assert_eq!(bench.fake.commands_sent(), 2, "the write that was given up was never sent");
}

/// Three restarts in a window are tried; the next failure gives the node up, and says why.
#[actix::test]
async fn an_exhausted_budget_escalates() {
    let bench = Bench::start(options()).await;
    let name = component_names::RAFT;
    for round in 1..=3 {
        assert!(bench.worker.inject(name, Fault::Panic).await);
        until("it was rebuilt", || async { bench.restarts(name).await == round }).await;
    }
    assert!(timeout(Duration::from_millis(20), bench.system.escalated()).await.is_err());
    assert!(bench.worker.inject(name, Fault::Panic).await);
    let reason = timeout(Duration::from_secs(5), bench.system.escalated()).await.unwrap();
    assert!(reason.contains("raft") && reason.contains("3 restarts"), "{reason}");
    assert!(bench.saw(name, EventKind::Escalated).await);
}

/// A leader that gives up hands over first; whoever does not lead, or finds nobody to take over, ends all the same.
#[actix::test]
async fn leadership_moves_away_before_the_node_is_given_up() {
    let name = component_names::RAFT;
    for (leads, takes_over, told) in [
        (true, true, Some("node1 leads now")),
        (true, false, Some("nobody took leadership over within 50 ms")),
        (false, true, None),
    ] {
        let bench = Bench::start(Options { restarts_max: 0, ..options() }).await;
        bench.fake.takes_over.store(takes_over, Ordering::SeqCst);
        if !leads {
            bench.fake.lead(Some(1));
        }
        assert!(bench.worker.inject(name, Fault::Panic).await);
        let reason = timeout(Duration::from_secs(5), bench.system.escalated()).await.unwrap();
        assert!(reason.contains("raft panicked"), "{reason}");
        assert_eq!(bench.fake.handovers.load(Ordering::SeqCst), usize::from(leads));
        let events = bench.worker.events(0).await;
        let place = |what| events.iter().position(|event| event.what == what);
        let aside = place(EventKind::SteppedAside);
        assert_eq!(aside.is_some(), told.is_some());
        if let (Some(aside), Some(told)) = (aside, told) {
            assert!(events[aside].detail.contains(told), "{}", events[aside].detail);
            assert!(place(EventKind::Panicked) < Some(aside) && Some(aside) < place(EventKind::Escalated));
        }
    }
}

/// There is one consensus in a process, whatever is rebuilt: a second one is not taken, and a rebuilt actor finds
/// the first.
#[actix::test]
async fn there_is_never_a_second_consensus() {
    let bench = Bench::start(options()).await;
    let second = FakeNode::leading();
    bench.system.attach_node(Arc::new(Port(second.clone())));
    for name in [component_names::RAFT, component_names::DISPATCHER] {
        assert!(bench.worker.inject(name, Fault::Panic).await);
        until("it was rebuilt", || async { bench.restarts(name).await == 1 }).await;
        bench.worker.submit(set(name), within(5_000)).await.unwrap();
    }
    assert_eq!((bench.fake.commands_sent(), second.commands_sent()), (2, 0));
}

/// Threads that blocked actors leave behind are counted; one too many gives the node up.
#[actix::test]
async fn abandoned_threads_are_bounded() {
    let bench = Bench::start(Options { abandoned_arbiters_max: 1, ..impatient() }).await;
    for _ in 0..2 {
        let before = bench.restarts(component_names::RAFT).await;
        assert!(bench.worker.inject(component_names::RAFT, Fault::Hang(Duration::from_secs(3))).await);
        let replaced =
            until("it was replaced", || async { bench.restarts(component_names::RAFT).await > before });
        let escalated = bench.system.escalated();
        futures::pin_mut!(replaced, escalated);
        if let futures::future::Either::Right((reason, _)) =
            futures::future::select(replaced, escalated).await
        {
            assert!(reason.contains("left behind"), "{reason}");
            return;
        }
    }
    panic!("the second thread was left behind without a word");
}

/// A thread that was left behind, woke up and ended is none that is blocked: however many there were, the node goes on.
#[actix::test]
async fn threads_that_woke_up_are_not_counted() {
    const HANGS: u64 = 4;
    let options = Options { abandoned_arbiters_max: 1, restarts_max: HANGS as usize, ..impatient() };
    let bench = Bench::start(options).await;
    let name = component_names::RAFT;
    for round in 1..=HANGS {
        bench.worker.submit(set("k"), within(5_000)).await.unwrap();
        let thread = bench.fake.proposed_on();
        assert!(bench.worker.inject(name, Fault::Hang(Duration::from_millis(400))).await);
        let replaced = async {
            until("it was replaced", || async { bench.restarts(name).await == round }).await;
            until("the hang is over", || async { !thread.alive() }).await;
        };
        let escalated = bench.system.escalated();
        futures::pin_mut!(replaced, escalated);
        if let futures::future::Either::Right((reason, _)) =
            futures::future::select(replaced, escalated).await
        {
            panic!("given up after {round} hangs: {reason}");
        }
    }
}

/// A supervisor that panics or hangs, a store that fails and consensus that stops cannot be healed here.
#[actix::test]
async fn what_cannot_be_rebuilt_escalates() {
    let bench = Bench::start(options()).await;
    bench.fake.fail("the log is poisoned");
    let reason = timeout(Duration::from_secs(5), bench.system.escalated()).await.unwrap();
    assert!(reason.contains("the log is poisoned"), "{reason}");

    let bench = Bench::start(options()).await;
    bench.fake.store_fails.store(true, Ordering::SeqCst);
    let reason = timeout(Duration::from_secs(5), bench.system.escalated()).await.unwrap();
    assert!(reason.contains("bad block"), "{reason}");

    for fault in [Fault::Panic, Fault::Hang(Duration::from_secs(3))] {
        let bench = Bench::start(impatient()).await;
        assert!(bench.worker.inject(component_names::SUPERVISOR, fault).await);
        let reason = timeout(Duration::from_secs(5), bench.system.escalated()).await.unwrap();
        assert!(reason.contains("supervisor"), "{reason}");
        assert!(!bench.worker.events(0).await.is_empty(), "events are readable without it");
    }
}

/// Without fault injection nobody can strike an actor.
#[actix::test]
async fn faults_need_leave() {
    let bench = Bench::start(Options { fault_injection: false, ..options() }).await;
    assert!(!bench.worker.inject(component_names::RAFT, Fault::Panic).await);
    assert!(!bench.worker.restart("nobody").await);
    assert!(bench.worker.restart(component_names::RAFT).await);
    until("it was restarted", || async { bench.restarts(component_names::RAFT).await == 1 }).await;
}

/// Trouble of the cluster degrades the node and is named; it is not healed by restarts.
#[actix::test]
async fn trouble_of_the_cluster_is_named() {
    let bench = Bench::start(options()).await;
    let name = component_names::CLUSTER;
    bench.fake.peer_unreachable.store(true, Ordering::SeqCst);
    bench.fake.lead(None);
    until("both are named", || async {
        let (state, reason) = bench.state(name).await;
        state == Health::Degraded && reason.contains("no leader") && reason.contains("node1")
    })
    .await;
    bench.fake.peer_unreachable.store(false, Ordering::SeqCst);
    bench.fake.lead(Some(0));
    until("it is over", || async { bench.state(name).await.0 == Health::Healthy }).await;
    assert!(bench.saw(name, EventKind::Recovered).await);
}

/// Reads: from memory, from the disk, and linearizable; each ends by its deadline.
#[actix::test]
async fn reads() {
    let bench = Bench::start(options()).await;
    let worker = &bench.worker;
    worker.submit(set("k"), within(5_000)).await.unwrap();
    for needs_disk in [false, true] {
        bench.fake.needs_disk.store(needs_disk, Ordering::SeqCst);
        for consistency in [Consistency::Stale, Consistency::Linearizable] {
            let read = worker.read(key("k"), consistency.into(), within(5_000)).await.unwrap();
            assert_eq!((read.found.unwrap().revision, read.revision), (1, 1));
            assert_eq!(worker.read(key("x"), consistency.into(), within(5_000)).await.unwrap().found, None);
        }
    }
    bench.fake.barrier_hangs.store(true, Ordering::SeqCst);
    assert!(worker.read(key("k"), Consistency::Linearizable.into(), within(30)).await.is_err());
    assert!(worker.read(key("k"), Consistency::Stale.into(), within(5_000)).await.is_ok());
}

/// Each check of readiness and liveness fails for its own reason and names it.
#[actix::test]
async fn checks() {
    let bench = Bench::start(options()).await;
    let failed = |checks: Vec<CheckResult>| -> Vec<&str> {
        checks.into_iter().filter(|check| !check.ok).map(|check| check.name).collect()
    };
    let none: [&str; 0] = [];
    assert_eq!(failed(bench.worker.readiness(within(5_000)).await), none);
    bench.fake.barrier_hangs.store(true, Ordering::SeqCst);
    assert_eq!(failed(bench.worker.readiness(within(100)).await), ["linearizable_read"]);
    // Without a quorum the process is alive, and that is told at once.
    let alive = timeout(Duration::from_secs(10), bench.worker.liveness(within(60_000))).await;
    assert_eq!(failed(alive.expect("it asks no quorum")), none);
    bench.fake.barrier_hangs.store(false, Ordering::SeqCst);
    bench.fake.store_fails.store(true, Ordering::SeqCst);
    assert_eq!(failed(bench.worker.liveness(within(5_000)).await), ["store"]);
    assert!(failed(bench.worker.readiness(within(5_000)).await).contains(&"store"));
}

/// Administrative requests reach consensus and end by their deadline.
#[actix::test]
async fn administration() {
    let bench = Bench::start(options()).await;
    let to = Some("node1".to_owned());
    assert_eq!(bench.worker.transfer_leader(to, within(5_000)).await, Ok("node1".into()));
    let stuck = bench.worker.transfer_leader(None, within(30)).await;
    assert!(matches!(stuck, Err(AdminError::Unknown { .. })), "{stuck:?}");
    let order = MemberOrder::Remove { name: "node1".into() };
    let removed = bench.worker.change_member(order, within(5_000)).await.unwrap();
    assert_eq!((removed.name.as_str(), removed.id, removed.changed), ("node1", 7, true));
}

/// A web worker that ends takes its store actor along, and nothing is rebuilt for it.
#[actix::test]
async fn a_store_actor_ends_with_its_worker() {
    let bench = Bench::start(options()).await;
    let arbiter = actix::Arbiter::new();
    let handles = bench.system.handles();
    // What a worker holds never leaves its thread.
    arbiter.spawn_fn(move || {
        actix_rt::spawn(async move {
            let worker = handles.worker();
            worker.read(key("k"), Consistency::Stale.into(), within(5_000)).await.unwrap();
            actix::Arbiter::current().stop();
        });
    });
    until("it is let go", || async { bench.saw(component_names::STORE, EventKind::Stopped).await }).await;
    assert_eq!(bench.restarts(component_names::STORE).await, 0);
    assert_eq!(bench.worker.status().await.health.state, Health::Healthy);
}
