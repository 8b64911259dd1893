//! What an operator does to a data directory or a backup while no node runs: the rooms behind this one do it.

pub use vaultdb_consensus::offline::OfflineError;
pub use vaultdb_consensus::recover::{Survivor, SurvivorFacts};
pub use vaultdb_consensus::restore::{restore, RestorePlan, Restored};
pub use vaultdb_storage::{verify_backup, BackupError};
