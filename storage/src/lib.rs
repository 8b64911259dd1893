//! What a node keeps: the state machine on RocksDB with its cache, snapshots, and the Raft log.
//!
//! Knows nothing of openraft or actix. Invariant: the data and the id of the last applied log entry
//! change in one atomic write, so what is read back after a crash is always a prefix of the log.

mod attempts;
mod backup;
mod cache;
mod chain;
#[cfg(test)]
mod chain_tests;
mod disk_log;
mod durable_fs;
mod engine;
mod error;
mod gauges;
#[cfg(test)]
mod install_tests;
pub mod log;
mod log_options;
mod log_rules;
mod mem_log;
mod options;
mod restore;
mod run;
pub mod scrub;
mod segments;
mod snapshot;
mod space;
mod state_machine;
mod stats;
mod terms;
pub mod types;
mod view;

pub use attempts::AttemptLimits;
pub use backup::{verify_backup, BackupError, BackupFile};
pub use chain::{Chain, Checkpoint};
pub use disk_log::DiskLog;
pub use durable_fs::{create_dir, sync, write_atomic};
pub use error::StorageError;
pub use log_options::LogOptions;
pub use mem_log::MemLog;
pub use options::StoreOptions;
pub use snapshot::{Snapshot, SnapshotFile, SnapshotMeta, SnapshotReceiver};
pub use space::{Ballast, DiskSpace};
pub use state_machine::{Lookup, StateMachine};
pub use stats::{CacheStats, StoreStats};
pub use terms::EntryFate;
pub use types::{AppliedState, LogId, Op, Vote};
pub use view::View;
