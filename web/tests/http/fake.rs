//! A node that keeps its keys in a map and fails, hangs or loses its leader when told to.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Bound::{Excluded, Included, Unbounded};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use vaultdb_kv::faults::FAULTS_MAX;
use vaultdb_kv::histogram::IO_BOUNDS_US;
use vaultdb_kv::{
    AdminError, Applied, ApplyResult, Attempt, Command, Faults, Freshness, Guarded, Health, Histogram,
    IdempotencyKey, Key, Measured, MemberAddr, Page, PageFiller, PageRequest, ReadError, Revision, Role,
    Versioned, Write, WriteError,
};
use vaultdb_web::model::{
    ActiveFault, AgreementStatus, CacheStats, CheckResult, ClusterStatus, ComponentHealth, Divergence,
    EntryFate, EventRing, FaultOrder, FaultRefusal, HealthReport, IntegrityStatus, JoinReply, JoinRequest,
    Leader, Leadership, Listing, Listings, LogId, Member, MemberOrder, MemberReply, MemberStatus, NodeInfo,
    NodeStatus, PeerAnswer, RaftState, ReadAnswer, ReplicationStatus, ReplicationTotals, ScanFrom, Stage,
    Stages, StoreStats, TransferDirection, TransferStatus, TransferTotals, View,
};
use vaultdb_web::Backend;

#[derive(Default)]
pub struct State {
    pub map: Mutex<BTreeMap<Key, Versioned>>,
    pub revision: AtomicU64,
    /// Named writes and their answers.
    pub named: Mutex<HashMap<IdempotencyKey, (Attempt, Applied)>>,
    pub leadership: Mutex<Arc<Leadership>>,
    /// Answered, in order, before anything works again.
    pub write_errors: Mutex<VecDeque<WriteError>>,
    pub read_errors: Mutex<VecDeque<ReadError>>,
    pub admin_errors: Mutex<VecDeque<AdminError>>,
    pub liveness: Mutex<Vec<CheckResult>>,
    pub readiness: Mutex<Vec<CheckResult>>,
    pub joined: Mutex<Vec<JoinRequest>>,
    pub last_read: Mutex<Option<(Freshness, Duration)>>,
    /// While set, calls do not come back.
    pub hang: AtomicBool,
    pub listings: Listings,
    pub events: EventRing,
    /// Views of the map that live.
    pub views: Arc<AtomicUsize>,
    /// Calls that hang now.
    pub hanging: AtomicUsize,
    /// How many backends were made: one a worker.
    pub backends: AtomicUsize,
    /// The next call panics.
    pub panic: AtomicBool,
    pub faults: Faults,
    /// Fault injection is off.
    pub faultless: AtomicBool,
    /// What went wrong at once, and what was refused.
    pub struck: Mutex<Vec<FaultOrder>>,
    pub fault_refusals: Mutex<VecDeque<FaultRefusal>>,
    /// No quorum follows the leader.
    pub leads_alone: AtomicBool,
    /// The node belongs to no cluster yet.
    pub starting: AtomicBool,
    pub dispatcher_hangs: AtomicBool,
    /// Address and request of each question to a member, and its body.
    pub asked: Mutex<Vec<(String, String)>>,
    pub asked_bodies: Mutex<Vec<Vec<u8>>>,
    /// What every member answers.
    pub peer_answer: Mutex<Option<Result<PeerAnswer, String>>>,
}

#[derive(Clone)]
pub struct Fake(pub Arc<State>);

pub fn leader(name: &str, http: &str, is_local: bool) -> Arc<Leadership> {
    let addr = MemberAddr { raft: "r:1".into(), http: http.into() };
    Arc::new(Leadership { term: 3, leader: Some(Leader { id: 1, name: name.into(), addr }), is_local })
}

impl Fake {
    pub fn new() -> Self {
        let state = State { leadership: Mutex::new(leader("node0", "h0:11000", true)), ..State::default() };
        Self(Arc::new(state))
    }

    pub fn lead(&self, leadership: Arc<Leadership>) {
        *self.0.leadership.lock().unwrap() = leadership;
    }

    pub fn no_leader(&self) {
        self.lead(Arc::new(Leadership { term: 4, leader: None, is_local: false }));
    }

    pub fn hang(&self, on: bool) {
        self.0.hang.store(on, Ordering::SeqCst);
    }

    /// Waits until exactly `count` calls hang.
    pub fn wait_hanging(&self, count: usize) {
        let begun = Instant::now();
        while self.0.hanging.load(Ordering::SeqCst) != count {
            assert!(begun.elapsed() < Duration::from_secs(10), "never {count} calls hang");
            std::thread::yield_now();
        }
    }

