//! Errors sorted by what the caller may conclude.
//!
//! A write that failed is either *not applied* (a plain retry is safe) or *unknown* (it may appear
//! later). Nothing here may blur the two.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::limits::{
    BATCH_BYTES_MAX, BATCH_PAIRS_MAX, CONDITION_TAGS_MAX, IDEMPOTENCY_KEY_BYTES_MAX, KEY_BYTES_MAX,
    NODE_NAME_BYTES_MAX,
};
use crate::room::Shortage;
use crate::Revision;

/// The input breaks a rule; nothing was done.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BadInput {
    #[error("a key must have at least one byte")]
    EmptyKey,
    #[error("the key has {bytes} bytes, the limit is {KEY_BYTES_MAX}")]
    KeyTooLarge { bytes: usize },
    #[error("the value has {bytes} bytes, the limit is {limit}")]
    ValueTooLarge { bytes: usize, limit: usize },
    #[error("the write has {pairs} pairs, the limit is {BATCH_PAIRS_MAX}")]
    TooManyPairs { pairs: usize },
    #[error("the write has {bytes} bytes of keys and values, the limit is {BATCH_BYTES_MAX}")]
    BatchTooLarge { bytes: usize },
    #[error("the write has no pairs")]
    EmptyBatch,
    #[error("the condition has {tags} revisions, the limit is {CONDITION_TAGS_MAX}")]
    TooManyTags { tags: usize },
    #[error("an idempotency key has 1 to {IDEMPOTENCY_KEY_BYTES_MAX} visible ASCII characters")]
    IdempotencyKey,
    #[error("\"{name}\" is not a node name: 1 to {NODE_NAME_BYTES_MAX} letters, digits, '-', '_' or '.'")]
    NodeName { name: String },
    #[error("\"{address}\" is not an address of the form host:port")]
    Address { address: String },
    #[error("{name}: {reason}")]
    Parameter { name: &'static str, reason: String },
}

/// Why a write was not acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, Error, Serialize, Deserialize)]
pub enum WriteError {
    /// Not applied: no leader was found before the deadline.
    #[error("there is no leader that could take the write")]
    NoLeader,
    /// Not applied: too many requests in flight, or the deadline passed while it still waited here.
    #[error("too many requests are in flight, or this one waited here until its deadline")]
    Overloaded,
    /// Not applied: the node is not ready yet, or is stopping.
    #[error("the node is starting or stopping")]
    Unavailable,
    /// Not applied: the disk is nearly full and the write would grow the data.
    #[error("{0}")]
    OutOfSpace(Shortage),
    /// It may or may not take effect, now or later.
    #[error("the outcome of the write is unknown: {reason}")]
    Unknown { reason: String },
}

impl WriteError {
    pub fn unknown(reason: impl Into<String>) -> Self {
        WriteError::Unknown { reason: reason.into() }
    }

    /// Whether the write certainly never takes effect.
    pub fn certainly_not_applied(&self) -> bool {
        match self {
            WriteError::NoLeader
            | WriteError::Overloaded
            | WriteError::Unavailable
            | WriteError::OutOfSpace(_) => true,
            WriteError::Unknown { .. } => false,
        }
    }
}

/// Why a read was not answered. A read changes nothing, so each may be repeated.
#[derive(Debug, Clone, PartialEq, Eq, Error, Serialize, Deserialize)]
pub enum ReadError {
    /// No leader confirmed by a quorum was found before the deadline.
    #[error("no leader confirmed the read before its deadline")]
    NoLeader,
    /// The local store had not reached what the read needs when the deadline passed.
    #[error("the local store is at revision {revision} and did not catch up before the deadline")]
    Behind { revision: Revision },
    /// The local store may lack writes that were acknowledged longer ago than the read allows.
    #[error("{}", too_stale(*.allowed, *.staleness))]
    TooStale {
        allowed: Duration,
        /// Since when the store may lack writes; `None` when it never heard from a leader.
        staleness: Option<Duration>,
    },
    #[error("too many requests are in flight, or this one waited here until its deadline")]
    Overloaded,
    #[error("the node is starting or stopping")]
    Unavailable,
    /// The store failed; the node is unfit.
    #[error("the store failed: {reason}")]
    Store { reason: String },
}

fn too_stale(allowed: Duration, staleness: Option<Duration>) -> String {
    let allowed = allowed.as_millis();
    match staleness {
        Some(staleness) => format!(
            "this node last heard from a leader {} ms ago, the read allows {allowed} ms",
            staleness.as_millis()
        ),
        None => format!("this node never heard from a leader, the read allows {allowed} ms"),
    }
}

/// Why a change of membership or leadership was not made.
#[derive(Debug, Clone, PartialEq, Eq, Error, Serialize, Deserialize)]
pub enum AdminError {
    #[error("there is no leader that could do it")]
    NoLeader,
    #[error("the node is starting or stopping")]
    Unavailable,
    /// It contradicts the state of the cluster.
    #[error("{reason}")]
    Conflict { reason: String },
    /// No member has that name.
    #[error("no member is called \"{name}\"")]
    NoSuchMember { name: String },
    /// It may or may not have been done; asking again is safe.
    #[error("the outcome is unknown: {reason}")]
    Unknown { reason: String },
    /// Done, it would leave the cluster without a quorum of voters that answer.
    #[error("{reason}")]
    WouldLoseQuorum { reason: String },
}
