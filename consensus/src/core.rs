//! What the parts of a running node share: the Raft handle, the store, the links, and the views that
//! are kept of them.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::ClientWriteError;
use openraft::raft::linearizable_read::LinearizerOption;
use openraft::ReadPolicy;
use tokio::sync::{watch, Mutex, Semaphore};
use tokio::time::{timeout, timeout_at};
use vaultdb_kv::{failpoint, Command, NodeId, Room};
use vaultdb_storage::StateMachine;

use crate::agreement::Agreement;
use crate::api::{Committed, Leader, Leadership, ProposeError};
use crate::campaign::ElectionClock;
use crate::contacts::Contacts;
use crate::formation::Founder;
use crate::identity::Member;
use crate::integrity::Integrity;
use crate::network::{Lane, Links};
use crate::node::Timing;
use crate::quarantine;
use crate::snapshot::receive::Reception;
use crate::snapshot::transfers::Transfers;
use crate::stages::Stages;
use crate::tending::Autopilot;
use crate::types::{log_id, Raft, SharedCommand};
use crate::watchdog::LogProgress;
use crate::wire::{Proof, Request, Response};

/// Longest wait for the mark of a node that must end. Without it the damage is found again.
const MARK_MAX: Duration = Duration::from_secs(2);

pub struct Core {
    pub me: Member,
    /// `None` when everything is in memory.
    pub data_dir: Option<PathBuf>,
    /// Who formed the cluster together with this node; empty where it made it alone or joined it.
    pub founders: Vec<Founder>,
    pub raft: Raft,
    pub store: Arc<StateMachine>,
    pub links: Arc<Links>,
    pub contacts: Arc<Contacts>,
    /// Snapshots on their way to and from this node.
    pub transfers: Arc<Transfers>,
    /// The snapshot that this node receives.
    pub reception: Reception,
    /// Since when no leader was heard.
    pub election_clock: ElectionClock,
    /// Index of the last applied entry, whose effect is readable.
    pub applied: watch::Receiver<u64>,
    pub integrity: Arc<Integrity>,
    pub stages: Arc<Stages>,
    /// Whether this node has room for more data.
    pub room: Arc<Room>,
    /// How this node's state compares with the others'.
    pub agreement: Agreement,
    /// What waits for the log's disk.
    pub log_progress: Arc<LogProgress>,
    pub leadership: watch::Sender<Arc<Leadership>>,
    /// Why this node must not go on, once it has been told: see [`crate::standing`].
    pub dismissed: watch::Sender<Option<String>>,
    /// Why consensus stopped for good, once it has.
    pub fatal: watch::Sender<Option<String>>,
    /// Places for accepted writes whose outcome is open, one a KiB.
    pub unsettled: Arc<Semaphore>,
    /// Held by the one change of membership that runs at a time.
    pub membership_change: Mutex<()>,
    pub timing: Timing,
    pub autopilot: Autopilot,
    /// Whether a node asks for votes in vain before it raises the term.
    pub pre_vote: bool,
    /// Before this no vote is given: a lease that this node granted before it was restarted may last until then.
    pub free_to_vote: Instant,
    /// When this process began: what its clock counts from as a leader.
    pub started: Instant,
    /// The same in Unix milliseconds.
    pub since_ms: u64,
    /// When a leader was last heard of, in milliseconds after `started`.
    pub led_ms: AtomicU64,
    /// Whether this node looks for its peers: see [`crate::announce`].
    pub seeking: AtomicBool,
    /// The consensus runtime.
    pub runtime: tokio::runtime::Handle,
}

impl Core {
    pub fn leadership(&self) -> Arc<Leadership> {
        self.leadership.borrow().clone()
    }

    /// Gives this node's data up: nothing is answered from them any more, they are marked, and the process ends with
    /// 70. The next start sets them aside and rebuilds the node from its peers, see [`crate::quarantine`]. From any
    /// thread; returns at once.
    pub fn quarantine(&self, reason: &str) {
        self.store.condemn(reason);
    }

    /// Marks the data if they were found corrupt, before the process ends.
    pub async fn mark_corruption(&self) -> Option<String> {
        let reason = self.store.corruption()?;
        if let Some(dir) = self.data_dir.clone() {
            let text = reason.clone();
            let marked = tokio::task::spawn_blocking(move || quarantine::mark(&dir, &text));
            match timeout(MARK_MAX, marked).await {
                Ok(Ok(Ok(()))) => {}
                Ok(Ok(Err(e))) => log::error!("{e}"),
                Ok(Err(e)) => log::error!("marking the data as corrupt: {e}"),
                Err(_) => log::error!("marking the data as corrupt takes longer than {MARK_MAX:?}"),
            }
        }
        Some(reason)
    }

