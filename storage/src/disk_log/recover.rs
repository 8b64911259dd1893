//! Reads the segments when the log is opened, and tells what a crash left unfinished from damage.
//!
//! The rule: a batch is written only after the one before it is durable. A batch that is not whole was therefore
//! the last one, unless anything of a later batch is there: then it was durable once, and is damaged. The last
//! batch may be incomplete only where it was not written to the end, see [`super::sector`]. Damage is refused and
//! never repaired; what is unfinished was acknowledged to nobody, and is overwritten with zeros.

use std::ops::Range;
use std::sync::atomic::AtomicBool;

use super::disk::Disk;
use super::places::{Place, Places};
use super::record::{self, Record};
use super::sector::{self, Sector, PAYLOAD_BYTES, SECTOR_BYTES};
use super::segment::{self, Segment};
use super::source::Source;
use super::tail::Tail;
use crate::error::StorageError;
use crate::log::Payload;
use crate::log_options::LogOptions;
use crate::log_rules;

/// Zeros that are written at once.
const ZERO_BYTES: usize = 1 << 20;
const FIRST_SEGMENT: u64 = 1;
const FIRST_BATCH: u64 = 1;

/// The log as it is on the disk, all of it durable.
pub(crate) struct Recovered<P> {
    pub tail: Tail<P>,
    pub places: Places,
    /// The segment to go on in, and where.
    pub active: Segment,
    pub next_sector: u64,
    pub next_batch: u64,
}

/// Reads the log in `disk`, or begins one.
///
/// # Errors
/// [`StorageError::Corrupt`] for damage, [`StorageError::Refused`] for another format, [`StorageError::Io`].
pub(crate) fn recover<P: Payload>(
    disk: &dyn Disk,
    options: &LogOptions,
) -> Result<Recovered<P>, StorageError> {
    let numbers = segments(disk)?;
    let io = |what: &str| StorageError::io(format!("cannot {what} in {}", disk.path().display()));
    let never = AtomicBool::new(false);
    let sectors = options.segment_sectors();
    if numbers.is_empty() {
        let active = segment::make(disk, FIRST_SEGMENT, sectors, &never).map_err(io("make a segment"))?;
        let mut places = Places::default();
        places.add_segment(active.number);
        let tail = Tail::new(record::Facts::default());
        return Ok(Recovered { tail, places, active, next_sector: 0, next_batch: FIRST_BATCH });
    }
    let mut scan = Scan::new(disk, options.cache_bytes);
    let end = scan.all(&numbers)?;
    scan.check_beginning()?;
    finish(disk, &scan, &end, sectors).map_err(io("repair the end of the log"))?;
    let active = Segment {
        number: end.source.number,
        sectors: sectors.max(end.source.size.div_ceil(SECTOR_BYTES as u64)),
        file: end.source.file,
    };
    let next_batch = scan.batch;
    Ok(Recovered { tail: scan.tail, places: scan.places, active, next_sector: end.sector, next_batch })
}

/// Numbers of the segments, in order.
fn segments(disk: &dyn Disk) -> Result<Vec<u64>, StorageError> {
    let io = |what: &str| StorageError::io(format!("cannot {what} in {}", disk.path().display()));
    let mut numbers = Vec::new();
    for name in disk.names().map_err(io("list the files"))? {
        if let Some(number) = segment::parse_name(&name) {
            numbers.push(number);
        } else if segment::is_unfinished(&name) {
            disk.remove(&name).map_err(io("remove an unfinished segment"))?;
        } else if name.starts_with("r-") && name.ends_with(".wal") {
            return Err(StorageError::refused(format!(
                "{} holds a Raft log of a former format ({name}), which this version cannot read: empty the data \
                 directory and let the node join anew",
                disk.path().display()
            )));
        }
    }
    numbers.sort_unstable();
    for pair in numbers.windows(2) {
        if pair[1] - pair[0] != 1 {
            let reason = format!("{} is missing", segment::name(pair[0] + 1));
            return Err(corrupt(disk, &reason));
        }
    }
    Ok(numbers)
}

fn corrupt(disk: &dyn Disk, reason: &str) -> StorageError {
    StorageError::corrupt(format!("the Raft log in {}", disk.path().display()), reason)
}

