//! Property: reads that wait for the leader at the same time share questions to it, and no read is served by
//! a question that was put before it arrived.
#![allow(clippy::unwrap_used)]

mod common;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::atomic::Ordering;

use common::{key, options, set, until, within, Bench};
use tokio::sync::Semaphore;
use vaultdb_kv::Consistency;

/// Starts so many reads; the cell counts those that are answered.
fn read(bench: &Bench, count: usize, level: Consistency) -> Rc<Cell<usize>> {
    let answered = Rc::new(Cell::new(0));
    for _ in 0..count {
        let (worker, answered) = (bench.worker.clone(), answered.clone());
        actix_rt::spawn(async move {
            let read = worker.read(key("k"), level.into(), within(20_000)).await.unwrap();
            assert_eq!(read.found.unwrap().revision, 1);
            answered.set(answered.get() + 1);
        });
    }
    answered
}

#[actix::test]
async fn reads_share_questions() {
    let bench = Bench::start(options()).await;
    bench.worker.submit(set("k"), within(5_000)).await.unwrap();
    for level in [Consistency::Linearizable, Consistency::Lease] {
        bench.fake.questions.store(0, Ordering::SeqCst);
        bench.fake.question_gate.forget_permits(Semaphore::MAX_PERMITS);
        let asked = || bench.fake.questions.load(Ordering::SeqCst);

        let first = read(&bench, 100, level);
        until("one question for the first", || async { asked() == 1 }).await;
        let second = read(&bench, 50, level);
        until("another for those that came later", || async { asked() == 2 }).await;
        let third = read(&bench, 50, level);
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert_eq!(asked(), 2, "no third question while two are under way");

        bench.fake.question_gate.add_permits(1);
        until("the first are answered", || async { first.get() == 100 }).await;
        until("a question for the third", || async { asked() == 3 }).await;
        assert_eq!((second.get(), third.get()), (0, 0), "served by a question from before they arrived");
        bench.fake.question_gate.add_permits(Semaphore::MAX_PERMITS / 2);
        until("all are answered", || async { second.get() + third.get() == 100 }).await;
        assert_eq!(asked(), 3);
        bench.fake.question_gate.add_permits(Semaphore::MAX_PERMITS / 4);
    }
}

/// Switched off, each read puts its own.
#[actix::test]
async fn unshared_reads_ask_for_themselves() {
    let bench = Bench::start(vaultdb_actors::Options { share_reads: false, ..options() }).await;
    bench.worker.submit(set("k"), within(5_000)).await.unwrap();
    bench.fake.questions.store(0, Ordering::SeqCst);
    let answered = read(&bench, 20, Consistency::Linearizable);
    until("all are answered", || async { answered.get() == 20 }).await;
    assert_eq!(bench.fake.questions.load(Ordering::SeqCst), 20);
}
