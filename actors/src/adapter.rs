//! Consensus and its store as the actors' port sees them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use futures::FutureExt;
use tokio::sync::watch;
use vaultdb_consensus::api::{ClusterStatus, JoinReply, JoinRequest, Leadership, MemberOrder, MemberReply};
use vaultdb_consensus::stages::Stages;
use vaultdb_consensus::{Consensus, IntegrityStatus};
use vaultdb_kv::{
    AdminError, Command, Freshness, Key, NodeId, Page, PageRequest, ReadError, Revision, Versioned,
};
use vaultdb_storage::{StateMachine, StorageError, View as StoreView};

use crate::port::{Acceptances, EntryFate, LogId, Lookup, Node, Outcomes, Standstill, StoreStats, View};

/// Longest wait until the files of the store stay as they are.
const SETTLE_MAX: Duration = Duration::from_secs(10);

/// Consensus together with its store, which every read needs at once.
pub(crate) struct ConsensusNode {
    consensus: Consensus,
    store: Arc<StateMachine>,
}

impl ConsensusNode {
    pub fn new(consensus: Consensus) -> Self {
        let store = consensus.store();
        Self { consensus, store }
    }
}

fn unfit(error: StorageError) -> ReadError {
    ReadError::Store { reason: error.to_string() }
}

impl View for StoreView {
    fn revision(&self) -> Revision {
        StoreView::revision(self)
    }

    fn log_id(&self) -> Option<LogId> {
        StoreView::log_id(self)
    }

    fn page(&self, request: &PageRequest) -> Result<Page, ReadError> {
        StoreView::page(self, request).map_err(unfit)
    }
}

impl Node for ConsensusNode {
    fn leadership(&self) -> Arc<Leadership> {
        self.consensus.leadership()
    }

    fn subscribe_leadership(&self) -> watch::Receiver<Arc<Leadership>> {
        self.consensus.subscribe_leadership()
    }

    fn propose(
        &self,
        batch: Vec<Arc<Command>>,
        since: Instant,
        deadline: Instant,
    ) -> BoxFuture<'static, Outcomes> {
        let consensus = self.consensus.clone();
        async move { consensus.propose(batch, since, deadline).await }.boxed()
    }

    fn forward(
        &self,
        to: NodeId,
        batch: Vec<Arc<Command>>,
        deadline: Instant,
    ) -> BoxFuture<'static, Outcomes> {
        let consensus = self.consensus.clone();
        async move { consensus.forward(to, batch, deadline).await }.boxed()
    }

    fn accept(
        &self,
        to: Option<NodeId>,
        batch: Vec<Arc<Command>>,
        deadline: Instant,
    ) -> BoxFuture<'static, Acceptances> {
        let consensus = self.consensus.clone();
        async move {
            match to {
                Some(to) => consensus.forward_accept(to, batch, deadline).await,
                None => consensus.accept(batch, deadline).await,
            }
        }
        .boxed()
    }

    fn fate(&self, entry: LogId) -> EntryFate {
        self.store.fate(entry)
    }

    fn is_fresh(&self, wanted: &Freshness) -> bool {
        self.consensus.is_fresh(wanted)
    }

    fn freshen(&self, wanted: Freshness, deadline: Instant) -> BoxFuture<'static, Result<(), ReadError>> {
        let consensus = self.consensus.clone();
        async move { consensus.freshen(&wanted, deadline).await }.boxed()
    }

    fn join(
        &self,
        request: JoinRequest,
        deadline: Instant,
    ) -> BoxFuture<'static, Result<JoinReply, AdminError>> {
        let consensus = self.consensus.clone();
        async move { consensus.join(request, deadline).await }.boxed()
    }

    fn transfer_leader(
        &self,
        to: Option<String>,
        deadline: Instant,
    ) -> BoxFuture<'static, Result<String, AdminError>> {
        let consensus = self.consensus.clone();
        async move { consensus.transfer_leader(to, deadline).await }.boxed()
    }

    fn change_member(
        &self,
        order: MemberOrder,
        deadline: Instant,
    ) -> BoxFuture<'static, Result<MemberReply, AdminError>> {
        let consensus = self.consensus.clone();
        async move { consensus.change_member(order, deadline).await }.boxed()
    }

    fn status(&self) -> ClusterStatus {
        self.consensus.status()
    }

    fn failed(&self) -> BoxFuture<'static, String> {
        let consensus = self.consensus.clone();
        async move { consensus.failed().await }.boxed()
    }

    fn revision(&self) -> Revision {
        self.store.revision()
    }

    fn try_get(&self, key: &Key) -> Result<Lookup, ReadError> {
        self.store.try_get(key).map_err(unfit)
    }

    fn get(&self, key: &Key) -> Result<Option<Versioned>, ReadError> {
        self.store.get(key).map_err(unfit)
    }

    fn view(&self) -> Result<Box<dyn View>, ReadError> {
        self.store.view().map(|view| Box::new(view) as Box<dyn View>).map_err(unfit)
    }

    fn flip_state(&self) -> Result<(), ReadError> {
        self.store.flip_state().map_err(unfit)
    }

    fn settle_store(&self) -> Result<(), ReadError> {
        self.store.settle(SETTLE_MAX).map_err(unfit)
    }

    fn stages(&self) -> &Stages {
        self.consensus.stages()
    }

    fn store_stats(&self) -> StoreStats {
        self.store.stats()
    }

    fn standstill(&self) -> Standstill {
        Standstill { log: self.consensus.log_standstill(), store: self.store.writes_waiting() }
    }

    fn integrity(&self) -> IntegrityStatus {
        self.consensus.integrity()
    }
}
