//! How much room the filesystem of a data directory has, and the ballast that holds some of it back.
//!
//! Every call here waits for the disk. Must never decide anything: who asks judges what is enough.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{fallocate, statvfs, FallocateFlags};

/// The ballast's name in the data directory.
const BALLAST_FILE: &str = "ballast";

/// The room of a filesystem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskSpace {
    /// Bytes that a process without privileges may still take.
    pub free_bytes: u64,
    pub total_bytes: u64,
}

impl DiskSpace {
    /// The room of the filesystem that holds `dir`.
    ///
    /// # Errors
    /// What the system says.
    pub fn of(dir: &Path) -> io::Result<Self> {
        let stats = statvfs(dir)?;
        let bytes = |blocks: u64| blocks.saturating_mul(stats.f_frsize);
        Ok(Self { free_bytes: bytes(stats.f_bavail), total_bytes: bytes(stats.f_blocks) })
    }
}

/// A file of nothing, to be deleted when room is needed.
#[derive(Debug)]
pub struct Ballast {
    path: PathBuf,
}

impl Ballast {
    pub fn of(data_dir: &Path) -> Self {
        Self { path: data_dir.join(BALLAST_FILE) }
    }

    /// Its size in bytes; 0 where there is none.
    ///
    /// # Errors
    /// What the system says.
    pub fn bytes(&self) -> io::Result<u64> {
        match fs::metadata(&self.path) {
            Ok(file) => Ok(file.len()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// Makes it, or makes it as large as this. Its blocks are allocated, so that deleting it frees them.
    ///
    /// # Errors
    /// What the system says; then there is no ballast.
    pub fn make(&self, bytes: u64) -> io::Result<()> {
        let made = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&self.path)
            .and_then(|file| allocate(&file, bytes));
        if made.is_err() {
            // Whatever could not be made whole would only be in the way.
            self.remove()?;
        }
        made
    }

    /// # Errors
    /// What the system says. That there is none is no error.
    pub fn remove(&self) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

fn allocate(file: &File, bytes: u64) -> io::Result<()> {
    if file.metadata()?.len() > bytes {
        file.set_len(bytes)?;
    }
    Ok(fallocate(file, FallocateFlags::empty(), 0, bytes)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    /// A block as `st_blocks` counts it, in bytes.
    const BLOCK_BYTES: u64 = 512;

    /// The ballast takes real blocks, grows and shrinks to what is asked, and goes; what cannot be made leaves nothing.
    #[test]
    fn ballast_is_real() {
        let dir = tempfile::tempdir().expect("a directory");
        let ballast = Ballast::of(dir.path());
        assert_eq!(ballast.bytes().expect("none"), 0);
        for bytes in [1 << 20, 3 << 20, 2 << 20] {
            ballast.make(bytes).expect("room");
            assert_eq!(ballast.bytes().expect("made"), bytes);
            let file = fs::metadata(dir.path().join(BALLAST_FILE)).expect("made");
            assert!(file.blocks() * BLOCK_BYTES >= bytes, "{} blocks for {bytes}", file.blocks());
        }
        assert!(ballast.make(i64::MAX as u64).is_err());
        assert_eq!(ballast.bytes().expect("none"), 0);
        ballast.make(4_096).expect("room");
        ballast.remove().expect("there");
        ballast.remove().expect("gone already");
        assert_eq!(ballast.bytes().expect("none"), 0);
    }

    #[test]
    fn space_of_a_directory() {
        let dir = tempfile::tempdir().expect("a directory");
        let space = DiskSpace::of(dir.path()).expect("a filesystem");
        assert!(space.total_bytes > 0 && space.free_bytes <= space.total_bytes, "{space:?}");
        assert!(DiskSpace::of(&dir.path().join("none")).is_err());
    }
}
