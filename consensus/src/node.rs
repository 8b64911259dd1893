//! The handle to consensus, and the thread it runs on.
//!
//! Raft has a thread and a single-threaded runtime of its own: its tasks batch better that way, and
//! heartbeats never wait behind HTTP. Everything else talks to it through this handle.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use openraft::async_runtime::WatchReceiver;
use openraft::{Config, SnapshotPolicy};
use parking_lot::Mutex;
use tokio::sync::{watch, Semaphore};
use vaultdb_kv::{AdminError, Command, Faults, Freshness, MemberAddr, NodeId, ReadError, Room};
use vaultdb_storage::{LogOptions, StateMachine, StorageError, StoreOptions};

use crate::acceptance::{millis_until, UNSETTLED_KIB_MAX};
use crate::agreement::Agreement;
use crate::api::{
    Claim, ClusterStatus, Committed, JoinReply, JoinRequest, Leadership, MemberOrder, MemberReply,
    ProposeError,
};
use crate::barrier::ReadBarrier;
use crate::campaign::{campaign, ElectionClock};
use crate::comparison::compare_replicas;
use crate::contacts::Contacts;
use crate::core::{marked, shared, Core};
use crate::formation::Founder;
use crate::founding::register_early;
use crate::identity::Member;
use crate::integrity::{IntegrityStatus, ScrubOptions};
use crate::log_store::LogAdapter;
use crate::network::{Links, Network};
use crate::pace::watch_pace;
use crate::peer_faults::PeerFaults;
use crate::snapshot::receive::Reception;
use crate::snapshot::throttle::Throttle;
use crate::snapshot::transfers::Transfers;
use crate::stages::Stages;
use crate::state_machine::StateMachineAdapter;
use crate::stores::Stores;
use crate::tending::Autopilot;
use crate::transport::{Accept, Dial};
use crate::types::{PeerNode, Raft};
use crate::watchdog::watch_disk;
use crate::wire::{Request, Response};
use crate::{announce, integrity, members, quarantine, server, status, upkeep};

/// Longest time that handing leadership over may take at shutdown.
const HAND_OVER_MS_MAX: u64 = 2_000;

/// What a node needs to take part.
pub struct ConsensusConfig {
    /// `None` keeps everything in memory.
    pub data_dir: Option<PathBuf>,
    pub me: Member,
    /// This node made the cluster: if it has no log yet, it begins one with itself as the only voter, or with
    /// all of the `founders`.
    pub bootstrap: bool,
    /// The first voters of a cluster that several nodes formed together, this one among them; else empty.
    pub founders: Vec<Founder>,
    /// This node proposed the cluster and has just begun it: it is to lead first, so it does not wait.
    pub founding: bool,
    pub listener: Box<dyn Accept>,
    pub dialler: Arc<dyn Dial>,
    pub raft: RaftOptions,
    pub store: StoreOptions,
    pub log: LogOptions,
    /// Opened ahead, by [`Stores::open`] of the same directory and options; else `start` opens them.
    pub stores: Option<Stores>,
    /// Off, each read pays a round of its own: what sharing is measured against.
    pub share_reads: bool,
    /// Whether this node has room for more data: what it refuses its peers as a leader.
    pub room: Arc<Room>,
    /// What is to go wrong between this node and its peers, for tests and demonstrations.
    pub faults: Arc<Faults>,
}

/// How consensus is tuned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RaftOptions {
    pub timing: Timing,
    /// Off, a node that hears no leader raises the term at once: what pre-vote is measured against.
    pub pre_vote: bool,
    /// Entries between two snapshots.
    pub snapshot_logs_since_last: u64,
    /// Bytes of the log between two snapshots, if that is sooner.
    pub snapshot_bytes_since_last: u64,
    /// Entries kept from before a snapshot, so that a follower that is a little behind needs no snapshot.
    pub snapshot_logs_to_keep: u64,
    /// Bytes of the log kept from before a snapshot, if that is less.
    pub snapshot_bytes_to_keep: u64,
    /// Bytes of snapshots that this node sends in a second, all peers together; 0 is no limit.
    pub snapshot_bytes_per_second_max: u64,
    /// Most entries in one append request.
    pub append_entries_max: u64,
    pub autopilot: Autopilot,
    /// Time between two comparisons of this node's state with the others', in milliseconds; 0: never.
    pub consistency_check_interval_ms: u64,
    pub scrub: ScrubOptions,
}

/// Raft's timeouts, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    pub heartbeat_interval_ms: u64,
    pub election_timeout_ms_min: u64,
    pub election_timeout_ms_max: u64,
}

