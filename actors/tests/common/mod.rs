//! A stand-in for consensus and its store, and waiting on conditions.

#![allow(dead_code, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::ops::Bound::{Included, Unbounded};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::{pending, ready, BoxFuture};
use futures::FutureExt;
use parking_lot::Mutex;
use tokio::sync::{watch, Semaphore};
use vaultdb_actors::figures::{Clocks, Figures, ProcessFigures};
use vaultdb_actors::port::{Acceptances, EntryFate, Lookup, Node, Outcomes, Standstill, StoreStats, View};
use vaultdb_actors::{
    AgreementStatus, ClusterStatus, Committed, Divergence, EventKind, HealthOptions, IntegrityStatus,
    JoinReply, JoinRequest, Leader, Leadership, LogId, Member, MemberOrder, MemberReply, MemberStatus,
    NodeInfo, Options, ProposeError, RaftState, Stages, System, WorkerHandles,
};
use vaultdb_kv::histogram::IO_BOUNDS_US;
use vaultdb_kv::{
    AdminError, Applied, ApplyResult, Command, Consistency, Freshness, Health, Histogram, Key, MemberAddr,
    NodeId, Page, PageFiller, PageRequest, ReadError, Revision, Role, Versioned,
};

/// What becomes of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    Commit,
    Refuse(ProposeError),
    Hang,
}

/// One batch as it reached consensus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// `None` for a proposal on this node, else whom it was forwarded to.
    pub to: Option<NodeId>,
    pub commands: usize,
}

pub struct FakeNode {
    leadership: watch::Sender<Arc<Leadership>>,
    fates: Mutex<BTreeMap<Option<NodeId>, Fate>>,
    pub batches: Mutex<Vec<Batch>>,
    data: Mutex<BTreeMap<Key, Versioned>>,
    revision: Mutex<Revision>,
    /// Each batch takes a permit before it is committed.
    pub gate: Arc<Semaphore>,
    pub needs_disk: AtomicBool,
    pub store_fails: AtomicBool,
    pub barrier_hangs: AtomicBool,
    /// Questions about freshness; each takes a permit before it is answered.
    pub questions: AtomicUsize,
    pub question_gate: Arc<Semaphore>,
    pub peer_unreachable: AtomicBool,
    pub leads_alone: AtomicBool,
    /// Reads that may wait for the disk do, until this is off.
    pub store_hangs: AtomicBool,
    /// What the peer lacks, how long it has been silent, and what is committed and not applied here.
    pub lag_entries: AtomicU64,
    pub silent_ms: AtomicU64,
    pub unapplied: AtomicU64,
    /// Whether applying goes on, one entry with each look.
    pub applies: AtomicBool,
    looks: AtomicU64,
    pub standstill: Mutex<Standstill>,
    pub integrity: Mutex<IntegrityStatus>,
    pub diverged: Mutex<Vec<Divergence>>,
    pub fsyncs: Arc<Histogram>,
    /// Handovers that were asked for, and whether somebody takes them.
    pub handovers: AtomicUsize,
    pub takes_over: AtomicBool,
    /// Where the last batch was proposed.
    proposed_on: Mutex<Option<actix::ArbiterHandle>>,
    failed: watch::Sender<Option<String>>,
    pub stages: Stages,
}

fn leader(id: NodeId) -> Leader {
    Leader { id, name: format!("node{id}"), addr: MemberAddr::default() }
}

