//! What the HTTP edge holds: every request becomes messages to actors, and every wait ends at its
//! deadline.
//!
//! Invariant: an answer says "not applied" only when the write's own state proves it
//! (see [`crate::pending`]), however the actor that held it came to its end.

use std::future::Future;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::dev::{Request, ToEnvelope};
use actix::{Actor, Arbiter, Handler, MailboxError, Message};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout, timeout_at};
use vaultdb_consensus::api::{Committed, JoinReply, JoinRequest, Leadership, MemberOrder, MemberReply};
use vaultdb_kv::{
    AdminError, Command, Consistency, Freshness, Health, Key, Page, PageRequest, ReadError, Revision,
    WriteError,
};

use crate::events::{EventRing, EVENTS_MAX};
use crate::gate::{Gate, REBUILD_POLL};
use crate::health::PROBE_KEY;
use crate::listings::{Listing, Listings};
use crate::messages::{
    ChangeMembership, Fault, GetEvents, GetHealth, GetReplicationStatus, GetStatus, GetStoreStatus, Inject,
    Join, ReadAnswer, ReadIndex, ReadKey, RegisterWorker, Restart, Scan, ScanFrom, TransferLeader,
};
use crate::pending::{Ack, Fate, Pending, Ticket};
use crate::port::{EntryFate, LogId, Lookup};
use crate::shared::Shared;
use crate::slot::{Absent, ComponentId, Slot, STARTING};
use crate::status::{CheckResult, Event, HealthReport, NodeStatus, LINEARIZABLE_READ};
use crate::store::{answer, read_memory, StoreActor};

/// A read changes nothing, so one that lost its actor is asked once more. Not more often: the read
/// itself may be what kills the actor.
const READ_ATTEMPTS_MAX: u32 = 2;
/// How long after its deadline a read still listens for its answer.
const ANSWER_GRACE: Duration = Duration::from_millis(30);
/// An actor that does not answer a question about itself by then is passed over.
const STATUS_PATIENCE: Duration = Duration::from_millis(100);
/// Longest wait for the supervisor's answer to a command of an operator.
const SUPERVISOR_PATIENCE: Duration = Duration::from_secs(1);

/// The node's actors, from any thread.
#[derive(Clone)]
pub struct Handles {
    shared: Arc<Shared>,
}

impl Handles {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// To be called once on each web worker: gives that worker a store actor on its own arbiter, as
    /// soon as consensus is up.
    ///
    /// # Panics
    /// On a thread without an actix arbiter.
    pub fn worker(&self) -> WorkerHandles {
        let number = self.shared.workers.fetch_add(1, Ordering::Relaxed);
        let slot = Slot::empty(ComponentId::Store(number));
        self.shared.stores.write().push(slot.clone());
        let arbiter = Arbiter::current();
        self.shared.supervisor.tell(RegisterWorker { slot: slot.clone(), arbiter });
        WorkerHandles { shared: self.shared.clone(), store: slot, gate: Gate::open(self.shared.clone()) }
    }
}

/// The node's actors as one web worker reaches them.
#[derive(Clone)]
pub struct WorkerHandles {
    pub(crate) shared: Arc<Shared>,
    store: Slot<StoreActor>,
    gate: Rc<Gate>,
}

impl WorkerHandles {
    /// Replicates one command; answers once it is committed and applied.
    ///
    /// # Errors
    /// [`WriteError`], sorted by what the caller may conclude.
    pub async fn submit(&self, command: Command, deadline: Instant) -> Result<Committed, WriteError> {
        self.dispatch(Pending::new(command, Ack::Majority, deadline)).await
    }

    /// As [`WorkerHandles::submit`], but answers once the leader has the command durably in its own log,
    /// and where. It may still be lost: see [`WorkerHandles::fate`].
    ///
    /// # Errors
    /// [`WriteError`], sorted by what the caller may conclude.
    pub async fn accept(&self, command: Command, deadline: Instant) -> Result<LogId, WriteError> {
        let accepted = self.dispatch(Pending::new(command, Ack::Leader, deadline)).await;
        accepted.map(|accepted| accepted.log_id)
    }