impl Timing {
    /// How long a leader answers [`vaultdb_kv::Consistency::Lease`] reads after a quorum confirmed it.
    /// Shorter than [`Timing::vote_pause`] by a quarter: so much may one node's clock run faster than
    /// another's.
    pub fn read_lease(&self) -> Duration {
        self.vote_pause() * 3 / 4
    }

    /// How long a node that heard from a leader, or may have before it was restarted, votes for no other:
    /// openraft's lease, which it forgets when the process ends. Nobody campaigns any sooner.
    pub fn vote_pause(&self) -> Duration {
        Duration::from_millis(self.election_timeout_ms_min)
    }

    pub fn election_timeout_max(&self) -> Duration {
        Duration::from_millis(self.election_timeout_ms_max)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory cannot be trusted or read: exit code 70.
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error("the data directory belongs to a member of a cluster, but {} is missing or empty", .0.display())]
    LogMissing(PathBuf),
    /// Found after the stores were open: they are, perhaps, still.
    #[error("{0}")]
    Corrupt(String),
    #[error("consensus: {0}")]
    Raft(String),
    #[error("consensus thread: {0}")]
    Thread(std::io::Error),
}

/// A running node. Cheap to clone; usable from any thread that has a tokio runtime.
#[derive(Clone)]
pub struct Consensus {
    pub(crate) core: Arc<Core>,
    reads: ReadBarrier,
    stop: Arc<watch::Sender<bool>>,
    thread: Arc<Mutex<Option<JoinHandle<()>>>>,
}

fn raft_config(config: &ConsensusConfig) -> Result<Arc<Config>, StartError> {
    let RaftOptions { timing, .. } = config.raft;
    let raft = Config {
        cluster_name: config.me.cluster_id.clone(),
        heartbeat_interval: timing.heartbeat_interval_ms,
        // openraft takes its longest timeout for the lease, and its shortest for how long a vote may take.
        election_timeout_max: timing.election_timeout_ms_min,
        election_timeout_min: timing.election_timeout_ms_min - 1,
        // `campaign` keeps the time, so that an election begins when the lease ends.
        enable_elect: false,
        enable_pre_vote: Some(config.raft.pre_vote),
        enable_leader_restore: Some(false),
        allow_log_reversion: Some(false),
        // Without it, a leader that still reaches one node of a connected majority blocks that
        // majority for ever. openraft asks for at least the lease and one election timeout.
        quorum_loss_probe_interval: Some(timing.election_timeout_ms_max * 2),
        max_payload_entries: config.raft.append_entries_max,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(config.raft.snapshot_logs_since_last),
        replication_lag_threshold: config.raft.snapshot_logs_since_last,
        // `upkeep` purges, which openraft would do by count alone.
        max_in_snapshot_log_to_keep: u64::MAX,
        ..Config::default()
    };
    raft.validate().map(Arc::new).map_err(|e| StartError::Raft(e.to_string()))
}

