//! The way of writes: batching, waiting for a leader, and what a caller is told when it goes wrong.

#![allow(clippy::unwrap_used)]

mod common;

use std::time::{Duration, Instant};

use common::{options, set, until, within, Batch, Bench, Fate};
use futures::future::join_all;
use vaultdb_actors::{Options, ProposeError};
use vaultdb_kv::{ApplyResult, Command, WriteError};

fn unknown() -> Fate {
    Fate::Refuse(ProposeError::Unknown { reason: "lost".into() })
}

fn is_unknown<T>(outcome: &Result<T, WriteError>) -> bool {
    matches!(outcome, Err(WriteError::Unknown { .. }))
}

/// A write is answered with its revision; a delete tells whether the key was there.
#[actix::test]
async fn a_write_is_committed_once() {
    let bench = Bench::start(options()).await;
    let first = bench.worker.submit(set("k"), within(5_000)).await.unwrap();
    let gone = bench.worker.submit(Command::Delete { key: common::key("k") }, within(5_000)).await.unwrap();
    assert_eq!((first.applied.revision, gone.applied.revision), (1, 2));
    assert_eq!(gone.applied.result, ApplyResult::Deleted { existed: true });
    assert_eq!(bench.fake.commands_sent(), 2);
    let status = bench.worker.status().await;
    assert_eq!(status.replication_totals.committed, 2);
    let status = status.replication.unwrap_or_default();
    assert_eq!((status.pending, status.pending_bytes), (0, 0));
}

/// What arrives while a batch is on its way goes together, in batches of the largest size.
#[actix::test]
async fn concurrent_writes_share_batches() {
    const WRITES: usize = 1_200;
    let bench = Bench::start(options()).await;
    bench.fake.close_gate();
    let writes = join_all((0..WRITES).map(|i| {
        let worker = bench.worker.clone();
        async move { worker.submit(set(&format!("k{i}")), within(5_000)).await }
    }));
    let open = async {
        until("all are queued", || async {
            bench.worker.status().await.replication.unwrap_or_default().pending == WRITES as u64
        })
        .await;
        bench.fake.gate.add_permits(100);
    };
    let (outcomes, ()) = futures::join!(writes, open);
    assert!(outcomes.iter().all(Result::is_ok));
    assert_eq!(bench.fake.commands_sent(), WRITES);
    let sizes: Vec<usize> = bench.fake.batches.lock().iter().map(|batch| batch.commands).collect();
    assert!(sizes.iter().all(|size| *size <= 512), "{sizes:?}");
    // The first may have left with whatever had arrived by then.
    assert!(sizes.len() <= 4, "{sizes:?}");
}

/// On a follower the batch goes to the leader, one hop, and nothing is proposed here.
#[actix::test]
async fn a_follower_forwards() {
    let bench = Bench::start(options()).await;
    bench.fake.lead(Some(7));
    bench.worker.submit(set("k"), within(5_000)).await.unwrap();
    assert_eq!(*bench.fake.batches.lock(), [Batch { to: Some(7), commands: 1 }]);
}

/// A definite refusal is tried again, here or at the next leader, until it succeeds.
#[actix::test]
async fn refused_writes_are_tried_again() {
    let bench = Bench::start(options()).await;
    let unreachable = ProposeError::Unreachable { reason: "connection refused".into() };
    bench.fake.lead(Some(1));
    bench.fake.answer(Some(1), Fate::Refuse(unreachable));
    bench.fake.answer(Some(2), Fate::Refuse(ProposeError::NotLeader));
    let write = bench.worker.submit(set("k"), within(5_000));
    let elections = async {
        until("the first leader was asked", || async { bench.fake.sent() > 1 }).await;
        until("the peer is reported", || async {
            let peers = bench.worker.status().await.replication.unwrap_or_default().unreachable_peers;
            peers.iter().any(|peer| peer.name == "node1" && peer.failures > 0)
        })
        .await;
        bench.fake.lead(None);
        bench.fake.lead(Some(2));
        until("the second was asked", || async {
            bench.fake.batches.lock().iter().any(|batch| batch.to == Some(2))
        })
        .await;
        bench.fake.lead(Some(0));
    };
    let (outcome, ()) = futures::join!(write, elections);
    assert_eq!(outcome.unwrap().applied.revision, 1);
}

