//! Fresh reads on any node: Ongaro 2014, §6.4, with one round for all reads that wait.
//!
//! Invariant: a read joins only a round that begins after the read arrived, and goes on only when the
//! local store has applied the index which that round returned. Such a round proves that the store holds
//! every write that was acknowledged before the round began; how long ago the last such round began is
//! therefore what bounds the staleness of the store, by this node's own clock alone.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch, Semaphore};
use tokio::time::{timeout, timeout_at};
use vaultdb_kv::{failpoint, Consistency, Freshness, ReadError};
use vaultdb_storage::StateMachine;

use crate::core::Core;
use crate::wire::Proof;

/// Callers that may wait for their round, of each kind.
const WAITING_MAX: usize = 65_536;
/// Rounds under way at once: a second keeps the leader busy while the first one's answer travels.
const ROUNDS_IN_FLIGHT_MAX: usize = 2;
/// Pause before a failed round is tried again, unless leadership changes sooner.
const RETRY: Duration = Duration::from_millis(25);
/// Longest that a read of bounded staleness waits to hear from the leader.
const NEWS_WAIT_MAX: Duration = Duration::from_millis(250);

/// How long after its deadline a caller still listens for the answer of its round.
const ANSWER_GRACE: Duration = Duration::from_millis(20);

struct Waiter {
    deadline: Instant,
    answer: oneshot::Sender<Result<(), ReadError>>,
}

/// The way in, from any thread.
#[derive(Clone)]
pub struct ReadBarrier {
    quorum: mpsc::Sender<Waiter>,
    lease: mpsc::Sender<Waiter>,
    known: Arc<Known>,
    applied: watch::Receiver<u64>,
    store: Arc<StateMachine>,
}

/// How long ago the store certainly held every acknowledged write.
struct Known {
    /// Instants are counted from here.
    origin: Instant,
    /// Nanoseconds from `origin` to the begin of that round; 0 before the first.
    begun: AtomicU64,
}

impl Known {
    fn learn(&self, begun: Instant) {
        let nanos = begun.saturating_duration_since(self.origin).as_nanos();
        self.begun.fetch_max(u64::try_from(nanos).unwrap_or(u64::MAX), Ordering::AcqRel);
    }

    fn staleness(&self) -> Option<Duration> {
        match self.begun.load(Ordering::Acquire) {
            0 => None,
            nanos => Some((self.origin + Duration::from_nanos(nanos)).elapsed()),
        }
    }

    fn is_within(&self, allowed: Duration) -> bool {
        self.staleness().is_some_and(|staleness| staleness <= allowed)
    }
}

impl ReadBarrier {
    /// Must be called on the consensus runtime.
    pub fn spawn(core: Arc<Core>, share: bool) -> Self {
        let known = Arc::new(Known { origin: core.started, begun: AtomicU64::new(0) });
        let queue = |proof| {
            let (waiters, queue) = mpsc::channel(WAITING_MAX);
            tokio::spawn(begin_rounds(core.clone(), known.clone(), queue, proof, share));
            waiters
        };
        Self {
            quorum: queue(Proof::Quorum),
            lease: queue(Proof::Lease),
            known: known.clone(),
            applied: core.applied.clone(),
            store: core.store.clone(),
        }
    }

    /// Whether the local store may be read as it is.
    pub fn is_fresh(&self, wanted: &Freshness) -> bool {
        match wanted.consistency {
            Consistency::Linearizable | Consistency::Lease => false,
            Consistency::Stale => {
                wanted.max_staleness.is_none_or(|allowed| self.known.is_within(allowed))
                    && wanted.min_revision.is_none_or(|least| self.store.revision() >= least)
            }
        }
    }

    /// Returns once the local store is as fresh as wanted.
    ///
    /// # Errors
    /// [`ReadError::NoLeader`] when no confirmed leader was found, [`ReadError::TooStale`] likewise for a
    /// read of bounded staleness, [`ReadError::Behind`] when the local store did not catch up in time,
    /// [`ReadError::Overloaded`], [`ReadError::Unavailable`].
    pub async fn freshen(&self, wanted: &Freshness, deadline: Instant) -> Result<(), ReadError> {
        if failpoint::is_on("reads-unconfirmed") {
            return Ok(());
        }
        match wanted.consistency {
            Consistency::Linearizable => wait(&self.quorum, deadline).await?,
            Consistency::Lease => wait(&self.lease, deadline).await?,
            Consistency::Stale => {
                if let Some(allowed) = wanted.max_staleness {
                    self.hear_of_leader(allowed, deadline).await?;
                }
            }
        }
        match wanted.min_revision {
            Some(least) => {
                let reached = |_| self.store.revision() >= least;
                catch_up(&self.store, self.applied.clone(), reached, deadline).await
            }
            None => Ok(()),
        }
    }