impl Consensus {
    /// Opens the stores, starts the thread and answers once the node takes part.
    ///
    /// # Errors
    /// See [`StartError`]. Nothing keeps running after one.
    pub fn start(mut config: ConsensusConfig) -> Result<Consensus, StartError> {
        let begun = Instant::now();
        let stores = match config.stores.take() {
            Some(stores) => stores,
            None => Stores::open(config.data_dir.as_deref(), config.store.clone(), config.log.clone())?,
        };
        let (started, result) = std::sync::mpsc::sync_channel(1);
        let (stop, stopping) = watch::channel(false);
        let stop = Arc::new(stop);
        let run = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = match runtime {
                Ok(runtime) => runtime,
                // The receiver waits for exactly one answer; so below.
                Err(e) => return drop(started.send(Err(StartError::Thread(e)))),
            };
            let mut stopping = stopping;
            runtime.block_on(async move {
                match start_core(config, stores, begun).await {
                    Ok(parts) => {
                        drop(started.send(Ok(parts)));
                        // An error means that every handle is gone: stop as well.
                        drop(stopping.wait_for(|stop| *stop).await);
                    }
                    Err(e) => drop(started.send(Err(e))),
                }
            });
            // Bounded: a disk that hangs must not keep the process from ending.
            runtime.shutdown_timeout(Duration::from_millis(HAND_OVER_MS_MAX));
        };
        let thread =
            std::thread::Builder::new().name("raft".into()).spawn(run).map_err(StartError::Thread)?;
        let ended = || StartError::Raft("the consensus thread ended while it started".into());
        let (core, reads) = result.recv().map_err(|_| ended())??;
        Ok(Consensus { core, reads, stop, thread: Arc::new(Mutex::new(Some(thread))) })
    }

    /// Who leads, as this node sees it. Cheap: meant for each request.
    pub fn leadership(&self) -> Arc<Leadership> {
        self.core.leadership()
    }

    pub fn subscribe_leadership(&self) -> watch::Receiver<Arc<Leadership>> {
        self.core.leadership.subscribe()
    }

    /// Proposes on this node as the leader. One answer a command, in order, by the deadline. `since` is when
    /// the batch was handed over, for the metrics.
    pub async fn propose(
        &self,
        batch: Vec<Arc<Command>>,
        since: Instant,
        deadline: Instant,
    ) -> Vec<Result<Committed, ProposeError>> {
        let count = batch.len();
        let core = self.core.clone();
        let commands = marked(shared(batch), since);
        // There, because the answers arrive one by one: the caller's thread is woken once, with all of them.
        let proposed = self.core.runtime.spawn(async move { core.propose(commands, deadline).await });
        proposed.await.unwrap_or_else(|_| {
            vec![Err(ProposeError::Unknown { reason: "the consensus thread ended".into() }); count]
        })
    }

    /// Sends a batch to the leader over the Raft port. One answer a command, in order, by the deadline.
    pub async fn forward(
        &self,
        to: NodeId,
        batch: Vec<Arc<Command>>,
        deadline: Instant,
    ) -> Vec<Result<Committed, ProposeError>> {
        let count = batch.len();
        let commands = shared(batch).collect();
        let request = Request::Propose { commands, deadline_ms: millis_until(deadline) };
        self.forward_request(to, request, count, deadline, |response| match response {
            Response::Propose(results) => Ok(results),
            other => Err(other),
        })
        .await
    }

    /// Whether the local store may be read as it is. Cheap: meant for each read.
    pub fn is_fresh(&self, wanted: &Freshness) -> bool {
        self.reads.is_fresh(wanted)
    }

    /// Returns once the local store is as fresh as wanted.
    ///
    /// # Errors
    /// [`ReadError::NoLeader`] when no confirmed leader was found in time, [`ReadError::TooStale`] likewise
    /// for a read of bounded staleness, [`ReadError::Behind`] when the local store did not catch up,
    /// [`ReadError::Overloaded`], [`ReadError::Unavailable`].
    pub async fn freshen(&self, wanted: &Freshness, deadline: Instant) -> Result<(), ReadError> {
        self.reads.freshen(wanted, deadline).await
    }

    /// Adds a node as a learner; it becomes a voter once it has caught up. Idempotent, on any node.
    ///
    /// # Errors
    /// [`AdminError::Conflict`] when a living member has that name; the others as they say.
    pub async fn join(&self, request: JoinRequest, deadline: Instant) -> Result<JoinReply, AdminError> {
        let core = self.core.clone();
        self.on_runtime(async move { core.join(request, deadline).await }).await
    }

    /// Moves leadership to the named voter, or to the best one; answers with the new leader's name.
    ///
    /// # Errors
    /// As they say.
    pub async fn transfer_leader(&self, to: Option<String>, deadline: Instant) -> Result<String, AdminError> {
        let core = self.core.clone();
        self.on_runtime(async move { core.move_leader(to, deadline).await }).await
    }

    /// Removes or promotes a member. Idempotent but for the removal of a member that is gone. On any node.
    ///
    /// # Errors
    /// [`AdminError::NoSuchMember`], [`AdminError::WouldLoseQuorum`]; the others as they say.
    pub async fn change_member(
        &self,
        order: MemberOrder,
        deadline: Instant,
    ) -> Result<MemberReply, AdminError> {
        let core = self.core.clone();
        self.on_runtime(async move { core.change_member(order, deadline).await }).await
    }

    /// Whether this node has lost its peers, or they it: then [`Consensus::hint`] helps.
    pub fn seeks_peers(&self) -> bool {
        self.core.seeking.load(Ordering::Relaxed)
    }

    /// Where a node that calls itself member of `cluster_id` was seen. Only a hint.
    pub fn hint(&self, cluster_id: &str, seen_at: &str, claim: Claim) {
        if cluster_id != self.core.me.cluster_id {
            self.core.links.book.note_other_cluster(seen_at, cluster_id);
        } else if claim.id != self.core.me.id {
            self.core.links.book.learn(claim, false);
        }
    }

    /// Whether consensus goes on.
    pub fn runs(&self) -> bool {
        self.core.fatal.borrow().is_none() && self.core.dismissed.borrow().is_none()
    }

    /// Resolves with the reason once this node has been told that it must not go on: it was removed, or
    /// its data is another cluster's.
    pub async fn dismissed(&self) -> String {
        let mut dismissed = self.core.dismissed.subscribe();
        match dismissed.wait_for(Option::is_some).await.ok().and_then(|reason| reason.clone()) {
            Some(reason) => reason,
            None => std::future::pending().await,
        }
    }

    /// A caller that goes away must not stop a change half-way, so it runs on a task of its own.
    async fn on_runtime<T: Send + 'static>(
        &self,
        work: impl std::future::Future<Output = Result<T, AdminError>> + Send + 'static,
    ) -> Result<T, AdminError> {
        self.core.runtime.spawn(work).await.map_err(|_| AdminError::Unavailable)?
    }

    /// What is known of this node's data. From memory.
    pub fn integrity(&self) -> IntegrityStatus {
        self.core.integrity.status(&self.core.store)
    }

    pub fn status(&self) -> ClusterStatus {
        self.core.status()
    }

    /// How long writes take on this node.
    pub fn stages(&self) -> &Stages {
        &self.core.stages
    }

    /// For how long the log has made nothing durable though something waits for it. From memory.
    pub fn log_standstill(&self) -> Duration {
        self.core.log_progress.standstill()
    }

    pub fn store(&self) -> Arc<StateMachine> {
        self.core.store.clone()
    }

    /// To be awaited before the process ends by itself: if the data were found corrupt, the mark that keeps the next start
    /// from using them is on disk then, or could not be written within two seconds.
    pub async fn mark_corruption(&self) {
        self.core.mark_corruption().await;
    }

    /// Resolves with the reason once consensus has stopped for good.
    pub async fn failed(&self) -> String {
        let mut fatal = self.core.fatal.subscribe();
        let reason = fatal.wait_for(Option::is_some).await.ok().and_then(|reason| reason.clone());
        reason.unwrap_or_else(|| "consensus stopped".into())
    }

    /// Hands leadership over, stops openraft and flushes the store. Idempotent.
    pub async fn shutdown(&self) {
        if self.core.leadership().is_local {
            if let Some(successor) = self.core.best_successor() {
                let deadline = Instant::now() + Duration::from_millis(HAND_OVER_MS_MAX);
                if let Err(e) = self.core.hand_over(successor, deadline).await {
                    log::warn!("leadership was not handed over: {e}");
                }
            }
        }
        if let Err(e) = self.core.raft.shutdown().await {
            log::warn!("stopping consensus: {e}");
        }
        let store = self.core.store.clone();
        match tokio::task::spawn_blocking(move || store.flush()).await {
            Ok(Ok(())) => {}
            Ok(Err(e)) => log::warn!("flushing the store: {e}"),
            Err(e) => log::warn!("flushing the store: {e}"),
        }
        self.stop.send_replace(true);
        let thread = self.thread.lock().take();
        if let Some(thread) = thread {
            // A panic of that thread was reported when it happened.
            drop(tokio::task::spawn_blocking(move || drop(thread.join())).await);
        }
    }
}

