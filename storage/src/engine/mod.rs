//! The engine under the state machine: RocksDB, or a map in memory, behind one trait.
//!
//! Invariant: `write` is atomic: after a crash all of one call is there, or nothing of it.

pub(crate) mod generations;
pub(crate) mod layout;
mod manifest;
pub(crate) mod memory;
pub(crate) mod rocks;
pub(crate) mod staged;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use hashbrown::HashMap;
use serde::{Deserialize, Serialize};
use vaultdb_kv::{Key, MemberAddr, NodeId, Revision, Value, Versioned};

use crate::attempts::{AttemptChanges, Attempts};
use crate::chain::{Chain, Checkpoint};
use crate::error::StorageError;
use crate::state_machine::Lookup;
use crate::terms::TermHistory;
use crate::types::{AppliedState, LogId};

/// A node's latest registration under its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Registration {
    pub(crate) id: NodeId,
    pub(crate) instance: Option<String>,
    pub(crate) addr: MemberAddr,
}

/// Everything in the state machine besides the keys.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Meta {
    pub(crate) applied: AppliedState,
    /// The highest id that was ever allotted; 0 before the first.
    pub(crate) last_node_id: NodeId,
    pub(crate) registrations: BTreeMap<String, Registration>,
    pub(crate) attempts: Attempts,
    pub(crate) terms: TermHistory,
    pub(crate) chain: Chain,
}

/// One atomic write: the outcome of a run of entries.
#[derive(Debug, Default)]
pub(crate) struct Changes<'a> {
    /// What each touched key holds at the end of the run; `None` when it was deleted.
    pub(crate) data: HashMap<&'a Key, Option<(Revision, &'a Value)>>,
    pub(crate) log_id: LogId,
    pub(crate) revision: Revision,
    pub(crate) membership: Option<(LogId, Bytes)>,
    pub(crate) registered: BTreeMap<&'a str, Registration>,
    pub(crate) last_node_id: NodeId,
    pub(crate) attempts: AttemptChanges,
    /// Terms that began, each with the index of its first entry.
    pub(crate) terms: Vec<(u64, u64)>,
    /// As it is at the end of the run.
    pub(crate) chain: Chain,
    /// Those within the run.
    pub(crate) checkpoints: Vec<Checkpoint>,
}

impl Changes<'_> {
    /// Whether only keys change, and how far entries are applied.
    pub(crate) fn is_data_only(&self, before: &Meta) -> bool {
        self.membership.is_none()
            && self.registered.is_empty()
            && self.terms.is_empty()
            && before.terms.surplus(0).next().is_none()
            && self.attempts.is_empty(&before.attempts)
    }
}

impl Meta {
    /// What this becomes by a write of `changes`.
    pub(crate) fn advance(&mut self, changes: &Changes<'_>) {
        self.applied.log_id = Some(changes.log_id);
        self.applied.revision = changes.revision;
        if let Some(membership) = &changes.membership {
            self.applied.membership = Some(membership.clone());
        }
        self.chain = changes.chain;
        self.last_node_id = changes.last_node_id;
        for (name, registration) in &changes.registered {
            self.registrations.insert((*name).to_owned(), registration.clone());
        }
        if !changes.attempts.is_empty(&self.attempts) {
            self.attempts.advance(&changes.attempts);
        }
        let surplus: Vec<u64> = self.terms.surplus(changes.terms.len()).collect();
        surplus.into_iter().for_each(|term| self.terms.remove(term));
        changes.terms.iter().for_each(|(term, first)| self.terms.insert(*term, *first));
    }
}

/// Figures that may cost a look at the disk.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Gauge {
    pub(crate) keys_estimate: u64,
    pub(crate) disk_bytes: u64,
    /// Flushes and compactions that failed since it was opened.
    pub(crate) background_errors: u64,
}

pub(crate) trait Engine: Send + Sync {
    fn get(&self, key: &[u8]) -> Result<Option<Versioned>, StorageError>;
    /// Never reads the disk.
    fn try_get(&self, key: &[u8]) -> Result<Lookup, StorageError>;
    /// Revision of a key that is present.
    fn revision_of(&self, key: &[u8]) -> Result<Option<Revision>, StorageError>;
    /// `before` is the meta that `changes` were worked out from.
    fn write(&self, before: &Meta, changes: &Changes<'_>) -> Result<(), StorageError>;
    /// Writes unless that would have to wait; `false` when it would, and nothing was changed.
    fn try_write(&self, before: &Meta, changes: &Changes<'_>) -> Result<bool, StorageError>;
    fn load_meta(&self) -> Result<Meta, StorageError>;
    /// Returns once everything written is durable.
    fn flush(&self) -> Result<(), StorageError>;
    fn gauge(&self) -> Result<Gauge, StorageError>;
}

/// The engine in use. Cloning shares it.
#[derive(Clone)]
pub(crate) enum EngineHandle {
    Rocks(Arc<staged::StagedEngine>),
    Memory(Arc<memory::MemoryEngine>),
}

impl std::ops::Deref for EngineHandle {
    type Target = dyn Engine;

    fn deref(&self) -> &Self::Target {
        match self {
            EngineHandle::Rocks(engine) => engine.as_ref(),
            EngineHandle::Memory(engine) => engine.as_ref(),
        }
    }
}