/// Makes what was read durable: a process that was killed leaves entries that are written and not synced, and
/// the next one must not build on them otherwise. Overwrites what is unfinished.
fn finish<P>(disk: &dyn Disk, scan: &Scan<'_, P>, end: &End<'_>, sectors: u64) -> std::io::Result<()> {
    let Source { file, size, .. } = &end.source;
    let sector_bytes = SECTOR_BYTES as u64;
    if end.unfinished > end.sector {
        let from = end.sector * sector_bytes;
        let bytes = (end.unfinished * sector_bytes).min(*size) - from;
        log::warn!("{}: overwriting {bytes} bytes of an unfinished write", segment::name(end.source.number));
        let zeros = vec![0; ZERO_BYTES];
        for at in (from..from + bytes).step_by(ZERO_BYTES) {
            let piece = (from + bytes - at).min(ZERO_BYTES as u64);
            file.write_at(&zeros[..piece as usize], at)?;
        }
    }
    file.sync()?;
    segment::fill(&**file, *size, sectors.max(size.div_ceil(sector_bytes)), &AtomicBool::new(false))?;
    disk.sync()?;
    // From the ends, so that none is ever missing between others.
    for number in end.unused.iter().rev().chain(&scan.purged) {
        disk.remove(&segment::name(*number))?;
        disk.sync()?;
    }
    Ok(())
}

/// Where the log ends.
struct End<'a> {
    source: Source<'a>,
    /// The first sector behind the last whole batch.
    sector: u64,
    /// The first sector behind what is left of an unfinished batch; not more than `sector` if nothing is.
    unfinished: u64,
    /// Segments behind that were never used.
    unused: Vec<u64>,
}

struct Scan<'a, P> {
    disk: &'a dyn Disk,
    cache_bytes: usize,
    tail: Tail<P>,
    places: Places,
    /// Number of the batch that comes next.
    batch: u64,
    /// What was read of it.
    content: Vec<u8>,
    /// Entries that were in segments which are not there any more.
    unknown: Range<u64>,
    /// Segments that hold nothing any more.
    purged: Vec<u64>,
}

impl<'a, P: Payload> Scan<'a, P> {
    fn new(disk: &'a dyn Disk, cache_bytes: usize) -> Self {
        Self {
            disk,
            cache_bytes,
            tail: Tail::new(record::Facts::default()),
            places: Places::default(),
            batch: FIRST_BATCH,
            content: Vec::new(),
            unknown: 0..0,
            purged: Vec::new(),
        }
    }