/// The clock of the wall, which orders what one node says before and after a restart.
fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The same on each founder, so that all of their logs begin with the same entry.
fn first_voters(me: &Member, founders: &[Founder]) -> BTreeMap<NodeId, PeerNode> {
    let node = |name: &str, addr: &MemberAddr| PeerNode {
        name: name.to_owned(),
        addr: addr.clone(),
        stays_learner: false,
    };
    match founders {
        [] => BTreeMap::from([(me.id, node(&me.name, &me.addr))]),
        founders => founders.iter().map(|f| (f.id, node(&f.name, &f.addr))).collect(),
    }
}

/// Faults are asked for by name, and the membership knows the names.
fn name_peers(core: &Core) {
    let raft = core.raft.clone();
    core.links.faults.names(move |id| {
        let metrics = raft.server_metrics();
        let metrics = metrics.borrow_watched();
        metrics.membership_config.get_node(&id).map(|node| node.name.clone())
    });
}

/// Why openraft did not start: it reads the log, which may be found damaged only then.
fn start_error(data_dir: Option<&Path>, store: &StateMachine, reason: &str) -> StartError {
    let (Some(dir), Some(corruption)) = (data_dir, store.corruption()) else {
        return StartError::Raft(reason.to_owned());
    };
    match quarantine::mark(dir, &corruption) {
        Ok(()) => StartError::Corrupt(corruption),
        Err(e) => StartError::Corrupt(format!("{corruption}; {e}")),
    }
}