impl FakeNode {
    /// This node has the id 0 and leads.
    pub fn leading() -> Arc<Self> {
        let leadership = Leadership { term: 1, leader: Some(leader(0)), is_local: true };
        let fsyncs = Arc::new(Histogram::new(IO_BOUNDS_US));
        Arc::new(Self {
            leadership: watch::Sender::new(Arc::new(leadership)),
            fates: Mutex::default(),
            batches: Mutex::default(),
            data: Mutex::default(),
            revision: Mutex::default(),
            gate: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)),
            needs_disk: AtomicBool::new(false),
            store_fails: AtomicBool::new(false),
            barrier_hangs: AtomicBool::new(false),
            questions: AtomicUsize::new(0),
            question_gate: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)),
            peer_unreachable: AtomicBool::new(false),
            leads_alone: AtomicBool::new(false),
            store_hangs: AtomicBool::new(false),
            lag_entries: AtomicU64::new(0),
            silent_ms: AtomicU64::new(1),
            unapplied: AtomicU64::new(0),
            applies: AtomicBool::new(false),
            looks: AtomicU64::new(1),
            standstill: Mutex::default(),
            integrity: Mutex::default(),
            diverged: Mutex::default(),
            fsyncs: fsyncs.clone(),
            handovers: AtomicUsize::new(0),
            takes_over: AtomicBool::new(false),
            proposed_on: Mutex::default(),
            failed: watch::Sender::new(None),
            stages: Stages::new(Some(fsyncs)),
        })
    }

    pub fn lead(&self, id: Option<NodeId>) {
        let term = self.leadership.borrow().term + 1;
        let leadership = Leadership { term, leader: id.map(leader), is_local: id == Some(0) };
        self.leadership.send_replace(Arc::new(leadership));
    }

    pub fn answer(&self, to: Option<NodeId>, fate: Fate) {
        self.fates.lock().insert(to, fate);
    }

    /// Holds all batches until permits are added.
    pub fn close_gate(&self) {
        self.gate.forget_permits(Semaphore::MAX_PERMITS);
    }

    pub fn fail(&self, reason: &str) {
        self.failed.send_replace(Some(reason.into()));
    }

    pub fn sent(&self) -> usize {
        self.batches.lock().len()
    }

    pub fn commands_sent(&self) -> usize {
        self.batches.lock().iter().map(|batch| batch.commands).sum()
    }

    /// The thread on which the last batch was proposed: the home of the raft node actor.
    pub fn proposed_on(&self) -> actix::ArbiterHandle {
        self.proposed_on.lock().clone().expect("a batch was proposed")
    }

    fn apply(&self, command: Command) -> Committed {
        let mut revision = self.revision.lock();
        *revision += 1;
        let result = match command {
            Command::Set { pairs } => {
                let mut data = self.data.lock();
                for (key, value) in pairs {
                    data.insert(key, Versioned { value, revision: *revision });
                }
                ApplyResult::Set
            }
            Command::Delete { key } => {
                ApplyResult::Deleted { existed: self.data.lock().remove(&key).is_some() }
            }
            Command::RegisterNode { .. } | Command::Guarded(_) | Command::AdvanceRevision { .. } => {
                ApplyResult::None
            }
        };
        let log_id = LogId { term: 1, index: *revision };
        Committed { log_id, applied: Applied { revision: *revision, result } }
    }

    /// Takes the fake apart from its handle, for the futures.
    fn run(
        self: Arc<Self>,
        to: Option<NodeId>,
        batch: Vec<Arc<Command>>,
        deadline: Instant,
    ) -> BoxFuture<'static, Outcomes> {
        let commands = batch.len();
        self.batches.lock().push(Batch { to, commands });
        let fate = self.fates.lock().get(&to).cloned().unwrap_or(Fate::Commit);
        async move {
            match fate {
                Fate::Commit => {
                    let gate = self.gate.clone();
                    gate.acquire().await.unwrap().forget();
                    batch.into_iter().map(|command| Ok(self.apply(Arc::unwrap_or_clone(command)))).collect()
                }
                Fate::Refuse(error) => vec![Err(error); commands],
                Fate::Hang => {
                    tokio::time::sleep_until(deadline.into()).await;
                    vec![Err(ProposeError::Unknown { reason: "no quorum".into() }); commands]
                }
            }
        }
        .boxed()
    }
}

/// The fake behind the port; an `Arc` inside, so that futures can hold it.
pub struct Port(pub Arc<FakeNode>);

