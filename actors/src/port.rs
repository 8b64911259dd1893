//! What the actors ask of consensus and of the store, as one object-safe trait.
//!
//! Invariant: every future returned here ends by its deadline, and an outcome says truthfully what the
//! caller may conclude. Must never know actix, so that a test can stand in for a whole cluster.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use tokio::sync::watch;
use vaultdb_consensus::api::{
    ClusterStatus, Committed, JoinReply, JoinRequest, Leadership, MemberOrder, MemberReply, ProposeError,
};
use vaultdb_consensus::stages::Stages;
use vaultdb_consensus::IntegrityStatus;
use vaultdb_kv::{
    AdminError, Command, Freshness, Key, NodeId, Page, PageRequest, ReadError, Revision, Versioned,
};

pub use vaultdb_storage::{CacheStats, EntryFate, LogId, Lookup, StoreStats};

/// One outcome for each command of a batch, in its order.
pub type Outcomes = Vec<Result<Committed, ProposeError>>;

/// Where in the leader's log each command of a batch is, in its order.
pub type Acceptances = Vec<Result<LogId, ProposeError>>;

/// The local store as it was at one revision, whatever is written meanwhile. What it holds on to is let go
/// when it is dropped, which waits for nothing.
pub trait View: Send + Sync + 'static {
    fn revision(&self) -> Revision;
    /// The last log entry that it holds; `None` before the first.
    fn log_id(&self) -> Option<LogId>;
    /// May read the disk: only on a blocking thread.
    ///
    /// # Errors
    /// [`ReadError::Store`].
    fn page(&self, request: &PageRequest) -> Result<Page, ReadError>;
}

/// For how long what was handed to the disks has been waiting for them; zero where nothing waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Standstill {
    /// The Raft log has made nothing durable meanwhile.
    pub log: Duration,
    /// The oldest applied write is not in the store's engine yet.
    pub store: Duration,
}

/// A node's consensus and the store that it feeds. Usable from any thread.
pub trait Node: Send + Sync + 'static {
    /// Cheap enough for each request.
    fn leadership(&self) -> Arc<Leadership>;
    fn subscribe_leadership(&self) -> watch::Receiver<Arc<Leadership>>;
    /// Replicates on this node as leader. `since` is when the batch was handed over, for the metrics.
    fn propose(
        &self,
        batch: Vec<Arc<Command>>,
        since: Instant,
        deadline: Instant,
    ) -> BoxFuture<'static, Outcomes>;
    /// Hands the batch to `to`, one hop over the Raft port.
    fn forward(
        &self,
        to: NodeId,
        batch: Vec<Arc<Command>>,
        deadline: Instant,
    ) -> BoxFuture<'static, Outcomes>;
    /// As `propose`, or as `forward` to a leader elsewhere, but each is answered once it is durable in the
    /// leader's own log.
    fn accept(
        &self,
        to: Option<NodeId>,
        batch: Vec<Arc<Command>>,
        deadline: Instant,
    ) -> BoxFuture<'static, Acceptances>;
    /// What became of a log entry, as far as this node has applied. From memory.
    fn fate(&self, entry: LogId) -> EntryFate;
    /// Whether the local store may be read as it is; cheap enough for each request.
    fn is_fresh(&self, wanted: &Freshness) -> bool;
    /// Ends once the local store is as fresh as wanted.
    fn freshen(&self, wanted: Freshness, deadline: Instant) -> BoxFuture<'static, Result<(), ReadError>>;
    fn join(
        &self,
        request: JoinRequest,
        deadline: Instant,
    ) -> BoxFuture<'static, Result<JoinReply, AdminError>>;
    /// Answers with the new leader's name.
    fn transfer_leader(
        &self,
        to: Option<String>,
        deadline: Instant,
    ) -> BoxFuture<'static, Result<String, AdminError>>;
    /// Removes or promotes a member.
    fn change_member(
        &self,
        order: MemberOrder,
        deadline: Instant,
    ) -> BoxFuture<'static, Result<MemberReply, AdminError>>;
    /// From memory.
    fn status(&self) -> ClusterStatus;
    /// Ends with the reason once consensus has stopped for good.
    fn failed(&self) -> BoxFuture<'static, String>;
    /// The local store's revision; cheap enough for each request.
    fn revision(&self) -> Revision;
    /// Never touches the disk.
    ///
    /// # Errors
    /// [`ReadError::Store`].
    fn try_get(&self, key: &Key) -> Result<Lookup, ReadError>;
    /// May read the disk: only on a blocking thread.
    ///
    /// # Errors
    /// [`ReadError::Store`].
    fn get(&self, key: &Key) -> Result<Option<Versioned>, ReadError>;
    /// The local store as it is now. Holds every write that was applied before the call. May wait for the
    /// disk: only on a blocking thread.
    ///
    /// # Errors
    /// [`ReadError::Store`].
    fn view(&self) -> Result<Box<dyn View>, ReadError>;
    /// Writes out what the store has in memory alone, and waits until its files stay as they are. Waits for the disk: only
    /// on a blocking thread.
    ///
    /// # Errors
    /// [`ReadError::Store`].
    fn settle_store(&self) -> Result<(), ReadError> {
        Ok(())
    }
    /// Disturbs the local state as a flipped bit would; only where faults may be injected. May wait for the disk: only
    /// on a blocking thread.
    ///
    /// # Errors
    /// [`ReadError::Store`].
    fn flip_state(&self) -> Result<(), ReadError> {
        Err(ReadError::Store { reason: "this node's state cannot be disturbed".into() })
    }
    /// How long writes take; recording there never waits for a disk or a network.
    fn stages(&self) -> &Stages;
    /// From memory.
    fn store_stats(&self) -> StoreStats;
    /// From memory.
    fn standstill(&self) -> Standstill;
    fn integrity(&self) -> IntegrityStatus {
        IntegrityStatus::default()
    }
}
