//! One process for one data directory.
//!
//! Owns the directory's creation and the lock on `<data-dir>/LOCK`. The kernel drops the lock when
//! the process ends in whatever way, so a lock is never stale and the file is never removed.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{flock, FlockOperation};
use rustix::io::Errno;

const LOCK_FILE: &str = "LOCK";
/// The data is for the node's own user.
const DIRECTORY_MODE: u32 = 0o700;
/// Longest process id in the file, in bytes.
const PID_BYTES_MAX: u64 = 20;

/// Holds the directory until it is dropped.
#[derive(Debug)]
pub struct DataDirLock {
    _file: File,
}

/// Why the directory cannot be used. Exit 1.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error("cannot create the data directory \"{}\": {source}", path.display())]
    Create { path: PathBuf, source: io::Error },
    #[error("cannot lock the data directory \"{}\": {source}", path.display())]
    Lock { path: PathBuf, source: io::Error },
    #[error("the data directory \"{}\" is in use by another vaultdb{}", path.display(), holder(*pid))]
    InUse { path: PathBuf, pid: Option<u32> },
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" (process {pid})"))
}

impl DataDirLock {
    /// Creates the directory where it is missing and takes its lock, without waiting.
    ///
    /// # Errors
    /// [`LockError`], which names the directory.
    pub fn acquire(data_dir: &Path) -> Result<Self, LockError> {
        create(data_dir).map_err(|source| LockError::Create { path: data_dir.into(), source })?;
        let failed = |source| LockError::Lock { path: data_dir.into(), source };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(data_dir.join(LOCK_FILE))
            .map_err(failed)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                return Err(LockError::InUse { path: data_dir.into(), pid: read_pid(&mut file) });
            }
            Err(errno) => return Err(failed(errno.into())),
        }
        // The id is for people only; the lock holds without it, on a full disk too.
        if let Err(error) = write_pid(&mut file) {
            log::warn!("cannot note the process id in {}: {error}", data_dir.join(LOCK_FILE).display());
        }
        Ok(Self { _file: file })
    }
}

/// Creates what is missing of the path. Each new name is synced to disk in its parent: otherwise a
/// power cut could lose the whole directory with everything that was synced inside it.
fn create(data_dir: &Path) -> io::Result<()> {
    let missing: Vec<&Path> =
        data_dir.ancestors().take_while(|path| !path.as_os_str().is_empty() && !path.exists()).collect();
    DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(data_dir)?;
    for path in missing {
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        File::open(parent)?.sync_all()?;
    }
    // `create` is content with anything that exists.
    if fs::metadata(data_dir)?.is_dir() {
        Ok(())
    } else {
        Err(io::Error::from(io::ErrorKind::NotADirectory))
    }
}

fn read_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(PID_BYTES_MAX).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

fn write_pid(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The second one is refused with the directory's name; a released directory is free again.
    #[test]
    fn one_at_a_time() {
        let root = tempfile::tempdir().expect("temporary directory");
        let dir = root.path().join("a/b");
        let first = DataDirLock::acquire(&dir).expect("free");
        let error = DataDirLock::acquire(&dir).expect_err("held");
        assert!(matches!(&error, LockError::InUse { pid: Some(pid), .. } if *pid == std::process::id()));
        assert!(error.to_string().contains(&dir.display().to_string()), "{error}");
        drop(first);
        DataDirLock::acquire(&dir).expect("free again");
    }

    #[test]
    fn what_cannot_be_a_directory() {
        let root = tempfile::tempdir().expect("temporary directory");
        let file = root.path().join("file");
        fs::write(&file, "").expect("write");
        for path in [file.clone(), file.join("below")] {
            let error = DataDirLock::acquire(&path).expect_err("not a directory");
            assert!(matches!(error, LockError::Create { .. }), "{error:?}");
            assert!(error.to_string().contains(&path.display().to_string()), "{error}");
        }
    }
}