    async fn hear_of_leader(&self, allowed: Duration, deadline: Instant) -> Result<(), ReadError> {
        if self.known.is_within(allowed) {
            return Ok(());
        }
        let patience = Instant::now() + allowed.min(NEWS_WAIT_MAX);
        match wait(&self.lease, deadline.min(patience)).await {
            Err(error @ (ReadError::Overloaded | ReadError::Unavailable)) => Err(error),
            // A round that took longer than allowed proves too little.
            Ok(()) if self.known.is_within(allowed) => Ok(()),
            Ok(()) | Err(_) => Err(ReadError::TooStale { allowed, staleness: self.known.staleness() }),
        }
    }
}

async fn wait(queue: &mpsc::Sender<Waiter>, deadline: Instant) -> Result<(), ReadError> {
    let (answer, answered) = oneshot::channel();
    match queue.try_send(Waiter { deadline, answer }) {
        Ok(()) => {}
        Err(mpsc::error::TrySendError::Full(_)) => return Err(ReadError::Overloaded),
        Err(mpsc::error::TrySendError::Closed(_)) => return Err(ReadError::Unavailable),
    }
    // The round answers by the deadline and knows more of why.
    match timeout_at((deadline + ANSWER_GRACE).into(), answered).await {
        Ok(Ok(result)) => result,
        Ok(Err(_)) => Err(ReadError::Unavailable),
        Err(_) => Err(ReadError::NoLeader),
    }
}

async fn begin_rounds(
    core: Arc<Core>,
    known: Arc<Known>,
    mut queue: mpsc::Receiver<Waiter>,
    proof: Proof,
    share: bool,
) {
    let rounds = Arc::new(Semaphore::new(if share { ROUNDS_IN_FLIGHT_MAX } else { 1 }));
    loop {
        let permit = rounds.clone().acquire_owned().await.expect("the semaphore is never closed");
        let Some(first) = queue.recv().await else { return };
        let mut waiters = vec![first];
        while let Some(next) = share.then(|| queue.try_recv().ok()).flatten() {
            waiters.push(next);
        }
        let (core, known) = (core.clone(), known.clone());
        tokio::spawn(async move {
            round(&core, &known, proof, waiters).await;
            drop(permit);
        });
    }
}

/// Serves all of `waiters`, or tells each at its deadline that it could not.
async fn round(core: &Core, known: &Known, proof: Proof, mut waiters: Vec<Waiter>) {
    let mut leadership = core.leadership.subscribe();
    loop {
        leadership.borrow_and_update();
        let begun = Instant::now();
        // A leader that hangs must not hold the round past the next election.
        let longest = Duration::from_millis(core.timing.election_timeout_ms_max);
        let index = tokio::select! {
            index = timeout(longest, core.read_index(proof)) => {
                index.map_err(|_| "no answer".to_owned()).and_then(|index| index)
            }
            _ = leadership.changed() => Err("leadership changed".to_owned()),
        };
        match index {
            Ok(index) => return finish(core, known, begun, waiters, index).await,
            Err(reason) => log::debug!("read index: {reason}"),
        }
        if let Some(fatal) = core.fatal.borrow().as_ref() {
            log::debug!("reads end: {fatal}");
            return answer_all(waiters, &Err(ReadError::Unavailable));
        }
        drop(timeout(RETRY, leadership.changed()).await);
        let now = Instant::now();
        let (waiting, late) = waiters.into_iter().partition(|waiter| waiter.deadline > now);
        // Told, not dropped: a caller whose own clock has not rung yet would take it for a stop.
        answer_all(late, &Err(ReadError::NoLeader));
        waiters = waiting;
        waiters.retain(|waiter| !waiter.answer.is_closed());
        if waiters.is_empty() {
            return;
        }
    }
}

async fn finish(core: &Core, known: &Known, begun: Instant, waiters: Vec<Waiter>, index: u64) {
    let Some(last) = waiters.iter().map(|w| w.deadline).max() else { return };
    let result = catch_up(&core.store, core.applied.clone(), |applied| applied >= index, last).await;
    if result.is_ok() {
        known.learn(begun);
    }
    answer_all(waiters, &result);
}

/// Waits until the local store has `reached` what is wanted; asks again after each run that was applied.
async fn catch_up(
    store: &StateMachine,
    mut applied: watch::Receiver<u64>,
    reached: impl Fn(u64) -> bool,
    deadline: Instant,
) -> Result<(), ReadError> {
    let waited = timeout_at(deadline.into(), applied.wait_for(|applied| reached(*applied))).await;
    match waited.map(|reached| reached.is_ok()) {
        Ok(true) => Ok(()),
        Ok(false) => Err(ReadError::Unavailable),
        Err(_) => Err(ReadError::Behind { revision: store.revision() }),
    }
}

fn answer_all(waiters: Vec<Waiter>, result: &Result<(), ReadError>) {
    for waiter in waiters {
        // A reader that has given up needs no answer.
        drop(waiter.answer.send(result.clone()));
    }
}