    fn all(&mut self, numbers: &[u64]) -> Result<End<'a>, StorageError> {
        let mut end: Option<End<'a>> = None;
        let mut ended = false;
        for number in numbers {
            let mut source = Source::open(self.disk, *number)?;
            if let Some(end) = end.as_mut().filter(|_| ended) {
                if let Some(at) = source.first_used()? {
                    let reason = format!(
                        "batch {} is not whole, but something follows it in sector {at} of {}",
                        self.batch,
                        segment::name(*number)
                    );
                    return Err(corrupt(self.disk, &reason));
                }
                end.unused.push(*number);
                continue;
            }
            if end.is_none() {
                self.begin(&mut source)?;
            }
            let sector = self.batches(&mut source, end.is_none())?;
            let unfinished = self.judge_rest(&mut source, sector)?;
            ended = unfinished > sector || sector == 0;
            match &mut end {
                // Nothing of it was ever durable: it is made anew when it is needed.
                Some(end) if sector == 0 => end.unused.push(*number),
                _ => end = Some(End { source, sector, unfinished, unused: Vec::new() }),
            }
        }
        end.ok_or_else(|| corrupt(self.disk, "no segment is there"))
    }

    /// Finds out with which batch the log begins. All but the first segment were made durable before earlier
    /// ones were removed.
    fn begin(&mut self, source: &mut Source<'a>) -> Result<(), StorageError> {
        if source.number == FIRST_SEGMENT {
            return Ok(());
        }
        let number = source.number;
        match source.sector(0)?.map(|bytes| sector::parse(bytes, number, 0)) {
            Some(Sector::Whole(whole)) if whole.first => {
                self.batch = whole.batch;
                Ok(())
            }
            _ => {
                let reason = format!("{}, the first file, has no beginning", segment::name(number));
                Err(corrupt(self.disk, &reason))
            }
        }
    }

    /// Reads all whole batches of a segment. Where the last one ends.
    fn batches(&mut self, source: &mut Source<'a>, first_segment: bool) -> Result<u64, StorageError> {
        let number = source.number;
        self.content.clear();
        let (mut begin, mut at) = (0, 0);
        while let Some(bytes) = source.sector(at)? {
            let Sector::Whole(whole) = sector::parse(bytes, number, at) else { break };
            if whole.batch != self.batch || whole.first != self.content.is_empty() {
                break;
            }
            at += 1;
            self.content.extend_from_slice(whole.payload);
            if whole.last {
                self.places.add_segment(number);
                self.apply(begin, first_segment).map_err(|reason| {
                    let reason = format!("batch {} in {}: {reason}", self.batch, segment::name(number));
                    corrupt(self.disk, &reason)
                })?;
                self.content.clear();
                self.batch = self.batch.checked_add(1).ok_or_else(|| corrupt(self.disk, "batch too high"))?;
                begin = at;
            }
        }
        if first_segment {
            self.places.add_segment(number);
        }
        Ok(begin)
    }

    /// Looks at all that follows the last whole batch of a segment. Where the last of it that was written ends.
    fn judge_rest(&self, source: &mut Source<'a>, from: u64) -> Result<u64, StorageError> {
        let number = source.number;
        let mut end = from;
        let mut at = from;
        while let Some(bytes) = source.sector(at)? {
            let reason = match sector::parse(bytes, number, at) {
                Sector::Empty => None,
                Sector::Unfinished => {
                    end = at + 1;
                    None
                }
                Sector::Whole(whole) if whole.batch == self.batch => {
                    end = at + 1;
                    None
                }
                Sector::Whole(whole) => Some(format!("batch {} follows", whole.batch)),
                Sector::Damaged => Some("it is damaged".to_owned()),
            };
            if let Some(reason) = reason {
                let name = segment::name(number);
                let reason =
                    format!("batch {} is not whole, and sector {at} of {name}: {reason}", self.batch);
                return Err(corrupt(self.disk, &reason));
            }
            at += 1;
        }
        Ok(end)
    }

    /// Does what the records of a whole batch say, which begins at that sector.
    fn apply(&mut self, sector: u64, first_segment: bool) -> Result<(), String> {
        let content = std::mem::take(&mut self.content);
        let base = sector as usize * PAYLOAD_BYTES;
        let mut at = 0;
        while at < content.len() {
            let (record, size) = record::decode(&content[at..])?;
            let is_state = matches!(record, Record::State(_));
            if is_state != (base + at == 0) {
                return Err("the state is not at the beginning of a segment".into());
            }
            let place = Place::try_from(base + at).map_err(|_| "a segment is too large")?;
            self.apply_record(record, place, first_segment)?;
            at += size;
        }
        self.content = content;
        Ok(())
    }

    fn apply_record(&mut self, record: Record<'_>, place: Place, first_segment: bool) -> Result<(), String> {
        let facts = &mut self.tail.facts;
        let index = |id: Option<crate::types::LogId>| id.map_or(0, |id| id.index + 1);
        match record {
            Record::State(state) if first_segment => {
                if index(state.last) < index(state.purged).max(index(state.committed)) {
                    return Err(format!("impossible state {state:?}"));
                }
                self.unknown = index(state.purged)..index(state.last);
                self.tail = Tail::new(state);
            }
            Record::State(state) => {
                if state != *facts {
                    return Err(format!("state {state:?} does not follow {facts:?}"));
                }
            }
            Record::Vote(vote) => {
                log_rules::check_vote(facts.vote, vote).map_err(|error| error.to_string())?;
                facts.vote = Some(vote);
            }
            Record::Committed(id) => {
                if index(Some(id)) > index(facts.last) {
                    return Err(format!("{id:?} is committed behind the end"));
                }
                facts.committed = Some(id);
            }
            Record::Truncate(keep) => {
                let least = index(facts.committed).max(index(facts.purged));
                if index(keep) < least || index(keep) > index(facts.last) {
                    return Err(format!("truncated after {keep:?} with {facts:?}"));
                }
                self.tail.truncate_after(keep);
                self.places.truncate(index(keep));
                self.unknown.end = self.unknown.end.min(index(keep));
            }
            Record::Purge(upto) => {
                if index(Some(upto)) <= index(facts.purged) {
                    return Err(format!("purged up to {upto:?} with {facts:?}"));
                }
                drop(self.tail.purge(upto));
                self.purged.extend(self.places.purge(upto.index));
                self.unknown.start = self.unknown.start.max(index(Some(upto)));
            }
            Record::Entry(id, payload) => {
                log_rules::check_append(facts.last, std::iter::once(id))
                    .map_err(|error| error.to_string())?;
                let payload = P::decode(payload).map_err(|error| format!("{id:?}: {error}"))?;
                self.tail.push(id, payload, 0);
                self.places.push(id.index, place);
                self.tail.evict(self.cache_bytes, 1, usize::MAX, &mut Vec::new());
            }
        }
        Ok(())
    }

    /// Whether all that the log should hold is there: a segment may be missing before the first.
    fn check_beginning(&self) -> Result<(), StorageError> {
        if self.unknown.is_empty() {
            return Ok(());
        }
        let Range { start, end } = self.unknown;
        let reason =
            format!("entries {start} to {} are missing: files before the first one are gone", end - 1);
        Err(corrupt(self.disk, &reason))
    }
}