impl Node for Port {
    fn leadership(&self) -> Arc<Leadership> {
        self.0.leadership.borrow().clone()
    }

    fn subscribe_leadership(&self) -> watch::Receiver<Arc<Leadership>> {
        self.0.leadership.subscribe()
    }

    fn propose(
        &self,
        batch: Vec<Arc<Command>>,
        _: Instant,
        deadline: Instant,
    ) -> BoxFuture<'static, Outcomes> {
        *self.0.proposed_on.lock() = actix::Arbiter::try_current();
        self.0.clone().run(None, batch, deadline)
    }

    fn forward(
        &self,
        to: NodeId,
        batch: Vec<Arc<Command>>,
        deadline: Instant,
    ) -> BoxFuture<'static, Outcomes> {
        self.0.clone().run(Some(to), batch, deadline)
    }

    fn accept(
        &self,
        to: Option<NodeId>,
        batch: Vec<Arc<Command>>,
        deadline: Instant,
    ) -> BoxFuture<'static, Acceptances> {
        let outcomes = self.0.clone().run(to, batch, deadline);
        async move { outcomes.await.into_iter().map(|outcome| outcome.map(|done| done.log_id)).collect() }
            .boxed()
    }

    fn fate(&self, entry: LogId) -> EntryFate {
        match entry.index <= *self.0.revision.lock() {
            true => EntryFate::Committed,
            false => EntryFate::Pending,
        }
    }

    fn is_fresh(&self, wanted: &Freshness) -> bool {
        wanted.consistency == Consistency::Stale
    }

    fn freshen(&self, _: Freshness, deadline: Instant) -> BoxFuture<'static, Result<(), ReadError>> {
        let hangs = self.0.barrier_hangs.load(Ordering::SeqCst);
        self.0.questions.fetch_add(1, Ordering::SeqCst);
        let gate = self.0.question_gate.clone();
        async move {
            if hangs {
                tokio::time::sleep_until(deadline.into()).await;
                return Err(ReadError::NoLeader);
            }
            gate.acquire().await.expect("never closed").forget();
            Ok(())
        }
        .boxed()
    }

    fn join(&self, request: JoinRequest, _: Instant) -> BoxFuture<'static, Result<JoinReply, AdminError>> {
        let id = request.name.len() as u64;
        ready(Ok(JoinReply { cluster_id: "c".into(), id, revision: 1 })).boxed()
    }

    fn transfer_leader(
        &self,
        to: Option<String>,
        _: Instant,
    ) -> BoxFuture<'static, Result<String, AdminError>> {
        self.0.handovers.fetch_add(1, Ordering::SeqCst);
        match to {
            Some(name) => ready(Ok(name)).boxed(),
            None if self.0.takes_over.load(Ordering::SeqCst) => {
                self.0.lead(Some(1));
                ready(Ok("node1".into())).boxed()
            }
            None => pending().boxed(),
        }
    }

    fn change_member(
        &self,
        order: MemberOrder,
        _: Instant,
    ) -> BoxFuture<'static, Result<MemberReply, AdminError>> {
        let (MemberOrder::Remove { name } | MemberOrder::Promote { name }) = order else {
            return pending().boxed();
        };
        ready(Ok(MemberReply { name, id: 7, changed: true })).boxed()
    }

    fn status(&self) -> ClusterStatus {
        let member = |id: NodeId| Member { id, name: format!("node{id}"), addr: MemberAddr::default() };
        let status = |id| MemberStatus {
            member: member(id),
            role: Role::Voter,
            reachable: id == 0 || !self.0.peer_unreachable.load(Ordering::SeqCst),
            lag_entries: Some(if id == 0 { 0 } else { self.0.lag_entries.load(Ordering::SeqCst) }),
            last_contact_ms: Some(if id == 0 { 0 } else { self.0.silent_ms.load(Ordering::SeqCst) }),
            stays_learner: false,
        };
        let applied = match self.0.applies.load(Ordering::SeqCst) {
            true => self.0.looks.fetch_add(1, Ordering::SeqCst) + 1,
            false => self.0.looks.load(Ordering::SeqCst),
        };
        let committed = applied + self.0.unapplied.load(Ordering::SeqCst);
        ClusterStatus {
            cluster_id: "c".into(),
            node: member(0),
            state: RaftState::Leader,
            leadership: self.leadership().as_ref().clone(),
            leads_alone: self.0.leads_alone.load(Ordering::SeqCst),
            members: vec![status(0), status(1)],
            last_log: committed,
            committed,
            applied,
            snapshot: 0,
            purged: 0,
            transfers: Vec::new(),
            transfer_totals: Default::default(),
            agreement: AgreementStatus { diverged: self.0.diverged.lock().clone(), ..Default::default() },
            fatal: None,
        }
    }

    fn failed(&self) -> BoxFuture<'static, String> {
        let mut failed = self.0.failed.subscribe();
        async move { failed.wait_for(Option::is_some).await.unwrap().clone().unwrap() }.boxed()
    }

    fn revision(&self) -> Revision {
        *self.0.revision.lock()
    }

    fn try_get(&self, key: &Key) -> Result<Lookup, ReadError> {
        if self.0.needs_disk.load(Ordering::SeqCst) {
            return Ok(Lookup::NeedsDisk);
        }
        self.get(key).map(Lookup::Ready)
    }

    fn get(&self, key: &Key) -> Result<Option<Versioned>, ReadError> {
        while self.0.store_hangs.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
        if self.0.store_fails.load(Ordering::SeqCst) {
            return Err(ReadError::Store { reason: "bad block".into() });
        }
        Ok(self.0.data.lock().get(key).cloned())
    }

    fn view(&self) -> Result<Box<dyn View>, ReadError> {
        if self.0.store_fails.load(Ordering::SeqCst) {
            return Err(ReadError::Store { reason: "bad block".into() });
        }
        Ok(Box::new(FakeView { data: self.0.data.lock().clone(), revision: self.revision() }))
    }

    fn stages(&self) -> &Stages {
        &self.0.stages
    }

    fn store_stats(&self) -> StoreStats {
        StoreStats { revision: self.revision(), ..StoreStats::default() }
    }

    fn standstill(&self) -> Standstill {
        *self.0.standstill.lock()
    }

    fn integrity(&self) -> IntegrityStatus {
        self.0.integrity.lock().clone()
    }
}