/// A write waits out an election, and goes on as soon as it ends.
#[actix::test]
async fn a_write_waits_for_a_leader() {
    let bench = Bench::start(options()).await;
    bench.fake.lead(None);
    let write = bench.worker.submit(set("k"), within(5_000));
    let election = async {
        until("the write waits", || async {
            bench.worker.status().await.replication.unwrap_or_default().pending == 1
        })
        .await;
        assert_eq!(bench.fake.sent(), 0);
        bench.fake.lead(Some(0));
    };
    let (outcome, ()) = futures::join!(write, election);
    outcome.unwrap();
}

/// An unknown outcome is told at once and the write is never sent again.
#[actix::test]
async fn an_unknown_write_is_never_repeated() {
    let bench = Bench::start(options()).await;
    bench.fake.answer(None, unknown());
    let asked = Instant::now();
    assert!(is_unknown(&bench.worker.submit(set("k"), within(5_000)).await));
    assert!(asked.elapsed() < Duration::from_secs(1));
    bench.fake.answer(None, Fate::Commit);
    bench.fake.lead(Some(0));
    bench.worker.submit(set("other"), within(5_000)).await.unwrap();
    assert_eq!(bench.fake.commands_sent(), 2);
}

/// A deadline without a leader, or with one that only refuses, ends as certainly not applied.
#[actix::test]
async fn a_deadline_before_anything_was_taken_is_definite() {
    let bench = Bench::start(options()).await;
    bench.fake.lead(None);
    assert_eq!(bench.worker.submit(set("a"), within(50)).await, Err(WriteError::NoLeader));
    bench.fake.answer(None, Fate::Refuse(ProposeError::NotLeader));
    bench.fake.lead(Some(0));
    assert_eq!(bench.worker.submit(set("b"), within(50)).await, Err(WriteError::NoLeader));
    bench.fake.answer(None, Fate::Commit);
    bench.worker.submit(set("c"), within(5_000)).await.unwrap();
    assert_eq!(bench.worker.revision(), 1, "neither of the first two appeared later");
    until("nothing is counted as waiting", || async {
        bench.worker.status().await.replication.unwrap_or_default().pending_bytes == 0
    })
    .await;
}

/// A deadline after the batch was handed over ends as unknown, on time, and fails nobody else in it.
#[actix::test]
async fn a_deadline_fails_one_write_and_not_its_batch() {
    let bench = Bench::start(options()).await;
    bench.fake.close_gate();
    let hasty = bench.worker.submit(set("a"), within(60));
    let patient = bench.worker.submit(set("b"), within(5_000));
    let open = async {
        tokio::time::sleep(Duration::from_millis(120)).await;
        bench.fake.gate.add_permits(10);
    };
    let asked = Instant::now();
    let hasty = async {
        let outcome = hasty.await;
        (outcome, asked.elapsed())
    };
    let ((hasty, took), patient, ()) = futures::join!(hasty, patient, open);
    assert!(is_unknown(&hasty), "{hasty:?}");
    assert!(took < Duration::from_millis(115), "{took:?}");
    patient.unwrap();
}

/// A batch whose quorum is gone does not keep later writes from the leader's log.
#[actix::test]
async fn a_stalled_batch_lets_the_next_one_pass() {
    let bench = Bench::start(options()).await;
    bench.fake.answer(None, Fate::Hang);
    let stalled = bench.worker.submit(set("a"), within(2_000));
    let next = async {
        until("the first is on its way", || async { bench.fake.sent() == 1 }).await;
        bench.fake.answer(None, Fate::Commit);
        let asked = Instant::now();
        bench.worker.submit(set("b"), within(2_000)).await.unwrap();
        asked.elapsed()
    };
    let (stalled, waited) = futures::join!(stalled, next);
    assert!(is_unknown(&stalled));
    assert!(waited < Duration::from_millis(1_000), "{waited:?}");
}

