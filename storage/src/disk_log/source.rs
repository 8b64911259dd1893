//! Reads a segment sector by sector, from its beginning to its end, when the log is opened. Changes nothing.

use std::io;
use std::sync::Arc;

use super::disk::{Disk, DiskFile};
use super::sector::{self, SECTOR_BYTES};
use super::segment;
use crate::error::StorageError;

/// Bytes that are read at once.
const READ_BYTES: usize = 1 << 20;

/// A segment, read from its beginning to its end. A sector that is cut off counts as filled up with zeros.
pub(crate) struct Source<'a> {
    disk: &'a dyn Disk,
    pub number: u64,
    pub file: Arc<dyn DiskFile>,
    pub size: u64,
    from: u64,
    bytes: Vec<u8>,
}

impl<'a> Source<'a> {
    pub(crate) fn open(disk: &'a dyn Disk, number: u64) -> Result<Self, StorageError> {
        let name = segment::name(number);
        let context = || StorageError::io(format!("cannot open {}/{name}", disk.path().display()));
        let file = disk.open(&name).map_err(context())?;
        let size = file.size().map_err(context())?;
        Ok(Self { disk, number, file, size, from: 0, bytes: Vec::new() })
    }

    pub(crate) fn sector(&mut self, at: u64) -> Result<Option<&[u8; SECTOR_BYTES]>, StorageError> {
        let sector_bytes = SECTOR_BYTES as u64;
        if at >= self.size.div_ceil(sector_bytes) {
            return Ok(None);
        }
        if at < self.from || at >= self.from + (self.bytes.len() / SECTOR_BYTES) as u64 {
            let left = self.size - at * sector_bytes;
            let wanted = usize::try_from(left).unwrap_or(READ_BYTES).min(READ_BYTES);
            self.bytes.clear();
            self.bytes.resize(wanted.next_multiple_of(SECTOR_BYTES), 0);
            let read = self.file.read_at(&mut self.bytes[..wanted], at * sector_bytes);
            let read =
                read.and_then(
                    |read| {
                        if read == wanted {
                            Ok(())
                        } else {
                            Err(io::ErrorKind::UnexpectedEof.into())
                        }
                    },
                );
            read.map_err(StorageError::io(format!(
                "cannot read {}/{}",
                self.disk.path().display(),
                segment::name(self.number)
            )))?;
            self.from = at;
        }
        let offset = (at - self.from) as usize * SECTOR_BYTES;
        Ok(self.bytes[offset..].first_chunk())
    }

    /// The first sector that is not all zeros.
    pub(crate) fn first_used(&mut self) -> Result<Option<u64>, StorageError> {
        let mut at = 0;
        while let Some(bytes) = self.sector(at)? {
            if !sector::is_zero(bytes) {
                return Ok(Some(at));
            }
            at += 1;
        }
        Ok(None)
    }
}
