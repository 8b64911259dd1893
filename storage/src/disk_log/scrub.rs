//! Reads what is durable of the segments and compares each sector with its checksum. Changes nothing.

use std::io;

use super::disk::Disk;
use super::sector::{self, Sector, SECTOR_BYTES};
use super::segment;
use super::source::Source;
use super::Begun;
use crate::error::StorageError;
use crate::scrub::{Pace, PIECE_BYTES};

/// Tells whether it came to the end of the segments, which nothing is written to any more. One that was purged
/// meanwhile is passed over.
pub(crate) fn closed_segments(
    disk: &dyn Disk,
    numbers: &[u64],
    pace: Pace<'_>,
) -> Result<bool, StorageError> {
    for number in numbers {
        let mut source = match Source::open(disk, *number) {
            Ok(source) => source,
            Err(StorageError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        if !closed_segment(disk, &mut source, pace)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The same with the sectors of a segment that more are written to.
pub(crate) fn begun_segment(disk: &dyn Disk, begun: Begun, pace: Pace<'_>) -> Result<bool, StorageError> {
    let mut source = match Source::open(disk, begun.segment) {
        Ok(source) => source,
        Err(StorageError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(error),
    };
    let mut chain = Chain::default();
    let mut read = 0;
    for at in 0..begun.sectors {
        let Some(bytes) = source.sector(at)? else {
            return Err(wrong(disk, begun.segment, at, "it is missing"));
        };
        chain.next(bytes, begun.segment, at).map_err(|reason| wrong(disk, begun.segment, at, reason))?;
        if chain.ended {
            return Err(wrong(disk, begun.segment, at, "it is empty"));
        }
        if !counted(&mut read, pace) {
            return Ok(false);
        }
    }
    Ok(pace(read))
}

fn closed_segment(disk: &dyn Disk, source: &mut Source<'_>, pace: Pace<'_>) -> Result<bool, StorageError> {
    let number = source.number;
    let mut chain = Chain::default();
    let (mut at, mut read) = (0, 0);
    while let Some(bytes) = source.sector(at)? {
        chain.next(bytes, number, at).map_err(|reason| wrong(disk, number, at, reason))?;
        at += 1;
        if !counted(&mut read, pace) {
            return Ok(false);
        }
    }
    Ok(pace(read))
}

/// One more sector was read; tells whether to go on.
fn counted(read: &mut u64, pace: Pace<'_>) -> bool {
    *read += SECTOR_BYTES as u64;
    *read < PIECE_BYTES as u64 || pace(std::mem::take(read))
}

fn wrong(disk: &dyn Disk, segment: u64, sector: u64, reason: &str) -> StorageError {
    let what = format!("{}/{}", disk.path().display(), segment::name(segment));
    StorageError::corrupt(what, format!("sector {sector}: {reason}"))
}

/// What the sectors before allow the next one to be.
#[derive(Default)]
struct Chain {
    batch: Option<u64>,
    /// Nothing but zeros may follow.
    ended: bool,
}

impl Chain {
    fn next(&mut self, bytes: &[u8; SECTOR_BYTES], segment: u64, at: u64) -> Result<(), &'static str> {
        match sector::parse(bytes, segment, at) {
            Sector::Empty => self.ended = true,
            Sector::Whole(_) if self.ended => return Err("something follows the end"),
            Sector::Whole(whole) => {
                if self.batch.is_some_and(|last| whole.batch != last + u64::from(whole.first)) {
                    return Err("another batch follows");
                }
                self.batch = Some(whole.batch);
            }
            Sector::Unfinished => return Err("it is not whole"),
            Sector::Damaged => return Err("it is damaged"),
        }
        Ok(())
    }
}