async fn start_core(
    config: ConsensusConfig,
    stores: Stores,
    begun: Instant,
) -> Result<(Arc<Core>, ReadBarrier), StartError> {
    let raft_config = raft_config(&config)?;
    let runtime = tokio::runtime::Handle::current();
    let contacts = Arc::new(Contacts::default());
    let transfers = Arc::new(Transfers::default());
    let (applied_tx, applied) = watch::channel(0);
    let stages = Arc::new(Stages::new(stores.log.fsync_histogram()));
    let links = Links::new(
        &config.me,
        contacts.clone(),
        stages.round_trips.clone(),
        config.dialler,
        runtime.clone(),
        transfers.clone(),
        Arc::new(Throttle::new(config.raft.snapshot_bytes_per_second_max)),
        Arc::new(PeerFaults::new(config.faults)),
    );
    let started = Instant::now();
    // Who never saved a vote never heard a leader. Who did was another process, which ended before this one began.
    let free_to_vote = stores.log.vote().map_or(begun, |_| begun + config.raft.timing.vote_pause());
    let machine = StateMachineAdapter::new(stores.store.clone(), Arc::new(applied_tx), stages.clone())
        .resuming(stores.log.clone(), transfers.clone());
    let log = LogAdapter::new(stores.log.clone(), stages.clone()).condemning(stores.store.clone());
    let log_progress = log.progress();
    let id = config.me.id;
    let raft = match Raft::new(id, raft_config, Network(links.clone()), log, machine).await {
        Ok(raft) => raft,
        Err(e) => return Err(start_error(config.data_dir.as_deref(), &stores.store, &e.to_string())),
    };
    if config.bootstrap && !raft.is_initialized().await.map_err(|e| StartError::Raft(e.to_string()))? {
        raft.initialize(first_voters(&config.me, &config.founders))
            .await
            .map_err(|e| StartError::Raft(e.to_string()))?;
    }
    let mut listener = config.listener;
    listener.start().map_err(StartError::Thread)?;
    let core = Arc::new(Core {
        me: config.me,
        data_dir: config.data_dir.clone(),
        founders: config.founders,
        leadership: watch::channel(Arc::new(status::leadership(&raft, id))).0,
        raft,
        store: stores.store,
        links,
        contacts,
        transfers,
        reception: Reception::default(),
        election_clock: ElectionClock::new(begun, &config.raft.timing),
        applied,
        integrity: Arc::default(),
        stages,
        room: config.room,
        agreement: Agreement::default(),
        log_progress: log_progress.clone(),
        dismissed: watch::channel(None).0,
        fatal: watch::channel(None).0,
        unsettled: Arc::new(Semaphore::new(UNSETTLED_KIB_MAX as usize)),
        membership_change: tokio::sync::Mutex::new(()),
        timing: config.raft.timing,
        autopilot: config.raft.autopilot,
        pre_vote: config.raft.pre_vote,
        free_to_vote,
        started,
        since_ms: unix_ms(),
        led_ms: AtomicU64::new(0),
        seeking: AtomicBool::new(false),
        runtime,
    });
    name_peers(&core);
    tokio::spawn(server::serve(core.clone(), listener));
    tokio::spawn(status::watch_leadership(core.clone()));
    tokio::spawn(status::ping_peers(core.clone()));
    tokio::spawn(core.clone().tend_membership());
    tokio::spawn(integrity::scrub(core.clone(), stores.log.clone(), config.raft.scrub));
    tokio::spawn(upkeep::keep_log_short(core.clone(), stores.log, config.raft));
    tokio::spawn(announce::keep_in_touch(core.clone()));
    tokio::spawn(watch_disk(core.clone(), log_progress));
    tokio::spawn(watch_pace(core.clone()));
    tokio::spawn(compare_replicas(core.clone(), config.raft.consistency_check_interval_ms));
    tokio::spawn(register_early(core.clone()));
    tokio::spawn(campaign(core.clone(), config.founding));
    if let Some(data_dir) = config.data_dir {
        tokio::spawn(integrity::watch_rebuild(core.clone(), data_dir.clone()));
        tokio::spawn(members::keep(core.clone(), data_dir));
    }
    let reads = ReadBarrier::spawn(core.clone(), config.share_reads);
    Ok((core, reads))
}
