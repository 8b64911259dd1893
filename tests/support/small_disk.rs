//! A filesystem in memory that is small enough to be filled.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{fallocate, statvfs, FallocateFlags};

/// Mounted while this lives. Whoever has files open there must have ended before it is dropped.
pub struct SmallDisk {
    pub path: PathBuf,
}

impl SmallDisk {
    /// Makes the directory and mounts a filesystem of `mib` MiB on it.
    ///
    /// # Errors
    /// Why this machine does not allow it.
    pub fn mount(path: &Path, mib: u32) -> Result<Self, String> {
        fs::create_dir(path).map_err(|error| error.to_string())?;
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", &format!("size={mib}M"), "tmpfs"]).arg(path);
        let output = command.output().map_err(|error| format!("mount: {error}"))?;
        match output.status.success() {
            true => Ok(Self { path: path.to_owned() }),
            false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        }
    }

    pub fn free_bytes(&self) -> u64 {
        let stats = statvfs(&self.path).expect("a mounted filesystem");
        stats.f_bavail * stats.f_frsize
    }

    fn filler(&self) -> PathBuf {
        self.path.join("filler")
    }

    /// Has somebody else's file take all but so many bytes.
    pub fn leave(&self, bytes: u64) {
        let taken = self.free_bytes().saturating_sub(bytes);
        let file = File::options().append(true).create(true).open(self.filler()).expect("a file of no bytes");
        let len = file.metadata().expect("its length").len();
        match fallocate(&file, FallocateFlags::empty(), len, taken) {
            Ok(()) => {}
            // Nothing to take, or a node was faster.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSPC) => {}
            Err(error) => panic!("{}: {error}", self.filler().display()),
        }
    }

    /// Removes that file.
    pub fn clear(&self) {
        match fs::remove_file(self.filler()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => panic!("the filler: {error}"),
            Ok(()) | Err(_) => {}
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(&self.path).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            eprintln!("{} stays mounted", self.path.display());
        }
    }
}
