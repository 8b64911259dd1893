//! Reads segments that are full and compares each sector with its checksum. Changes nothing.

use std::io;

use super::disk::Disk;
use super::sector::{self, Sector, SECTOR_BYTES};
use super::segment;
use super::source::Source;
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

fn closed_segment(disk: &dyn Disk, source: &mut Source<'_>, pace: Pace<'_>) -> Result<bool, StorageError> {
    let number = source.number;
    let (mut at, mut batch, mut ended, mut read) = (0, None, false, 0);
    while let Some(bytes) = source.sector(at)? {
        let wrong = match sector::parse(bytes, number, at) {
            Sector::Empty => {
                ended = true;
                None
            }
            Sector::Whole(_) if ended => Some("something follows the end"),
            Sector::Whole(whole) => {
                let follows = batch.is_none_or(|last| whole.batch == last + u64::from(whole.first));
                batch = Some(whole.batch);
                (!follows).then_some("another batch follows")
            }
            Sector::Unfinished => Some("it is not whole"),
            Sector::Damaged => Some("it is damaged"),
        };
        if let Some(reason) = wrong {
            let what = format!("{}/{}", disk.path().display(), segment::name(number));
            return Err(StorageError::corrupt(what, format!("sector {at}: {reason}")));
        }
        at += 1;
        read += SECTOR_BYTES;
        if read >= PIECE_BYTES && !pace(std::mem::take(&mut read) as u64) {
            return Ok(false);
        }
    }
    Ok(pace(read as u64))
}