    /// Proposes on this node; each answer comes once its command is applied here.
    ///
    /// A batch is appended as one: either all of it reached the log or none.
    pub async fn propose(
        &self,
        commands: impl ExactSizeIterator<Item = SharedCommand>,
        deadline: Instant,
    ) -> Vec<Result<Committed, ProposeError>> {
        let count = commands.len();
        let unknown = |reason: &str| ProposeError::Unknown { reason: reason.to_owned() };
        let commands = marked(commands, Instant::now()).map(|command| self.stamped(command));
        failpoint::reach("write-handed");
        // A closed channel means that the core never received the batch.
        let Ok(mut answers) = self.raft.client_write_many(commands).await else {
            return vec![Err(ProposeError::Stopping); count];
        };
        let mut results = Vec::with_capacity(count);
        while results.len() < count {
            results.push(match timeout_at(deadline.into(), answers.next()).await {
                Ok(Some(Ok(Ok(written)))) => {
                    Ok(Committed { log_id: log_id(&written.log_id), applied: written.response })
                }
                Ok(Some(Ok(Err(e)))) => Err(propose_error(e)),
                Ok(Some(Err(fatal))) => Err(unknown(&fatal.to_string())),
                Ok(None) => Err(unknown("consensus stopped")),
                Err(_) => {
                    results.resize(count, Err(unknown("not committed before the deadline")));
                    break;
                }
            });
        }
        results
    }

    /// Puts the leader's clock onto a named write: the replicated state measures time by it.
    fn stamped(&self, mut command: SharedCommand) -> SharedCommand {
        if matches!(&*command.0, Command::Guarded(guarded) if guarded.attempt.is_some()) {
            if let Command::Guarded(guarded) = Arc::make_mut(&mut command.0) {
                if let Some(attempt) = &mut guarded.attempt {
                    let since_start = self.started.elapsed().as_millis();
                    attempt.leader_ms = u64::try_from(since_start).unwrap_or(u64::MAX);
                }
            }
        }
        command
    }

    /// Index up to which this leader's state must be applied before a read that begins now. By
    /// [`Proof::Quorum`] a quorum has confirmed the leadership after the call began.
    ///
    /// # Errors
    /// In words, when this node does not lead or no quorum confirms it in time.
    pub async fn read_index_local(&self, proof: Proof) -> Result<u64, String> {
        let wanted = match proof {
            Proof::Quorum => LinearizerOption::from(ReadPolicy::ReadIndex),
            // Asks a quorum, as above, where the lease has run out.
            Proof::Lease => LinearizerOption::new(Some(self.timing.read_lease()), true),
        };
        match self.raft.get_read_linearizer(wanted).await {
            Ok(linearizer) => Ok(linearizer.read_log_id().index()),
            Err(e) => Err(e.to_string()),
        }
    }

    /// The read index from whoever leads: one question to the leader at most.
    ///
    /// # Errors
    /// In words, when there is no leader or it does not confirm.
    pub async fn read_index(&self, proof: Proof) -> Result<u64, String> {
        let leadership = self.leadership();
        let Some(leader) = &leadership.leader else { return Err("no leader is known".into()) };
        if leadership.is_local {
            return self.read_index_local(proof).await;
        }
        match self.link(leader).call(Request::ReadIndex(proof)).await {
            Ok(Response::ReadIndex(index)) => Ok(index),
            Ok(Response::Refused(reason)) => Err(reason),
            Ok(other) => Err(format!("unexpected answer {other:?}")),
            Err(e) => Err(e.to_string()),
        }
    }

    /// The control link to the leader.
    pub fn link(&self, leader: &Leader) -> crate::link::Link {
        self.links.get(leader.id, &leader.addr.raft, Lane::Control)
    }

    /// Where a member's Raft port is.
    pub fn raft_addr(&self, id: NodeId) -> Option<String> {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        metrics.membership_config.get_node(&id).map(|node| node.addr.raft.clone())
    }
}

pub fn propose_error(e: ClientWriteError<crate::types::TypeConfig>) -> ProposeError {
    match e {
        // Refused before anything was appended (openraft's contract of a batch write).
        ClientWriteError::ForwardToLeader(_) => ProposeError::NotLeader,
        // Truncated here, but another node may still hold the entry and commit it.
        ClientWriteError::LogEntryDiscarded(e) => ProposeError::Unknown { reason: e.to_string() },
        ClientWriteError::ChangeMembershipError(e) => ProposeError::Unknown { reason: e.to_string() },
        ClientWriteError::PreconditionFailed(e) => ProposeError::Unknown { reason: e.to_string() },
    }
}

/// Marks a batch, on its first command, with when it was handed over; an earlier mark stays.
pub fn marked(
    commands: impl ExactSizeIterator<Item = SharedCommand>,
    handed_over: Instant,
) -> impl ExactSizeIterator<Item = SharedCommand> {
    commands.enumerate().map(move |(place, command)| match place {
        0 => command.handed_over(handed_over),
        _ => command,
    })
}

pub fn shared(commands: Vec<Arc<Command>>) -> impl ExactSizeIterator<Item = SharedCommand> {
    commands.into_iter().map(SharedCommand::new)
}