    async fn dispatch(&self, write: Arc<Pending>) -> Result<Committed, WriteError> {
        let deadline = write.deadline;
        if self.shared.is_stopping() || self.shared.node().is_none() {
            return Err(WriteError::Unavailable);
        }
        let ticket = Ticket::new(write.clone());
        match timeout_at(deadline.into(), self.gate.submit(write)).await {
            Ok(Ok(outcome)) => outcome,
            // Dropped unanswered.
            Ok(Err(_)) => Err(match ticket.give_up() {
                Fate::NeverSent | Fate::Refused => WriteError::Unavailable,
                Fate::Open => WriteError::unknown("the replication dispatcher failed meanwhile"),
            }),
            Err(_) => Err(match ticket.give_up() {
                Fate::Refused => WriteError::NoLeader,
                Fate::NeverSent if self.leadership().leader.is_none() => WriteError::NoLeader,
                Fate::NeverSent => WriteError::Overloaded,
                Fate::Open => WriteError::unknown("timed out"),
            }),
        }
    }

    /// Reads one key.
    ///
    /// # Errors
    /// [`ReadError`]; each may be repeated.
    pub async fn read(
        &self,
        key: Key,
        freshness: Freshness,
        deadline: Instant,
    ) -> Result<ReadAnswer, ReadError> {
        if let Some(answer) = self.read_at_once(&key, &freshness) {
            return answer;
        }
        for _ in 0..READ_ATTEMPTS_MAX {
            let (reply, answer) = oneshot::channel();
            let message = ReadKey { key: key.clone(), freshness, deadline, reply };
            let posted = self.reach(message, deadline, |message| self.store.post(message)).await;
            let Some(()) = posted else { break };
            // Whoever waits for the leader answers by the deadline and knows more of why.
            match timeout_at((deadline + ANSWER_GRACE).into(), answer).await {
                Ok(Ok(answer)) => return answer,
                Ok(Err(_)) => {}
                Err(_) => {
                    return Err(match freshness.consistency {
                        Consistency::Linearizable | Consistency::Lease => ReadError::NoLeader,
                        Consistency::Stale => ReadError::Overloaded,
                    })
                }
            }
        }
        Err(ReadError::Unavailable)
    }

    /// What needs neither a wait nor the disk is read here, while the worker has its store actor: no message,
    /// no second turn of the request's task.
    fn read_at_once(&self, key: &Key, freshness: &Freshness) -> Option<Result<ReadAnswer, ReadError>> {
        let node = self.shared.node().filter(|_| self.store.is_live())?;
        if !node.is_fresh(freshness) {
            return None;
        }
        match read_memory(&**node, key) {
            Ok((before, Lookup::Ready(found))) => Some(Ok(answer(before, found))),
            Ok((_, Lookup::NeedsDisk)) => None,
            Err(error) => Some(Err(error)),
        }
    }

    /// One page of a listing: of a new one, or of one that goes on.
    ///
    /// # Errors
    /// [`ReadError`]; each may be repeated.
    pub async fn scan(
        &self,
        from: ScanFrom,
        request: PageRequest,
        deadline: Instant,
    ) -> Result<(Listing, Page), ReadError> {
        let scan = Scan { from, request, deadline };
        for _ in 0..READ_ATTEMPTS_MAX {
            let request = self.request(&self.store, scan.clone(), deadline).await;
            let Some(request) = request else { break };
            match timeout_at((deadline + ANSWER_GRACE).into(), request).await {
                Ok(Ok(answer)) => return answer,
                Ok(Err(_)) => {}
                Err(_) => return Err(ReadError::Overloaded),
            }
        }
        Err(ReadError::Unavailable)
    }

    /// The listings of this node that wait to go on.
    pub fn listings(&self) -> &Listings {
        &self.shared.listings
    }

    /// What became of an entry of the leader's log, and the revision of the state that tells it.
    ///
    /// # Errors
    /// [`ReadError`]; each may be repeated.
    pub async fn fate(
        &self,
        entry: LogId,
        freshness: Freshness,
        deadline: Instant,
    ) -> Result<(EntryFate, Revision), ReadError> {
        let node = self.shared.node().ok_or(ReadError::Unavailable)?;
        if !node.is_fresh(&freshness) {
            self.read_index(freshness, deadline).await?;
        }
        let revision = node.revision();
        Ok((node.fate(entry), revision))
    }