/// A copy of the data; knows no order but the forward one.
struct FakeView {
    data: BTreeMap<Key, Versioned>,
    revision: Revision,
}

impl View for FakeView {
    fn revision(&self) -> Revision {
        self.revision
    }

    fn log_id(&self) -> Option<LogId> {
        Some(LogId { term: 1, index: self.revision })
    }

    fn page(&self, request: &PageRequest) -> Result<Page, ReadError> {
        let mut filler = PageFiller::new(request);
        let bounds = request.query.bounds(request.after.as_ref()).expect("not empty");
        for (key, found) in self.data.range::<[u8], _>((Included(&bounds.lower[..]), Unbounded)) {
            if !filler.push(key.as_bytes(), &found.value, found.revision) {
                break;
            }
        }
        Ok(filler.finish())
    }
}

/// What a test says of the process and of the time.
#[derive(Debug)]
pub struct FakeFigures {
    pub process: Mutex<ProcessFigures>,
    /// Whether the kernel tells.
    pub tells: AtomicBool,
    /// How far the wall's clock, and both clocks, are ahead of where they began.
    pub wall_ahead: Mutex<Duration>,
    pub both_ahead: Mutex<Duration>,
    begun: Instant,
}

impl Default for FakeFigures {
    fn default() -> Self {
        let process = ProcessFigures {
            open_files: 10,
            open_files_max: Some(1_000),
            resident_bytes: 10 << 20,
            memory_bytes: 100 << 20,
        };
        Self {
            process: Mutex::new(process),
            tells: AtomicBool::new(true),
            wall_ahead: Mutex::default(),
            both_ahead: Mutex::default(),
            begun: Instant::now(),
        }
    }
}