    pub fn value(&self, key: &[u8]) -> Option<Vec<u8>> {
        let key = Key::new(key.to_vec()).unwrap();
        self.0.map.lock().unwrap().get(&key).map(|found| found.value.to_vec())
    }

    async fn pass(&self) {
        assert!(!self.0.panic.swap(false, Ordering::SeqCst), "the panic that a test asked for");
        if !self.0.hang.load(Ordering::SeqCst) {
            return;
        }
        struct Hanging<'a>(&'a AtomicUsize);
        impl Drop for Hanging<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::SeqCst);
            }
        }
        self.0.hanging.fetch_add(1, Ordering::SeqCst);
        let _hanging = Hanging(&self.0.hanging);
        while self.0.hang.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    fn apply(&self, command: Command) -> Applied {
        if let Command::Guarded(guarded) = command {
            return self.apply_guarded(*guarded);
        }
        let mut map = self.0.map.lock().unwrap();
        let revision = self.0.revision.fetch_add(1, Ordering::SeqCst) + 1;
        let result = match command {
            Command::Set { pairs } => {
                map.extend(pairs.into_iter().map(|(key, value)| (key, Versioned { value, revision })));
                ApplyResult::Set
            }
            Command::Delete { key } => ApplyResult::Deleted { existed: map.remove(&key).is_some() },
            Command::RegisterNode { .. } | Command::AdvanceRevision { .. } => {
                panic!("no command of a client")
            }
            Command::Guarded(_) => unreachable!("answered above"),
        };
        Applied { revision, result }
    }

    fn apply_guarded(&self, guarded: Guarded) -> Applied {
        let unchanged = |result| Applied { revision: self.revision(), result };
        let mut named = self.0.named.lock().unwrap();
        if let Some((first, answer)) = guarded.attempt.as_ref().and_then(|a| named.get(&a.key)) {
            let is_same = guarded.attempt.as_ref().is_some_and(|a| a.fingerprint == first.fingerprint);
            return if is_same { answer.clone() } else { unchanged(ApplyResult::AttemptReused) };
        }
        let key = match &guarded.write {
            Write::Set { pairs } => &pairs[0].0,
            Write::Delete { key } => key,
        };
        let current = self.0.map.lock().unwrap().get(key).map(|found| found.revision);
        let answer = match guarded.conditions.iter().all(|condition| condition.holds(current)) {
            true => self.apply(guarded.write.into()),
            false => unchanged(ApplyResult::ConditionFailed { current }),
        };
        if let Some(attempt) = guarded.attempt {
            named.insert(attempt.key.clone(), (attempt, answer.clone()));
        }
        answer
    }
}

/// A copy of the map, counted while it lives.
struct FakeView {
    map: BTreeMap<Key, Versioned>,
    revision: Revision,
    living: Arc<AtomicUsize>,
}

impl FakeView {
    fn of(state: &State) -> Self {
        state.views.fetch_add(1, Ordering::SeqCst);
        let map = state.map.lock().unwrap().clone();
        Self { map, revision: state.revision.load(Ordering::SeqCst), living: Arc::clone(&state.views) }
    }
}

impl Drop for FakeView {
    fn drop(&mut self) {
        self.living.fetch_sub(1, Ordering::SeqCst);
    }
}

impl View for FakeView {
    fn revision(&self) -> Revision {
        self.revision
    }

    fn log_id(&self) -> Option<LogId> {
        Some(LogId { term: 3, index: 100 + self.revision })
    }

    fn page(&self, request: &PageRequest) -> Result<Page, ReadError> {
        let Some(bounds) = request.query.bounds(request.after.as_ref()) else { return Ok(Page::empty()) };
        let upper = bounds.upper.as_deref().map_or(Unbounded, Excluded);
        let mut found: Vec<_> = self.map.range::<[u8], _>((Included(&bounds.lower[..]), upper)).collect();
        if request.query.reverse {
            found.reverse();
        }
        let mut filler = PageFiller::new(request);
        for (key, stored) in found {
            if !filler.push(key.as_bytes(), &stored.value, stored.revision) {
                break;
            }
        }
        Ok(filler.finish())
    }
}

impl Backend for Fake {
    async fn submit(&self, command: Command, _: Instant) -> Result<Applied, WriteError> {
        self.pass().await;
        let scripted = self.0.write_errors.lock().unwrap().pop_front();
        scripted.map_or_else(|| Ok(self.apply(command)), Err)
    }

