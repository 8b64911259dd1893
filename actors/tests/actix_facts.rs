//! What actix does that surprises. The design rests on each of these; one that fails here after an
//! upgrade means that a part of it must be thought over.

#![allow(clippy::unwrap_used)]

use std::cell::Cell;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use actix::prelude::*;
use actix_rt::time::{sleep, timeout};
use futures::FutureExt;

#[derive(Default, Clone)]
struct Seen {
    handled: Arc<AtomicUsize>,
    restarted: Arc<AtomicUsize>,
    stopped_in_panic: Arc<AtomicBool>,
    dropped_in_panic: Arc<AtomicBool>,
}

struct Subject(Seen);

impl Actor for Subject {
    type Context = Context<Self>;

    fn stopped(&mut self, _: &mut Self::Context) {
        self.0.stopped_in_panic.store(std::thread::panicking(), Ordering::SeqCst);
    }
}

impl Supervised for Subject {
    fn restarting(&mut self, _: &mut Self::Context) {
        self.0.restarted.fetch_add(1, Ordering::SeqCst);
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        self.0.dropped_in_panic.store(std::thread::panicking(), Ordering::SeqCst);
    }
}

#[derive(Message)]
#[rtype(result = "()")]
enum Do {
    Count,
    Panic,
    Stop,
    Block(Duration),
    Wait(Duration),
}

impl Handler<Do> for Subject {
    type Result = ();

    fn handle(&mut self, msg: Do, ctx: &mut Context<Self>) {
        self.0.handled.fetch_add(1, Ordering::SeqCst);
        match msg {
            Do::Count => {}
            Do::Panic => panic!("on purpose"),
            Do::Stop => ctx.stop(),
            Do::Block(time) => std::thread::sleep(time),
            Do::Wait(time) => ctx.wait(actix::fut::wrap_future(sleep(time))),
        }
    }
}

/// Begins to work and never answers.
#[derive(Message)]
#[rtype(result = "()")]
struct NeverAnswer;

impl Handler<NeverAnswer> for Subject {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: NeverAnswer, _: &mut Context<Self>) -> Self::Result {
        self.0.handled.fetch_add(1, Ordering::SeqCst);
        Box::pin(futures::future::pending())
    }
}

fn is_closed<M>(answer: &Result<M, MailboxError>) -> bool {
    matches!(answer, Err(MailboxError::Closed))
}

async fn until(condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(Duration::from_secs(5), waiting).await.expect("the condition holds in the end");
}

/// `Addr::send` ignores the mailbox capacity: admission must bound the queue.
#[actix::test]
async fn send_ignores_the_capacity() {
    let seen = Seen::default();
    let addr = Subject::create(|ctx| {
        ctx.set_mailbox_capacity(1);
        Subject(seen.clone())
    });
    addr.send(Do::Wait(Duration::from_millis(50))).await.unwrap();
    let mut requests: Vec<_> = (0..100).map(|_| Box::pin(addr.send(Do::Count))).collect();
    for request in &mut requests {
        assert!(request.as_mut().now_or_never().is_none());
    }
    addr.clone().send(Do::Count).await.unwrap();
    assert_eq!(seen.handled.load(Ordering::SeqCst), 102, "all were queued in a mailbox of one");
}

/// Dropping a request takes its message back as long as nobody has looked at it.
#[actix::test]
async fn a_dropped_request_is_cancelled() {
    let seen = Seen::default();
    let addr = Subject(seen.clone()).start();
    drop(addr.send(Do::Count));
    addr.send(Do::Count).await.unwrap();
    assert_eq!(seen.handled.load(Ordering::SeqCst), 1);
}

/// `do_send` to an actor that is gone says nothing.
#[actix::test]
async fn do_send_loses_errors() {
    let seen = Seen::default();
    let addr = Subject(seen.clone()).start();
    addr.send(Do::Stop).await.unwrap();
    until(|| !addr.connected()).await;
    addr.do_send(Do::Count);
    assert!(is_closed(&addr.send(Do::Count).await));
    assert_eq!(seen.handled.load(Ordering::SeqCst), 1);
}

/// `actix::Supervisor` restarts the same value after a stop, and does not survive a panic.
#[actix::test]
async fn the_supervisor_of_actix_does_not_survive_a_panic() {
    let seen = Seen::default();
    let value = seen.clone();
    let addr = actix::Supervisor::start(|_| Subject(value));
    addr.send(Do::Stop).await.unwrap();
    addr.send(Do::Count).await.unwrap();
    assert_eq!(seen.restarted.load(Ordering::SeqCst), 1);
    assert!(is_closed(&addr.send(Do::Panic).await));
    assert!(is_closed(&addr.send(Do::Count).await));
    assert_eq!(seen.restarted.load(Ordering::SeqCst), 1);
}

