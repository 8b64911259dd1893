//! The vocabulary of VaultDB: keys, values, commands, revisions, consistency levels, errors and what
//! a caller may conclude from them, limits.
//!
//! Owns words and their rules. Must never do I/O, spawn a task or read a clock for a decision.

pub mod backup;
pub mod command;
pub mod consistency;
pub mod error;
pub mod failpoint;
pub mod faults;
pub mod guard;
pub mod histogram;
pub mod key;
pub mod limits;
pub mod listing;
pub mod member;
pub mod room;
pub mod units;

pub use backup::{BackupDamage, BackupDecoder, BackupEncoder, BackupHeader, BackupSummary};
pub use command::{Applied, ApplyResult, Command};
pub use consistency::{Consistency, Freshness};
pub use error::{AdminError, BadInput, ReadError, WriteError};
pub use faults::{ActiveFault, FaultKind, Faults};
pub use guard::{Attempt, Condition, Fingerprint, Guarded, IdempotencyKey, Write};
pub use histogram::{Histogram, HistogramSnapshot};
pub use key::{Key, Value, Versioned};
pub use limits::Limits;
pub use listing::{EncodeItem, KeyBounds, ListItem, ListQuery, Page, PageFiller, PageRequest};
pub use member::{Health, MemberAddr, NodeId, Role};
pub use room::{Measured, Room, RoomLines, Shortage};

/// A cluster-wide number that grows by one with each applied write and is the same on every node.
pub type Revision = u64;
