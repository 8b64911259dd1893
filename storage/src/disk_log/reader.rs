//! Reads entries back from segments, for a follower that is far behind.
//!
//! Never holds a lock that an append needs. What it reads is durable and is not written again while the file
//! exists; a record that is not what was written is an error.

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use super::disk::{Disk, DiskFile};
use super::places::{Place, Run};
use super::record::{self, Record, HEADER_BYTES};
use super::sector::{self, PAYLOAD_BYTES, SECTOR_BYTES};
use super::segment;
use crate::log::Payload;
use crate::types::LogId;

/// Sectors that are read at once when several entries in a row are wanted: 256 KiB.
const READ_SECTORS_MAX: u64 = 512;
/// Sectors that are read at once for a single entry. A longer one takes a second read.
const READ_SECTORS_MIN: u64 = 8;

/// A segment that was read from.
type Opened = (u64, Arc<dyn DiskFile>);

pub(crate) struct Reader {
    disk: Arc<dyn Disk>,
    /// The last one: a follower that catches up reads one after the other.
    opened: Mutex<Option<Opened>>,
}

impl Reader {
    pub(crate) fn new(disk: Arc<dyn Disk>) -> Self {
        Self { disk, opened: Mutex::new(None) }
    }

    /// Appends entries of `run` until all of `entries` weighs `bytes_max`; at least one.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] when the segment was purged meanwhile.
    pub(crate) fn read<P: Payload>(
        &self,
        run: &Run,
        bytes_max: usize,
        weight: &mut usize,
        entries: &mut Vec<(LogId, P)>,
    ) -> io::Result<()> {
        let file = self.open(run.segment)?;
        let mut window = Window { file: &*file, from: 0, bytes: Vec::new(), record: Vec::new() };
        for (i, place) in run.places.iter().enumerate() {
            let last = run.places.last().copied().unwrap_or(*place);
            let damaged = |reason: String| {
                let reason = format!("entry {} in segment {}: {reason}", run.first + i as u64, run.segment);
                io::Error::new(io::ErrorKind::InvalidData, reason)
            };
            window.fill(*place, last)?;
            let (record, _) = record::decode(&window.record).map_err(damaged)?;
            let Record::Entry(id, payload) = record else {
                return Err(damaged("another record is there".into()));
            };
            if id.index != run.first + i as u64 {
                return Err(damaged(format!("{id:?} is there")));
            }
            let payload = P::decode(payload).map_err(|error| damaged(error.to_string()))?;
            *weight += payload.weight();
            entries.push((id, payload));
            if *weight >= bytes_max {
                break;
            }
        }
        Ok(())
    }

    fn open(&self, number: u64) -> io::Result<Arc<dyn DiskFile>> {
        if let Some((opened, file)) = &*self.opened.lock() {
            if *opened == number {
                return Ok(file.clone());
            }
        }
        let file = self.disk.open(&segment::name(number))?;
        *self.opened.lock() = Some((number, file.clone()));
        Ok(file)
    }
}

/// Some sectors of a file, and a record put together from them.
struct Window<'a> {
    file: &'a dyn DiskFile,
    from: u64,
    bytes: Vec<u8>,
    record: Vec<u8>,
}

impl Window<'_> {
    /// Puts the record at `place` together; more of them, up to `last`, will be asked for.
    fn fill(&mut self, place: Place, last: Place) -> io::Result<()> {
        self.record.clear();
        self.take(place, HEADER_BYTES, last)?;
        let size = record::record_bytes(&self.record)
            .map_err(|reason| io::Error::new(io::ErrorKind::InvalidData, reason))?;
        self.take(place, size, last)
    }

    /// Makes `record` as long as `size`.
    fn take(&mut self, place: Place, size: usize, last: Place) -> io::Result<()> {
        while self.record.len() < size {
            let at = place as usize + self.record.len();
            let (number, offset) = ((at / PAYLOAD_BYTES) as u64, at % PAYLOAD_BYTES);
            let missing = size - self.record.len();
            let upto = ((at + missing - 1).max(last as usize) / PAYLOAD_BYTES) as u64;
            let wanted = upto - number + 1;
            let sector = self.load(number, wanted)?;
            let content = &sector::payload(&self.bytes[sector..sector + SECTOR_BYTES])[offset..];
            let part = &content[..content.len().min(missing)];
            self.record.extend_from_slice(part);
        }
        Ok(())
    }

    /// Where in `bytes` a sector is, which is read with some of the `wanted` ones from it on unless it was before.
    fn load(&mut self, number: u64, wanted: u64) -> io::Result<usize> {
        let held = (self.bytes.len() / SECTOR_BYTES) as u64;
        if number < self.from || number >= self.from + held {
            let count = wanted.clamp(READ_SECTORS_MIN, READ_SECTORS_MAX) as usize;
            self.bytes.resize(count * SECTOR_BYTES, 0);
            let read = self.file.read_at(&mut self.bytes, number * SECTOR_BYTES as u64)?;
            self.bytes.truncate(read - read % SECTOR_BYTES);
            self.from = number;
            if self.bytes.is_empty() {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a segment is shorter than it was"));
            }
        }
        Ok((number - self.from) as usize * SECTOR_BYTES)
    }
}
