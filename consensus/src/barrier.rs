//! Linearizable reads on any node: Ongaro 2014, §6.4, with one round for all reads that wait.
//!
//! Invariant: a read joins only a round that begins after the read arrived, and goes on only when the
//! local store has applied the index which that round returned.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, Semaphore};
use tokio::time::timeout;
use vaultdb_kv::ReadError;

use crate::core::Core;

/// Reads that may wait for their round.
const WAITING_MAX: usize = 65_536;
/// Rounds under way at once: a second keeps the leader busy while the first one's answer travels.
const ROUNDS_IN_FLIGHT_MAX: usize = 2;
/// Pause before a failed round is tried again, unless leadership changes sooner, in milliseconds.
const RETRY_MS: u64 = 25;

struct Waiter {
    deadline: Instant,
    answer: oneshot::Sender<Result<(), ReadError>>,
}

/// The way in, from any thread.
#[derive(Clone)]
pub struct ReadBarrier {
    waiters: mpsc::Sender<Waiter>,
}

impl ReadBarrier {
    /// Must be called on the consensus runtime.
    pub fn spawn(core: Arc<Core>) -> Self {
        let (waiters, queue) = mpsc::channel(WAITING_MAX);
        tokio::spawn(begin_rounds(core, queue));
        Self { waiters }
    }

    /// # Errors
    /// [`ReadError::NoLeader`] when no confirmed leader was found, [`ReadError::Behind`] when the local
    /// store did not catch up with it in time, [`ReadError::Overloaded`], [`ReadError::Unavailable`].
    pub async fn wait(&self, deadline: Instant) -> Result<(), ReadError> {
        let (answer, answered) = oneshot::channel();
        match self.waiters.try_send(Waiter { deadline, answer }) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(_)) => return Err(ReadError::Overloaded),
            Err(mpsc::error::TrySendError::Closed(_)) => return Err(ReadError::Unavailable),
        }
        match tokio::time::timeout_at(deadline.into(), answered).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(ReadError::Unavailable),
            Err(_) => Err(ReadError::NoLeader),
        }
    }
}

async fn begin_rounds(core: Arc<Core>, mut queue: mpsc::Receiver<Waiter>) {
    let rounds = Arc::new(Semaphore::new(ROUNDS_IN_FLIGHT_MAX));
    loop {
        let permit = rounds.clone().acquire_owned().await.expect("the semaphore is never closed");
        let Some(first) = queue.recv().await else { return };
        let mut waiters = vec![first];
        while let Ok(next) = queue.try_recv() {
            waiters.push(next);
        }
        let core = core.clone();
        tokio::spawn(async move {
            round(&core, waiters).await;
            drop(permit);
        });
    }
}

/// Serves all of `waiters`, or tells each at its deadline that it could not.
async fn round(core: &Core, mut waiters: Vec<Waiter>) {
    let mut leadership = core.leadership.subscribe();
    loop {
        leadership.borrow_and_update();
        // A leader that hangs must not hold the round past the next election.
        let attempt = timeout(Duration::from_millis(core.election_timeout_ms_max), core.read_index());
        let index = tokio::select! {
            index = attempt => index.map_err(|_| "no answer".to_owned()).and_then(|index| index),
            _ = leadership.changed() => Err("leadership changed".to_owned()),
        };
        match index {
            Ok(index) => return finish(core, waiters, index).await,
            Err(reason) => log::debug!("read index: {reason}"),
        }
        if let Some(fatal) = core.fatal.borrow().as_ref() {
            log::debug!("reads end: {fatal}");
            return answer_all(waiters, &Err(ReadError::Unavailable));
        }
        drop(timeout(Duration::from_millis(RETRY_MS), leadership.changed()).await);
        let now = Instant::now();
        waiters.retain(|w| w.deadline > now && !w.answer.is_closed());
        if waiters.is_empty() {
            return;
        }
    }
}

async fn finish(core: &Core, waiters: Vec<Waiter>, index: u64) {
    let mut applied = core.applied.clone();
    let Some(last) = waiters.iter().map(|w| w.deadline).max() else { return };
    let reached = tokio::time::timeout_at(last.into(), applied.wait_for(|a| *a >= index)).await.is_ok();
    let result = if reached { Ok(()) } else { Err(ReadError::Behind { revision: core.store.revision() }) };
    answer_all(waiters, &result);
}

fn answer_all(waiters: Vec<Waiter>, result: &Result<(), ReadError>) {
    for waiter in waiters {
        // A reader that has given up needs no answer.
        drop(waiter.answer.send(result.clone()));
    }
}
