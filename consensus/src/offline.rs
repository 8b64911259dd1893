//! What the commands share that change a data directory while no node runs on it.
//!
//! Whoever calls them holds the directory's lock.

use std::io;
use std::path::PathBuf;
use std::sync::mpsc::sync_channel;

use vaultdb_storage::log::OnDurable;
use vaultdb_storage::{BackupError, StorageError};

use crate::identity::IdentityError;

/// Why a data directory was not changed, or not to the end.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// The directory cannot be trusted or written.
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    /// Nothing was changed.
    #[error("{0}")]
    Refused(String),
}

/// Does one thing to the log and waits until it is durable, and with it all before.
pub(crate) fn durably(change: impl FnOnce(OnDurable) -> io::Result<()>) -> io::Result<()> {
    let (tell, told) = sync_channel(1);
    // Nobody waits any more once the change itself has failed.
    change(Box::new(move |result| drop(tell.send(result))))?;
    told.recv().map_err(|_| io::Error::other("the log ended"))?
}