/// A panic ends one actor: `stopped` is called and the value dropped while unwinding (a panic in either
/// would abort the process), what waits in its mailbox is not handled any more, and what else lives on
/// the arbiter goes on.
#[actix::test]
async fn a_panic_drops_the_actor_and_spares_its_arbiter() {
    let arbiter = Arbiter::new();
    let (victim, neighbour) = (Seen::default(), Seen::default());
    let (v, n) = (victim.clone(), neighbour.clone());
    let victim_addr = Subject::start_in_arbiter(&arbiter.handle(), move |_| Subject(v));
    let neighbour_addr = Subject::start_in_arbiter(&arbiter.handle(), move |_| Subject(n));
    let panics = victim_addr.send(Do::Panic);
    let behind = victim_addr.send(Do::Count);
    assert!(is_closed(&panics.await) && is_closed(&behind.await));
    // The caller hears of it before the unwinding has reached the value.
    until(|| victim.dropped_in_panic.load(Ordering::SeqCst)).await;
    assert!(victim.stopped_in_panic.load(Ordering::SeqCst));
    assert_eq!(victim.handled.load(Ordering::SeqCst), 1);
    neighbour_addr.send(Do::Count).await.unwrap();
    arbiter.stop();
}

/// `MailboxError::Closed` comes for a message that was never looked at and for one that was worked on
/// alike: on a write it means that the outcome is unknown.
#[actix::test]
async fn closed_does_not_tell_whether_the_message_was_handled() {
    let arbiter = Arbiter::new();
    let seen = Seen::default();
    let value = seen.clone();
    let addr = Subject::start_in_arbiter(&arbiter.handle(), move |_| Subject(value));
    let worked_on = addr.send(NeverAnswer);
    addr.do_send(Do::Block(Duration::from_millis(50)));
    addr.do_send(Do::Panic);
    let never_seen = addr.send(Do::Count);
    assert!(is_closed(&never_seen.await));
    assert_eq!(seen.handled.load(Ordering::SeqCst), 3);
    arbiter.stop();
    assert!(is_closed(&worked_on.await));
}

/// A blocked actor cannot be killed, and takes its whole arbiter with it.
#[actix::test]
async fn a_blocked_actor_wedges_its_arbiter() {
    let arbiter = Arbiter::new();
    let (blocked, neighbour) = (Seen::default(), Seen::default());
    let (b, n) = (blocked.clone(), neighbour.clone());
    let blocked_addr = Subject::start_in_arbiter(&arbiter.handle(), move |_| Subject(b));
    let neighbour_addr = Subject::start_in_arbiter(&arbiter.handle(), move |_| Subject(n));
    neighbour_addr.send(Do::Count).await.unwrap();
    let block = blocked_addr.send(Do::Block(Duration::from_millis(300)));
    until(|| blocked.handled.load(Ordering::SeqCst) == 1).await;
    arbiter.stop();
    assert!(timeout(Duration::from_millis(100), neighbour_addr.send(Do::Count)).await.is_err());
    assert!(block.await.is_ok(), "the request to stop did not interrupt the handler");
}

struct Holder {
    polls: Rc<Cell<usize>>,
}

impl Actor for Holder {
    type Context = Context<Self>;
}

#[derive(Message)]
#[rtype(result = "()")]
struct HoldInActor;

impl Handler<HoldInActor> for Holder {
    type Result = ResponseActFuture<Self, ()>;

    fn handle(&mut self, _: HoldInActor, _: &mut Context<Self>) -> Self::Result {
        Box::pin(actix::fut::wrap_future(count_polls(self.polls.clone())))
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct HoldInTask;

impl Handler<HoldInTask> for Holder {
    type Result = Response<()>;

    fn handle(&mut self, _: HoldInTask, _: &mut Context<Self>) -> Self::Result {
        Response::fut(count_polls(self.polls.clone()))
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct Wake;

impl Handler<Wake> for Holder {
    type Result = ();

    fn handle(&mut self, _: Wake, _: &mut Context<Self>) {}
}

async fn count_polls(polls: Rc<Cell<usize>>) {
    futures::future::poll_fn(|_| {
        polls.set(polls.get() + 1);
        Poll::<()>::Pending
    })
    .await;
}

/// Futures kept in an actor are all polled whenever it wakes; those of `Response::fut` are tasks.
#[actix::test]
async fn futures_in_an_actor_are_polled_on_each_wake() {
    const HELD: usize = 50;
    const WAKES: usize = 10;
    let polls = Rc::new(Cell::new(0));
    let addr = Holder { polls: polls.clone() }.start();
    let _held: Vec<_> = (0..HELD).map(|_| addr.clone().send(HoldInTask)).collect();
    for _ in 0..WAKES {
        addr.send(Wake).await.unwrap();
        actix_rt::task::yield_now().await;
    }
    assert_eq!(polls.get(), HELD, "each task was polled once");

    let polls = Rc::new(Cell::new(0));
    let addr = Holder { polls: polls.clone() }.start();
    let _held: Vec<_> = (0..HELD).map(|_| addr.clone().send(HoldInActor)).collect();
    for _ in 0..WAKES {
        addr.send(Wake).await.unwrap();
        actix_rt::task::yield_now().await;
    }
    assert!(polls.get() >= HELD * WAKES, "{} polls", polls.get());
}
