//! What the routes need of the node behind them, and nothing more.
//!
//! A trait with `impl Future` answers: the routes are generic over it, so a call costs what the actors'
//! own method costs, and tests stand a fake in its place.

use std::future::Future;
use std::sync::Arc;
use std::time::Instant;

use vaultdb_kv::{
    AdminError, Applied, Command, Freshness, Key, Page, PageRequest, ReadError, Revision, WriteError,
};

use crate::model::{
    ActiveFault, CheckResult, EntryFate, EventRing, FaultOrder, FaultRefusal, JoinReply, JoinRequest,
    Leadership, Listing, Listings, LogId, MemberOrder, MemberReply, NodeStatus, PeerAnswer, ReadAnswer,
    ScanFrom,
};

/// One web worker's door to the node. Made on that worker's thread and never leaves it.
///
/// Every wait ends at its deadline. A future may be dropped at any point, when a client goes away.
pub trait Backend: 'static {
    /// Replicates one command; answers once it is applied.
    fn submit(
        &self,
        command: Command,
        deadline: Instant,
    ) -> impl Future<Output = Result<Applied, WriteError>>;

    /// Replicates one command; answers once the leader has it durably in its own log, and where.
    fn accept(&self, command: Command, deadline: Instant) -> impl Future<Output = Result<LogId, WriteError>>;

    /// What became of a log entry, and the revision of the state that tells it.
    fn fate(
        &self,
        entry: LogId,
        freshness: Freshness,
        deadline: Instant,
    ) -> impl Future<Output = Result<(EntryFate, Revision), ReadError>>;

    fn read(
        &self,
        key: Key,
        freshness: Freshness,
        deadline: Instant,
    ) -> impl Future<Output = Result<ReadAnswer, ReadError>>;

    /// One page of a listing: of a new one, or of one that goes on.
    fn scan(
        &self,
        from: ScanFrom,
        request: PageRequest,
        deadline: Instant,
    ) -> impl Future<Output = Result<(Listing, Page), ReadError>>;

    /// The listings of this node that wait to go on.
    fn listings(&self) -> &Listings;

    /// What the node saw and did: read from memory, also while an actor hangs.
    fn events(&self) -> &EventRing;

    /// The node's view of itself and its cluster, from memory: answered without a quorum too.
    fn status(&self) -> impl Future<Output = NodeStatus>;

    /// Every check of `livez`, each ended by the deadline.
    fn liveness(&self, deadline: Instant) -> impl Future<Output = Vec<CheckResult>>;

    /// Every check of `readyz`, likewise.
    fn readiness(&self, deadline: Instant) -> impl Future<Output = Vec<CheckResult>>;

    /// Adds a member. Idempotent.
    fn join(
        &self,
        request: JoinRequest,
        deadline: Instant,
    ) -> impl Future<Output = Result<JoinReply, AdminError>>;

    /// Moves leadership to the named member, or to one of the node's choice; answers its name.
    fn transfer_leader(
        &self,
        to: Option<String>,
        deadline: Instant,
    ) -> impl Future<Output = Result<String, AdminError>>;

    /// Removes or promotes a member.
    fn change_member(
        &self,
        order: MemberOrder,
        deadline: Instant,
    ) -> impl Future<Output = Result<MemberReply, AdminError>>;

    /// Whether faults may be injected at all.
    fn may_inject_faults(&self) -> bool;

    /// Lets something go wrong; answers with the fault, if it lasts and can be cleared.
    fn inject_fault(
        &self,
        order: FaultOrder,
    ) -> impl Future<Output = Result<Option<ActiveFault>, FaultRefusal>>;

    /// The faults that are on and can be cleared, oldest first.
    fn active_faults(&self) -> Vec<ActiveFault>;

    /// Ends one fault, or all; tells how many.
    fn clear_faults(&self, id: Option<u64>) -> usize;

    /// One HTTP request to a member's own edge; `what` is its method and target.
    ///
    /// # Errors
    /// In words, when there is no whole answer by the deadline.
    fn ask_member(
        &self,
        address: String,
        what: String,
        body: Vec<u8>,
        deadline: Instant,
    ) -> impl Future<Output = Result<PeerAnswer, String>>;

    /// Who leads, as this node sees it. Asked for each answer, so it must be cheap.
    fn leadership(&self) -> Arc<Leadership>;

    /// Revision of the local store. Asked for each answer that reflects no particular one.
    fn revision(&self) -> Revision;
}
