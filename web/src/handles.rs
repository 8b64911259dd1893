//! The backend that a running node has: each call is a message to an actor.

use std::sync::Arc;
use std::time::Instant;

use vaultdb_actors::WorkerHandles;
use vaultdb_kv::{
    AdminError, Applied, Command, Freshness, Key, Page, PageRequest, ReadError, Revision, WriteError,
};

use crate::backend::Backend;
use crate::model::{
    ActiveFault, CheckResult, EntryFate, EventRing, FaultOrder, FaultRefusal, JoinReply, JoinRequest,
    Leadership, Listing, Listings, LogId, MemberOrder, MemberReply, NodeStatus, PeerAnswer, ReadAnswer,
    ScanFrom,
};

// Inherent methods of the same names do the work: paths, not method calls, so that none calls itself.
impl Backend for WorkerHandles {
    async fn submit(&self, command: Command, deadline: Instant) -> Result<Applied, WriteError> {
        WorkerHandles::submit(self, command, deadline).await.map(|committed| committed.applied)
    }

    async fn accept(&self, command: Command, deadline: Instant) -> Result<LogId, WriteError> {
        WorkerHandles::accept(self, command, deadline).await
    }

    async fn fate(
        &self,
        entry: LogId,
        freshness: Freshness,
        deadline: Instant,
    ) -> Result<(EntryFate, Revision), ReadError> {
        WorkerHandles::fate(self, entry, freshness, deadline).await
    }

    async fn read(&self, key: Key, freshness: Freshness, deadline: Instant) -> Result<ReadAnswer, ReadError> {
        WorkerHandles::read(self, key, freshness, deadline).await
    }

    async fn scan(
        &self,
        from: ScanFrom,
        request: PageRequest,
        deadline: Instant,
    ) -> Result<(Listing, Page), ReadError> {
        WorkerHandles::scan(self, from, request, deadline).await
    }

    fn listings(&self) -> &Listings {
        WorkerHandles::listings(self)
    }

    fn events(&self) -> &EventRing {
        WorkerHandles::event_ring(self)
    }

    async fn status(&self) -> NodeStatus {
        WorkerHandles::status(self).await
    }

    async fn liveness(&self, deadline: Instant) -> Vec<CheckResult> {
        WorkerHandles::liveness(self, deadline).await
    }

    async fn readiness(&self, deadline: Instant) -> Vec<CheckResult> {
        WorkerHandles::readiness(self, deadline).await
    }

    async fn join(&self, request: JoinRequest, deadline: Instant) -> Result<JoinReply, AdminError> {
        WorkerHandles::join(self, request, deadline).await
    }

    async fn transfer_leader(&self, to: Option<String>, deadline: Instant) -> Result<String, AdminError> {
        WorkerHandles::transfer_leader(self, to, deadline).await
    }

    async fn change_member(&self, order: MemberOrder, deadline: Instant) -> Result<MemberReply, AdminError> {
        WorkerHandles::change_member(self, order, deadline).await
    }

    fn may_inject_faults(&self) -> bool {
        WorkerHandles::may_inject_faults(self)
    }

    async fn inject_fault(&self, order: FaultOrder) -> Result<Option<ActiveFault>, FaultRefusal> {
        WorkerHandles::inject_fault(self, order).await
    }

    fn active_faults(&self) -> Vec<ActiveFault> {
        WorkerHandles::active_faults(self)
    }

    fn clear_faults(&self, id: Option<u64>) -> usize {
        WorkerHandles::clear_faults(self, id)
    }

    async fn ask_member(
        &self,
        address: String,
        what: String,
        body: Vec<u8>,
        deadline: Instant,
    ) -> Result<PeerAnswer, String> {
        vaultdb_actors::ask_member(&address, &what, &body, deadline).await
    }

    fn leadership(&self) -> Arc<Leadership> {
        WorkerHandles::leadership(self)
    }

    fn revision(&self) -> Revision {
        WorkerHandles::revision(self)
    }
}
