//! What the log asks of the operating system, so that a test can put a disk under it that fails or forgets.
//!
//! Nothing here tries anything again that failed.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{flock, FlockOperation};

/// One directory.
pub(crate) trait Disk: Send + Sync + 'static {
    /// Names in it, in no order.
    fn names(&self) -> io::Result<Vec<String>>;
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    /// Makes the file, or empties it.
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes the names durable, not what the files hold.
    fn sync(&self) -> io::Result<()>;
    /// For messages.
    fn path(&self) -> &Path;
}

/// A file of it.
pub(crate) trait DiskFile: Send + Sync {
    fn size(&self) -> io::Result<u64>;
    /// Reads what there is, up to the length of `into`.
    fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<usize>;
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()>;
    /// Makes the content durable, and the size if it grew.
    fn sync(&self) -> io::Result<()>;
}

/// A directory that no other process has open.
pub(crate) struct RealDisk {
    dir: File,
    path: PathBuf,
}

impl RealDisk {
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] when another process, or this one, has it open.
    pub(crate) fn lock(path: &Path) -> io::Result<Self> {
        let dir = File::open(path)?;
        // On the directory itself: it cannot be removed by mistake, as a lock file can.
        flock(&dir, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Self { dir, path: path.to_path_buf() })
    }
}

impl Disk for RealDisk {
    fn names(&self) -> io::Result<Vec<String>> {
        let entries = std::fs::read_dir(&self.path)?;
        // A name that is not UTF-8 is none of ours.
        entries
            .filter_map(|entry| entry.map(|entry| entry.file_name().into_string().ok()).transpose())
            .collect()
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).open(self.path.join(name))?;
        Ok(Arc::new(RealFile(file)))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(true).open(self.path.join(name))?;
        Ok(Arc::new(RealFile(file)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.path.join(name))
    }

    fn sync(&self) -> io::Result<()> {
        self.dir.sync_all()
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

struct RealFile(File);

impl DiskFile for RealFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_at(&self, mut into: &mut [u8], at: u64) -> io::Result<usize> {
        let mut read = 0;
        while !into.is_empty() {
            match self.0.read_at(into, at + read as u64) {
                Ok(0) => break,
                Ok(count) => {
                    read += count;
                    into = &mut into[count..];
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(read)
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, at)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}