    async fn accept(&self, command: Command, _: Instant) -> Result<LogId, WriteError> {
        self.pass().await;
        if let Some(error) = self.0.write_errors.lock().unwrap().pop_front() {
            return Err(error);
        }
        Ok(LogId { term: 3, index: 100 + self.apply(command).revision })
    }

    async fn fate(
        &self,
        entry: LogId,
        freshness: Freshness,
        deadline: Instant,
    ) -> Result<(EntryFate, Revision), ReadError> {
        let left = deadline.saturating_duration_since(Instant::now());
        *self.0.last_read.lock().unwrap() = Some((freshness, left));
        self.pass().await;
        if let Some(error) = self.0.read_errors.lock().unwrap().pop_front() {
            return Err(error);
        }
        let fate = match entry {
            LogId { index: 0, .. } => EntryFate::Forgotten,
            LogId { term, .. } if term < 3 => EntryFate::Lost,
            LogId { index, .. } if index <= 100 + self.revision() => EntryFate::Committed,
            LogId { .. } => EntryFate::Pending,
        };
        Ok((fate, self.revision()))
    }

    async fn read(&self, key: Key, freshness: Freshness, deadline: Instant) -> Result<ReadAnswer, ReadError> {
        let left = deadline.saturating_duration_since(Instant::now());
        *self.0.last_read.lock().unwrap() = Some((freshness, left));
        self.pass().await;
        if let Some(error) = self.0.read_errors.lock().unwrap().pop_front() {
            return Err(error);
        }
        let found = self.0.map.lock().unwrap().get(&key).cloned();
        Ok(ReadAnswer { found, revision: self.revision() })
    }

    async fn scan(
        &self,
        from: ScanFrom,
        request: PageRequest,
        deadline: Instant,
    ) -> Result<(Listing, Page), ReadError> {
        self.pass().await;
        if let Some(error) = self.0.read_errors.lock().unwrap().pop_front() {
            return Err(error);
        }
        let listing = match from {
            ScanFrom::Listing(listing) => listing,
            ScanFrom::Now(freshness) => {
                let left = deadline.saturating_duration_since(Instant::now());
                *self.0.last_read.lock().unwrap() = Some((freshness, left));
                let view = Box::new(FakeView::of(&self.0));
                Listing::new(view, request.query.clone(), freshness.consistency)
            }
        };
        let page = listing.page(&request)?;
        Ok((listing, page))
    }

    fn listings(&self) -> &Listings {
        &self.0.listings
    }

    fn events(&self) -> &EventRing {
        &self.0.events
    }

    async fn status(&self) -> NodeStatus {
        let info = |raft: &str, http: &str| MemberAddr { raft: raft.into(), http: http.into() };
        let members = [("node0", 1, Role::Voter, None), ("node\"1", 2, Role::Learner, Some(7))];
        let members = members.into_iter().map(|(name, id, role, lag_entries)| MemberStatus {
            member: Member { id, name: name.into(), addr: info("r:1", "h:1") },
            role,
            reachable: id == 1,
            lag_entries,
            last_contact_ms: lag_entries.map(|_| 12),
            stays_learner: false,
        });
        let diverged = Divergence { peer: "node\"1".into(), index: 96, is_minority: true };
        let cluster = ClusterStatus {
            cluster_id: "c-1".into(),
            node: Member { id: 1, name: "node0".into(), addr: info("r:1", "h:1") },
            state: RaftState::Leader,
            leadership: self.leadership().as_ref().clone(),
            leads_alone: self.0.leads_alone.load(Ordering::SeqCst),
            members: members.collect(),
            last_log: 120,
            committed: 119,
            applied: 118,
            snapshot: 100,
            purged: 90,
            transfers: vec![TransferStatus {
                peer: "node\"1".into(),
                direction: TransferDirection::Send,
                bytes_done: 10,
                bytes_total: 30,
            }],
            transfer_totals: TransferTotals { sent_bytes: 11, received_bytes: 12, installed: 1 },
            agreement: AgreementStatus { compared_index: 117, diverged: vec![diverged] },
            fatal: None,
        };
        let component = ComponentHealth {
            name: "store",
            state: Health::Degraded,
            restarts: 2,
            since_ms: 1_700_000_000_000,
            reason: Some("slow".into()),
            mailbox_delay: Some(Duration::from_micros(70)),
        };
        let stages = Stages::new(Some(Arc::new(Histogram::new(IO_BOUNDS_US))));
        stages.record(Stage::Queue, Duration::from_micros(40));
        NodeStatus {
            node: NodeInfo {
                name: "node0".into(),
                haddr: "h:1".into(),
                raddr: "r:1".into(),
                version: "0.1.0",
            },
            uptime_ms: 1_500,
            cluster: (!self.0.starting.load(Ordering::SeqCst)).then_some(cluster),
            store: StoreStats {
                revision: self.revision(),
                keys_estimate: 3,
                disk_bytes: 4_096,
                cache: CacheStats { entries: 1, bytes: 2, hits: 3, misses: 4 },
            },
            write_times: Some(stages.snapshot()),
            integrity: Some(IntegrityStatus {
                scrubbed_bytes: 5,
                errors: 1,
                last_scrub_ms: Some(1_500),
                ..IntegrityStatus::default()
            }),
            replication: (!self.0.dispatcher_hangs.load(Ordering::SeqCst))
                .then(|| ReplicationStatus { pending: 7, ..Default::default() }),
            replication_totals: ReplicationTotals { committed: 5, failed: 6, batches: 2, leader_changes: 3 },
            health: HealthReport { state: Health::Degraded, components: vec![component] },
            disk: Some(Measured { free_bytes: 13, total_bytes: 14, read_only: true }),
        }
    }

