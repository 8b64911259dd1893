//! What the operating system tells of this process and of the time. Behind a trait, so that a test can tell otherwise.

use std::fmt::Debug;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::process::{getrlimit, Resource};

/// What this process holds of what is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessFigures {
    pub open_files: u64,
    /// `None` where nothing limits them.
    pub open_files_max: Option<u64>,
    pub resident_bytes: u64,
    /// What the process may use: its control group's limit, or all that the machine has.
    pub memory_bytes: u64,
}

/// Both clocks at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clocks {
    /// Since the Unix epoch. Set by people and programs.
    pub wall: Duration,
    /// Only goes forward; a pause of the process counts, one of the machine does not.
    pub steady: Instant,
}

/// Where figures of the process come from.
pub trait Figures: Debug + Send + Sync + 'static {
    /// May wait for the kernel: only on a blocking thread.
    ///
    /// # Errors
    /// Where the kernel does not tell.
    fn process(&self) -> io::Result<ProcessFigures>;
    fn clocks(&self) -> Clocks;
}

/// The figures of Linux.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemFigures;

impl Figures for SystemFigures {
    fn process(&self) -> io::Result<ProcessFigures> {
        // One of them is the directory that is being read.
        let open_files = std::fs::read_dir("/proc/self/fd")?.count().saturating_sub(1) as u64;
        let machine_bytes = kib_of("/proc/meminfo", "MemTotal:")?;
        let memory_bytes = group_limit_bytes().map_or(machine_bytes, |limit| limit.min(machine_bytes));
        Ok(ProcessFigures {
            open_files,
            open_files_max: getrlimit(Resource::Nofile).current,
            resident_bytes: kib_of("/proc/self/status", "VmRSS:")?,
            memory_bytes,
        })
    }

    fn clocks(&self) -> Clocks {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Clocks { wall, steady: Instant::now() }
    }
}

/// A line `name   123 kB` of a file of the kernel, in bytes.
fn kib_of(path: &str, name: &str) -> io::Result<u64> {
    let text = std::fs::read_to_string(path)?;
    let value =
        text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok());
    let kib: u64 = value.ok_or_else(|| io::Error::other(format!("{path} has no {name}")))?;
    Ok(kib.saturating_mul(1024))
}

/// The memory limit of this process's control group; `None` where there is none.
fn group_limit_bytes() -> Option<u64> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    // The group of its own, what a container sees as its root, and the same of the first version.
    let files = [
        Path::new("/sys/fs/cgroup").join(own).join("memory.max"),
        "/sys/fs/cgroup/memory.max".into(),
        "/sys/fs/cgroup/memory/memory.limit_in_bytes".into(),
    ];
    files.iter().find_map(|file| std::fs::read_to_string(file).ok()?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// The kernel's figures are of this process: a file more is seen, and it uses memory, within what it may.
    #[test]
    fn the_kernel_tells_of_this_process() {
        let held: Vec<_> = (0..50).map(|_| std::fs::File::open("/dev/null").unwrap()).collect();
        let figures = SystemFigures.process().unwrap();
        assert!(figures.open_files >= held.len() as u64, "{figures:?}");
        assert!(figures.open_files_max.is_none_or(|max| max >= figures.open_files), "{figures:?}");
        assert!(figures.resident_bytes > 0 && figures.resident_bytes < figures.memory_bytes, "{figures:?}");
    }
}
