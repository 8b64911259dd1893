//! The one error of this crate, sorted by what the caller may conclude.

use std::io;

use crate::types::LogId;

/// Why storage did not do what it was asked to.
///
/// `Refused` and `OutOfOrder` change nothing and leave the store usable. Every other error on a write
/// is final: nothing is retried, the store answers [`StorageError::Poisoned`] from then on, and the
/// process must end and start again.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The operating system failed; what was being done may be done in part.
    #[error("{context}: {source}")]
    Io { context: String, source: io::Error },
    /// What is stored is not what was written. Never served, never repaired in place.
    #[error("{what} is corrupt: {reason}")]
    Corrupt { what: String, reason: String },
    #[error("RocksDB: {0}")]
    Rocks(rocksdb::Error),
    /// An earlier write failed, so memory and disk may differ.
    #[error("the store has failed and must be restarted: {reason}")]
    Poisoned { reason: String },
    /// The input breaks a rule of the interface; nothing was changed.
    #[error("refused: {reason}")]
    Refused { reason: String },
    /// An entry at or before the last applied one; nothing was changed.
    #[error("entry {got:?} does not follow the applied {applied:?}")]
    OutOfOrder { applied: Option<LogId>, got: LogId },
}

impl StorageError {
    pub(crate) fn io(context: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let context = context.into();
        move |source| StorageError::Io { context, source }
    }

    pub(crate) fn corrupt(what: impl Into<String>, reason: impl ToString) -> Self {
        StorageError::Corrupt { what: what.into(), reason: reason.to_string() }
    }

    pub(crate) fn refused(reason: impl Into<String>) -> Self {
        StorageError::Refused { reason: reason.into() }
    }

    /// Whether nothing was changed and the store goes on.
    pub fn is_harmless(&self) -> bool {
        match self {
            StorageError::Refused { .. } | StorageError::OutOfOrder { .. } => true,
            StorageError::Io { .. }
            | StorageError::Corrupt { .. }
            | StorageError::Rocks(_)
            | StorageError::Poisoned { .. } => false,
        }
    }
}

impl From<rocksdb::Error> for StorageError {
    fn from(error: rocksdb::Error) -> Self {
        match error.kind() {
            rocksdb::ErrorKind::Corruption | rocksdb::ErrorKind::NotSupported => {
                StorageError::corrupt("the RocksDB data", error)
            }
            _ => StorageError::Rocks(error),
        }
    }
}

impl From<StorageError> for io::Error {
    fn from(error: StorageError) -> Self {
        let kind = match &error {
            StorageError::Io { source, .. } => source.kind(),
            StorageError::Corrupt { .. } => io::ErrorKind::InvalidData,
            StorageError::Refused { .. } | StorageError::OutOfOrder { .. } => io::ErrorKind::InvalidInput,
            StorageError::Rocks(_) | StorageError::Poisoned { .. } => io::ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}