/// One write too many, in count or in bytes, is refused at once and certainly not applied.
#[actix::test]
async fn admission_is_bounded() {
    for limited in
        [Options { pending_commands_max: 2, ..options() }, Options { pending_bytes_max: 300, ..options() }]
    {
        let bench = Bench::start(limited).await;
        bench.fake.close_gate();
        let taken = join_all((0..2).map(|_| bench.worker.submit(set("k"), within(5_000))));
        let refused = async {
            until("two wait", || async {
                bench.worker.status().await.replication.unwrap_or_default().pending == 2
            })
            .await;
            let refused = bench.worker.submit(set("k"), within(5_000)).await;
            bench.fake.gate.add_permits(10);
            refused
        };
        let (taken, refused) = futures::join!(taken, refused);
        assert!(taken.iter().all(Result::is_ok));
        assert_eq!(refused, Err(WriteError::Overloaded));
        assert_eq!(bench.worker.revision(), 2);
    }
}

/// A client that goes away takes its waiting write along.
#[actix::test]
async fn an_abandoned_write_is_not_sent() {
    let bench = Bench::start(options()).await;
    bench.fake.lead(None);
    let write = bench.worker.submit(set("k"), within(5_000));
    assert!(tokio::time::timeout(Duration::from_millis(20), write).await.is_err());
    bench.fake.lead(Some(0));
    bench.worker.submit(set("other"), within(5_000)).await.unwrap();
    assert_eq!(bench.fake.commands_sent(), 1);
}

/// Before consensus is up, and after shutdown began, a write is refused as certainly not applied.
#[actix::test]
async fn writes_outside_of_service_are_refused() {
    let info = vaultdb_actors::NodeInfo {
        name: "n".into(),
        haddr: "h:1".into(),
        raddr: "r:1".into(),
        version: "test",
    };
    let system = vaultdb_actors::System::start(info, options());
    let worker = system.handles().worker();
    assert_eq!(worker.submit(set("k"), within(5_000)).await, Err(WriteError::Unavailable));
    assert_eq!(worker.leadership().leader, None);

    let bench = Bench::start(options()).await;
    bench.fake.close_gate();
    let write = bench.worker.submit(set("k"), within(5_000));
    let stop = async {
        until("the write is on its way", || async { bench.fake.sent() == 1 }).await;
        let release = async {
            tokio::time::sleep(Duration::from_millis(30)).await;
            bench.fake.gate.add_permits(1);
        };
        futures::join!(bench.system.shutdown(), release);
        bench.worker.submit(set("late"), within(5_000)).await
    };
    let (drained, late) = futures::join!(write, stop);
    drained.unwrap();
    assert_eq!(late, Err(WriteError::Unavailable));
}

/// A write that asks for less is answered with its place in the leader's log, is not counted as committed,
/// never shares a batch with one that asks for more, and ends as definitely or as openly as any other.
#[actix::test]
async fn writes_that_are_answered_early_go_apart() {
    let bench = Bench::start(options()).await;
    let id = bench.worker.accept(set("a"), within(5_000)).await.unwrap();
    assert_eq!(id.index, 1);
    bench.fake.close_gate();
    let all = join_all((0..8).map(|i| {
        let worker = bench.worker.clone();
        async move {
            match i % 2 {
                0 => worker.accept(set("early"), within(5_000)).await.map(drop),
                _ => worker.submit(set("full"), within(5_000)).await.map(drop),
            }
        }
    }));
    let open = async {
        until("all are queued", || async {
            bench.worker.status().await.replication.unwrap_or_default().pending == 8
        })
        .await;
        bench.fake.gate.add_permits(100);
    };
    let (outcomes, ()) = futures::join!(all, open);
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    let status = bench.worker.status().await;
    assert_eq!(status.replication_totals.committed, 4);
    let status = status.replication.unwrap_or_default();
    assert_eq!((status.pending, status.pending_bytes), (0, 0));

    bench.fake.answer(None, Fate::Refuse(ProposeError::Overloaded));
    assert_eq!(bench.worker.accept(set("a"), within(5_000)).await, Err(WriteError::Overloaded));
    bench.fake.answer(None, unknown());
    assert!(is_unknown(&bench.worker.accept(set("a"), within(5_000)).await));
    bench.fake.lead(None);
    assert_eq!(bench.worker.accept(set("a"), within(50)).await, Err(WriteError::NoLeader));
}
