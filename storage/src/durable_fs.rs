//! Directories and files that must be whole after power loss.
//!
//! A name is durable once its directory is synced, its content once the file is. No fsync is retried:
//! a second one can succeed although the first lost pages (Rebello et al. 2020, "Can Applications
//! Recover from fsync Failures?").

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::RwLock;

use crate::error::StorageError;

/// Makes what is in a file, or which names are in a directory, durable.
///
/// # Errors
/// [`StorageError::Io`].
pub fn sync(path: &Path) -> Result<(), StorageError> {
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(StorageError::io(format!("cannot sync {}", path.display())))
}

/// Makes `dir` and what leads to it, durably.
///
/// # Errors
/// [`StorageError::Io`].
pub fn create_dir(dir: &Path) -> Result<(), StorageError> {
    if dir.is_dir() {
        return Ok(());
    }
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
    if let Some(parent) = parent {
        create_dir(parent)?;
    }
    fs::create_dir(dir).map_err(StorageError::io(format!("cannot create {}", dir.display())))?;
    sync(parent.unwrap_or(Path::new(".")))
}

/// Replaces `dir/name` as a whole: a reader finds the old content or the new, at any kill.
///
/// # Errors
/// [`StorageError::Io`].
pub fn write_atomic(dir: &Path, name: &str, content: &[u8]) -> Result<(), StorageError> {
    let path = dir.join(name);
    let temporary = dir.join(format!("{name}.tmp"));
    let context = || StorageError::io(format!("cannot write {}", path.display()));
    let mut file = File::create(&temporary).map_err(context())?;
    file.write_all(content).map_err(context())?;
    file.sync_all().map_err(context())?;
    drop(file);
    crash_point("pointer-before-rename");
    fs::rename(&temporary, &path).map_err(context())?;
    sync(dir)
}

/// Removes what a kill left behind; a failure leaves it for the next start.
pub(crate) fn remove_leftover(path: &Path) {
    let result = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match result {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => log::warn!("cannot remove {}: {error}", path.display()),
    }
}

/// Names in `dir`; those that are not UTF-8 are none of ours and left out.
pub(crate) fn names(dir: &Path) -> Result<Vec<String>, StorageError> {
    let context = || StorageError::io(format!("cannot list {}", dir.display()));
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(context())? {
        if let Ok(name) = entry.map_err(context())?.file_name().into_string() {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// A directory that is removed with its last user, unless it is to be kept.
#[derive(Debug)]
pub(crate) struct OwnedDir {
    path: RwLock<PathBuf>,
    keep: AtomicBool,
}

impl OwnedDir {
    pub(crate) fn new(path: PathBuf, keep: bool) -> Self {
        Self { path: RwLock::new(path), keep: AtomicBool::new(keep) }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.path.read().clone()
    }

    /// Calls `then` with its path, which does not change meanwhile.
    pub(crate) fn with_path<T>(&self, then: impl FnOnce(&Path) -> T) -> T {
        then(&self.path.read())
    }

    pub(crate) fn set_keep(&self, keep: bool) {
        self.keep.store(keep, Ordering::Release);
    }

    /// Moves it within its parent, durably; those who read from it follow.
    pub(crate) fn rename(&self, to: PathBuf) -> Result<(), StorageError> {
        let mut path = self.path.write();
        fs::rename(&*path, &to).map_err(StorageError::io(format!("cannot create {}", to.display())))?;
        *path = to;
        path.parent().map_or(Ok(()), sync)
    }
}

impl Drop for OwnedDir {
    fn drop(&mut self) {
        if !self.keep.load(Ordering::Acquire) {
            remove_leftover(&self.path.read());
        }
    }
}

/// Where a test may have the process die: here by a variable that it sets on the way.
#[cfg(test)]
pub(crate) fn crash_point(name: &str) {
    if std::env::var("VAULTDB_TEST_CRASH_AT").is_ok_and(|at| at == name) {
        std::process::abort();
    }
}

/// Where a test may have the process die, see [`vaultdb_kv::failpoint`].
#[cfg(not(test))]
pub(crate) fn crash_point(name: &str) {
    vaultdb_kv::failpoint::reach(name);
}
