//! Segment files: names, and making one of real zeros.
//!
//! Zeros are written, not only allocated: the first write to an allocated extent changes metadata, and the
//! fdatasync of an append would have to commit that, too. Invariant: a file under its final name is as large as it
//! is meant to be, and durable; its name is durable before anything is written to it.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use super::disk::{Disk, DiskFile};
use super::sector::SECTOR_BYTES;

/// Bytes that are filled with zeros before they are synced: a millisecond of a disk, for which the appends that go
/// on meanwhile may have to wait. With 1 MiB their p99 under load doubled.
const FILL_BYTES: usize = 256 << 10;

const SUFFIX: &str = ".seg";
const UNFINISHED_SUFFIX: &str = ".seg.new";
const DIGITS: usize = 16;

/// A file of the log. Numbers grow by one and are never used again while the file exists.
#[derive(Clone)]
pub(crate) struct Segment {
    pub number: u64,
    pub file: Arc<dyn DiskFile>,
    pub sectors: u64,
}

pub(crate) fn name(number: u64) -> String {
    format!("{number:0DIGITS$}{SUFFIX}")
}

/// The number of the segment with that name.
pub(crate) fn parse_name(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(SUFFIX)?;
    let canonical = digits.len() >= DIGITS && digits.bytes().all(|byte| byte.is_ascii_digit());
    if canonical {
        digits.parse().ok()
    } else {
        None
    }
}

/// Whether it is what is left of a segment that was being made.
pub(crate) fn is_unfinished(name: &str) -> bool {
    name.ends_with(UNFINISHED_SUFFIX)
}

/// Makes the segment, durably.
///
/// # Errors
/// Also [`io::ErrorKind::Interrupted`] when `stop` is set meanwhile. What was made of it then is removed at the
/// next start.
pub(crate) fn make(disk: &dyn Disk, number: u64, sectors: u64, stop: &AtomicBool) -> io::Result<Segment> {
    let unfinished = format!("{number:0DIGITS$}{UNFINISHED_SUFFIX}");
    let file = disk.create(&unfinished)?;
    if let Err(error) = fill(&*file, 0, sectors, stop) {
        if error.kind() == io::ErrorKind::StorageFull {
            // Leaves what room there is to others. The error that counts is the first one.
            drop(disk.remove(&unfinished));
        }
        return Err(error);
    }
    disk.rename(&unfinished, &name(number))?;
    disk.sync()?;
    Ok(Segment { number, file, sectors })
}

/// Fills a segment with zeros from a byte to the end of a sector, durably.
pub(crate) fn fill(file: &dyn DiskFile, from: u64, sectors: u64, stop: &AtomicBool) -> io::Result<()> {
    let zeros = vec![0; FILL_BYTES];
    let (mut at, end) = (from, sectors * SECTOR_BYTES as u64);
    while at < end {
        if stop.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        // To the next multiple, so that all later pieces are aligned.
        let piece = (FILL_BYTES as u64 - at % FILL_BYTES as u64).min(end - at);
        file.write_at(&zeros[..piece as usize], at)?;
        file.sync()?;
        at += piece;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Only names that the log itself gives are read as its own.
    #[test]
    fn names() {
        assert_eq!(name(7), "0000000000000007.seg");
        for number in [0, 7, u64::MAX] {
            assert_eq!(parse_name(&name(number)), Some(number));
        }
        for other in ["7.seg", "+000000000000007.seg", "0000000000000007.seg.new", "r-000.wal", ".seg"] {
            assert_eq!(parse_name(other), None, "{other}");
        }
        assert!(is_unfinished("0000000000000007.seg.new"));
    }
}
