//! The words that the log, the state machine and snapshots share.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use vaultdb_kv::{Command, NodeId, Revision};

use bytes::Bytes;

/// Place of an entry in the log. Ordered by term, then index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct LogId {
    pub term: u64,
    pub index: u64,
}

/// Raft's hard state (Ongaro and Ousterhout 2014, figure 2): whom this node voted for in a term, and
/// whether that vote is known to have won.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Vote {
    pub term: u64,
    pub node_id: NodeId,
    pub committed: bool,
}

/// What an entry asks of the state machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Moves only the applied log id.
    Blank,
    /// Shared: the log and the streams to peers hold the same command.
    Command(Arc<Command>),
    /// The consensus layer's own encoding of a membership; stored, never looked into.
    Membership(Bytes),
}

/// How far the state machine has come.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct AppliedState {
    pub log_id: Option<LogId>,
    /// The last applied membership and the entry that carried it.
    pub membership: Option<(LogId, Bytes)>,
    pub revision: Revision,
}