    async fn read_index(&self, freshness: Freshness, deadline: Instant) -> Result<(), ReadError> {
        let question = ReadIndex { freshness, deadline };
        let request = self.request(&self.shared.raft, question, deadline).await;
        let request = request.ok_or(ReadError::Unavailable)?;
        match timeout_at((deadline + ANSWER_GRACE).into(), request).await {
            Ok(Ok(confirmed)) => confirmed,
            Ok(Err(_)) => Err(ReadError::Unavailable),
            Err(_) => Err(ReadError::NoLeader),
        }
    }

    /// Makes a node a member. Idempotent.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn join(&self, request: JoinRequest, deadline: Instant) -> Result<JoinReply, AdminError> {
        let message = Join { request, deadline };
        let request = self.request(&self.shared.raft, message, deadline).await;
        administered(request, deadline).await
    }

    /// Moves leadership; answers with the new leader's name.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn transfer_leader(&self, to: Option<String>, deadline: Instant) -> Result<String, AdminError> {
        let message = TransferLeader { to, deadline };
        let request = self.request(&self.shared.raft, message, deadline).await;
        administered(request, deadline).await
    }

    /// Removes or promotes a member.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn change_member(
        &self,
        order: MemberOrder,
        deadline: Instant,
    ) -> Result<MemberReply, AdminError> {
        let message = ChangeMembership { order, deadline };
        let request = self.request(&self.shared.raft, message, deadline).await;
        administered(request, deadline).await
    }

    /// Who leads, as this node sees it; nobody until consensus is up. Cheap, no message.
    pub fn leadership(&self) -> Arc<Leadership> {
        self.shared.node().map(|node| node.leadership()).unwrap_or_default()
    }

    /// The local store's revision; 0 until consensus is up. Cheap, no message.
    pub fn revision(&self) -> Revision {
        self.shared.node().map_or(0, |node| node.revision())
    }

    /// The node's view of itself, also while an actor hangs: whoever does not answer at once is passed
    /// over for what it shares.
    pub async fn status(&self) -> NodeStatus {
        let shared = &self.shared;
        let (cluster, store, replication, health) = futures::join!(
            patiently(shared.raft.send(GetStatus)),
            patiently(self.store.send(GetStoreStatus)),
            patiently(shared.dispatcher.send(GetReplicationStatus)),
            self.report(),
        );
        let node = shared.node();
        let write_times = node.as_ref().map(|node| node.stages().snapshot());
        NodeStatus {
            node: shared.info.clone(),
            uptime_ms: shared.uptime_ms(),
            cluster: cluster.or_else(|| node.map(|node| node.status())),
            store: store.or_else(|| node.map(|node| node.store_stats())).unwrap_or_default(),
            replication,
            replication_totals: shared.totals.get(),
            write_times,
            integrity: node.map(|node| node.integrity()),
            health,
            disk: shared.options.room.measured(),
        }
    }

    async fn report(&self) -> HealthReport {
        match patiently(self.shared.health.send(GetHealth)).await {
            Some(report) => Arc::unwrap_or_clone(report),
            None => self.shared.report(),
        }
    }

    /// Every check of `livez`, each ended by the deadline: the process and its own store, and nothing of the cluster.
    pub async fn liveness(&self, deadline: Instant) -> Vec<CheckResult> {
        let store = match self.shared.node() {
            Some(_) => self.check_store(deadline).await,
            None => Some(STARTING.to_owned()),
        };
        vec![check("process", None), check("store", store)]
    }

    /// Every check of `readyz`: also whether a linearizable read succeeds and the node is a voter.
    pub async fn readiness(&self, deadline: Instant) -> Vec<CheckResult> {
        let Some(node) = self.shared.node() else {
            let mut checks = self.liveness(deadline).await;
            checks.push(check("consensus", Some(STARTING.to_owned())));
            return checks;
        };
        let (mut checks, barrier, report) =
            futures::join!(self.liveness(deadline), self.check_barrier(deadline), self.report());
        let failed: Vec<_> = report
            .components
            .iter()
            .filter(|component| component.state == Health::Failed)
            .map(|component| format!("{} failed", component.name))
            .collect();
        let status = node.status();
        // A learner that is to stay one has arrived where it belongs.
        let voter = status.members.iter().any(|other| {
            other.member.id == status.node.id
                && (other.role == vaultdb_kv::Role::Voter || other.stays_learner)
        });
        checks.extend([
            check("components", (!failed.is_empty()).then(|| failed.join(", "))),
            check(LINEARIZABLE_READ, barrier),
            check("voter", (!voter).then(|| "the node is not a voter yet".into())),
        ]);
        checks
    }

    async fn check_store(&self, deadline: Instant) -> Option<String> {
        let key = Key::new(PROBE_KEY).ok()?;
        let read = self.read(key, Consistency::Stale.into(), deadline).await;
        read.err().map(|error| error.to_string())
    }

    async fn check_barrier(&self, deadline: Instant) -> Option<String> {
        let read = self.read_index(Consistency::Linearizable.into(), deadline).await;
        read.err().map(|error| error.to_string())
    }

    /// What the supervisor saw and did after event `since`, oldest first.
    pub async fn events(&self, since: u64) -> Vec<Event> {
        match patiently(self.shared.supervisor.send(GetEvents { since })).await {
            Some(events) => events,
            None => self.shared.events.page(since, EVENTS_MAX).events,
        }
    }

    /// The ring that these events are in, to be read and waited on without the supervisor.
    pub fn event_ring(&self) -> &EventRing {
        &self.shared.events
    }

    /// Replaces every actor of that name (see [`crate::component_names`]); `false` when there is none.
    pub async fn restart(&self, name: &str) -> bool {
        self.command(Restart { name: name.to_owned() }).await
    }

    /// Makes every actor of that name panic or hang; `false` unless fault injection is on.
    pub async fn inject(&self, name: &str, fault: Fault) -> bool {
        self.command(Inject { name: name.to_owned(), fault }).await
    }

    async fn command<M>(&self, message: M) -> bool
    where
        M: Message<Result = bool> + Send + 'static,
        crate::supervisor::Supervisor: Handler<M>,
    {
        match self.shared.supervisor.send(message) {
            Ok(request) => matches!(timeout(SUPERVISOR_PATIENCE, request).await, Ok(Ok(true))),
            Err(_) => false,
        }
    }

    /// As [`WorkerHandles::reach`]; the request waits for the actor's answer.
    async fn request<A, M>(&self, slot: &Slot<A>, message: M, deadline: Instant) -> Option<Request<A, M>>
    where
        M: Message + Send + Unpin + 'static,
        M::Result: Send,
        A: Actor + Handler<M>,
        A::Context: ToEnvelope<A, M>,
    {
        self.reach(message, deadline, |message| slot.send(message)).await
    }

    /// Sends as soon as there is somebody to take the message. `None` when consensus is not up, the
    /// node stops, or the deadline passes: certainly not accepted.
    async fn reach<M, T>(
        &self,
        message: M,
        deadline: Instant,
        send: impl Fn(M) -> Result<T, Absent<M>>,
    ) -> Option<T> {
        let mut message = message;
        loop {
            match send(message) {
                Ok(sent) => return Some(sent),
                Err(Absent(back)) => message = back,
            }
            if self.shared.node().is_none() || self.shared.is_stopping() || Instant::now() >= deadline {
                return None;
            }
            sleep(REBUILD_POLL).await;
        }
    }
}

fn check(name: &'static str, reason: Option<String>) -> CheckResult {
    CheckResult { name, ok: reason.is_none(), reason }
}

/// Waits a moment for an answer that can be had otherwise.
async fn patiently<T, M>(
    request: Result<impl Future<Output = Result<T, MailboxError>>, Absent<M>>,
) -> Option<T> {
    timeout(STATUS_PATIENCE, request.ok()?).await.ok()?.ok()
}

/// An administrative request that lost its actor or its time may have been done.
async fn administered<T>(
    request: Option<impl Future<Output = Result<Result<T, AdminError>, MailboxError>>>,
    deadline: Instant,
) -> Result<T, AdminError> {
    let Some(request) = request else { return Err(AdminError::Unavailable) };
    match timeout_at(deadline.into(), request).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(_)) => Err(AdminError::Unknown { reason: "the raft node actor failed meanwhile".into() }),
        Err(_) => Err(AdminError::Unknown { reason: "timed out".into() }),
    }
}