impl Figures for FakeFigures {
    fn process(&self) -> io::Result<ProcessFigures> {
        match self.tells.load(Ordering::SeqCst) {
            true => Ok(*self.process.lock()),
            false => Err(io::Error::other("no such file")),
        }
    }

    /// Both go forward by what the test says alone.
    fn clocks(&self) -> Clocks {
        let both = *self.both_ahead.lock();
        let wall = Duration::from_secs(1_000_000) + both + *self.wall_ahead.lock();
        Clocks { wall, steady: self.begun + both }
    }
}

/// For tests in which something hangs: probes fast enough to wait for their verdict.
pub fn impatient() -> Options {
    let health = HealthOptions {
        probe_degraded: Duration::from_millis(80),
        probe_failed: Duration::from_millis(160),
        ..options().health
    };
    Options { health, ..options() }
}

/// As `impatient`, but what does not answer is reported alone, never replaced.
pub fn forbearing() -> Options {
    let options = impatient();
    let health = HealthOptions { probe_failed: Duration::from_secs(60), ..options.health };
    Options { health, ..options }
}

/// Quick to look, but patient: printing the trace of a panic blocks a thread for a while.
pub fn options() -> Options {
    Options {
        health: HealthOptions {
            probe_interval: Duration::from_millis(10),
            probe_degraded: Duration::from_secs(1),
            probe_failed: Duration::from_secs(2),
            leaderless_degraded: Duration::from_millis(50),
            peer_silent_degraded: Duration::from_millis(20),
            lag_degraded: Duration::from_millis(20),
            fsync_window: Duration::from_millis(20),
            incident_shown: Duration::from_millis(200),
            ..HealthOptions::default()
        },
        step_aside_max: Duration::from_millis(50),
        restart_backoff: Duration::from_millis(1),
        fault_injection: true,
        ..Options::default()
    }
}

/// A node with its actors and one web worker: the arbiter of the test.
pub struct Bench {
    pub fake: Arc<FakeNode>,
    pub system: System,
    pub worker: WorkerHandles,
}

impl Bench {
    pub async fn start(options: Options) -> Self {
        // A second call in the same process finds the logger in place.
        let _ = env_logger::builder().is_test(true).try_init();
        let fake = FakeNode::leading();
        let info =
            NodeInfo { name: "node0".into(), haddr: "h:1".into(), raddr: "r:1".into(), version: "test" };
        let system = System::start(info, options);
        let worker = system.handles().worker();
        system.attach_node(Arc::new(Port(fake.clone())));
        let bench = Self { fake, system, worker };
        until("all components are healthy", || async {
            bench.worker.status().await.health.components.iter().all(|c| c.reason.is_none())
        })
        .await;
        bench
    }

    pub async fn state(&self, name: &str) -> (Health, String) {
        let health = self.worker.status().await.health;
        let component = health.components.into_iter().find(|component| component.name == name).unwrap();
        (component.state, component.reason.unwrap_or_default())
    }

    pub async fn saw(&self, name: &str, what: EventKind) -> bool {
        self.worker.events(0).await.iter().any(|event| event.component == name && event.what == what)
    }

    pub async fn restarts(&self, name: &str) -> u64 {
        let status = self.worker.status().await;
        status.health.components.iter().find(|component| component.name == name).unwrap().restarts
    }
}

pub fn set(key: &str) -> Command {
    Command::Set { pairs: vec![(self::key(key), Bytes::from_static(b"v"))] }
}

pub fn key(key: &str) -> Key {
    Key::new(key.to_owned()).unwrap()
}

pub fn within(ms: u64) -> Instant {
    Instant::now() + Duration::from_millis(ms)
}

/// Waits until the condition holds.
pub async fn until<F: Future<Output = bool>>(what: &str, condition: impl Fn() -> F) {
    let deadline = within(10_000);
    while !condition().await {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
