//! The part of the storage error that the log uses; the real one knows RocksDB.

use std::io;

#[derive(Debug)]
pub enum StorageError {
    Io { context: String, source: io::Error },
    Corrupt { what: String, reason: String },
    Refused { reason: String },
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
}