    async fn liveness(&self, _: Instant) -> Vec<CheckResult> {
        self.pass().await;
        self.0.liveness.lock().unwrap().clone()
    }

    async fn readiness(&self, _: Instant) -> Vec<CheckResult> {
        self.pass().await;
        self.0.readiness.lock().unwrap().clone()
    }

    async fn join(&self, request: JoinRequest, _: Instant) -> Result<JoinReply, AdminError> {
        self.pass().await;
        if let Some(error) = self.0.admin_errors.lock().unwrap().pop_front() {
            return Err(error);
        }
        self.0.joined.lock().unwrap().push(request);
        Ok(JoinReply { cluster_id: "c-1".into(), id: 2, revision: 9 })
    }

    async fn transfer_leader(&self, to: Option<String>, _: Instant) -> Result<String, AdminError> {
        self.pass().await;
        let scripted = self.0.admin_errors.lock().unwrap().pop_front();
        scripted.map_or_else(|| Ok(to.unwrap_or_else(|| "chosen".into())), Err)
    }

    async fn change_member(&self, order: MemberOrder, _: Instant) -> Result<MemberReply, AdminError> {
        self.pass().await;
        if let Some(error) = self.0.admin_errors.lock().unwrap().pop_front() {
            return Err(error);
        }
        let (MemberOrder::Remove { name } | MemberOrder::Promote { name }) = order else {
            panic!("nobody asks for that over HTTP: {order:?}");
        };
        Ok(MemberReply { changed: name != "voter", name, id: 7 })
    }

    fn may_inject_faults(&self) -> bool {
        !self.0.faultless.load(Ordering::SeqCst)
    }

    async fn inject_fault(&self, order: FaultOrder) -> Result<Option<ActiveFault>, FaultRefusal> {
        self.pass().await;
        if let Some(refusal) = self.0.fault_refusals.lock().unwrap().pop_front() {
            return Err(refusal);
        }
        let FaultOrder::Timed { kind, duration } = order else {
            self.0.struck.lock().unwrap().push(order);
            return Ok(None);
        };
        let too_many = FaultRefusal::TooMany { faults_max: FAULTS_MAX };
        let id = self.0.faults.inject(kind, duration).ok_or(too_many)?;
        Ok(self.active_faults().into_iter().find(|fault| fault.id == id))
    }

    fn active_faults(&self) -> Vec<ActiveFault> {
        self.0.faults.active()
    }

    fn clear_faults(&self, id: Option<u64>) -> usize {
        self.0.faults.clear(id)
    }

    async fn ask_member(
        &self,
        address: String,
        what: String,
        body: Vec<u8>,
        _: Instant,
    ) -> Result<PeerAnswer, String> {
        self.0.asked.lock().unwrap().push((address, what));
        self.0.asked_bodies.lock().unwrap().push(body);
        self.0.peer_answer.lock().unwrap().clone().unwrap_or_else(|| Err("nobody is there".into()))
    }

    fn leadership(&self) -> Arc<Leadership> {
        Arc::clone(&self.0.leadership.lock().unwrap())
    }

    fn revision(&self) -> Revision {
        self.0.revision.load(Ordering::SeqCst)
    }
}
