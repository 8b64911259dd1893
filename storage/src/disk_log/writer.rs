//! The one thread that writes the log: takes all that waits, writes it as one batch, syncs once, answers.
//!
//! There is no timer: while one batch is under way the next one gathers. Nothing is written before all that was
//! written earlier is durable, which is what recovery relies on. After a failure nothing is written any more.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::AtomicBool;
use std::sync::Arc;
use std::time::{Duration, Instant};

use vaultdb_kv::failpoint;

use super::files::Files;
use super::places::Place;
use super::record::{self, Facts, Record, STATE_BYTES};
use super::sector::{self, PAYLOAD_BYTES, SECTOR_BYTES};
use super::segment::{self, Segment};
use super::tail::Cached;
use super::{Begun, Shared};
use crate::log::Payload;
use crate::types::{LogId, Vote};

/// Bytes of records after which a batch takes no more. More of them save nothing, and those that wait for the
/// first would wait longer.
const BATCH_BYTES_MAX: usize = 4 << 20;
/// Entries that are dropped from the cache after one batch, so that no batch takes long for it.
const EVICTED_MAX: usize = 8192;
/// The next segment is made once this part of one is used: early enough to be ready on a busy disk, and an idle
/// node makes none.
const PREPARE_AT_DIVISOR: u64 = 4;
/// How often a sync that is made slow looks whether it still is to be.
const DELAY_SLICE: Duration = Duration::from_millis(5);

pub(crate) enum Op<P> {
    Append(Vec<(LogId, P)>),
    Vote(Vote),
    Truncate(Option<LogId>),
    /// With the entries that are no longer cached, for they are to be dropped elsewhere.
    Purge(LogId, VecDeque<Cached<P>>),
    /// There is nothing to write, but somebody waits for all that came before.
    Nothing,
}

pub(crate) struct Queued<P> {
    pub number: u64,
    pub bytes: usize,
    pub op: Op<P>,
}

/// What a batch changes in where the entries are.
enum Moved {
    /// Entries from this index on, one after the other; so many places follow.
    Entries {
        first: u64,
        count: usize,
    },
    Truncated {
        end: u64,
    },
    Purged {
        upto: u64,
    },
}

pub(crate) struct Writer<P: Payload> {
    shared: Arc<Shared<P>>,
    files: Files,
    active: Segment,
    next_sector: u64,
    batch: u64,
    /// What is durable.
    durable: Facts,
    /// The same, once the batch is that is being put together.
    facts: Facts,
    /// Committed as the callers know it.
    committed: Option<LogId>,
    records: Vec<u8>,
    sectors: Vec<u8>,
    moved: Vec<Moved>,
    /// Of entries, from the beginning of the batch.
    offsets: Vec<usize>,
    /// Where in the segment the last batch that was written begins, in bytes of payload.
    base: usize,
    evicted: Vec<Cached<P>>,
}

impl<P: Payload> Writer<P> {
    pub(crate) fn new(
        shared: Arc<Shared<P>>,
        files: Files,
        active: Segment,
        next_sector: u64,
        batch: u64,
        facts: Facts,
    ) -> Self {
        Self {
            shared,
            files,
            active,
            next_sector,
            batch,
            durable: facts,
            facts,
            committed: facts.committed,
            records: Vec::new(),
            sectors: Vec::new(),
            moved: Vec::new(),
            offsets: Vec::new(),
            base: 0,
            evicted: Vec::new(),
        }
    }

    pub(crate) fn run(mut self) {
        let _guard = Guard(self.shared.clone());
        let mut work = VecDeque::new();
        while self.take(&mut work) {
            if let Err(error) = self.write(&mut work) {
                self.shared.delivery.fail(&error.to_string());
                return;
            }
        }
        // Closed in order: what was committed need not be found out again.
        self.put_committed();
        if let Err(error) = self.shared.delivery.check().and_then(|()| self.write_batch()) {
            self.shared.delivery.fail(&error.to_string());
        }
    }

    /// Waits for operations and takes what a batch may hold. `false` when the log is closed.
    fn take(&mut self, work: &mut VecDeque<Queued<P>>) -> bool {
        let mut state = self.shared.state.lock();
        while state.queue.is_empty() {
            if state.closing {
                self.committed = state.tail.facts.committed;
                return false;
            }
            self.shared.work.wait(&mut state);
        }
        let mut bytes = 0;
        while bytes < BATCH_BYTES_MAX {
            let Some(queued) = state.queue.pop_front() else { break };
            bytes += queued.bytes;
            work.push_back(queued);
        }
        self.committed = state.tail.facts.committed;
        true
    }

    /// Writes these operations, as one batch unless they are too large, and answers them.
    fn write(&mut self, work: &mut VecDeque<Queued<P>>) -> io::Result<()> {
        self.shared.delivery.check()?;
        // Batches in between make only those operations durable that came before all of these.
        let (Some(first), Some(last)) = (work.front(), work.back()) else { return Ok(()) };
        let (begin, end) = (first.number, last.number + 1);
        let bytes = work.iter().map(|queued| queued.bytes).sum();
        for queued in work.iter_mut() {
            self.put(&mut queued.op, begin)?;
        }
        self.put_committed();
        self.write_batch()?;
        self.shared.delivery.complete(end, work.len(), bytes);
        self.publish(end);
        work.clear();
        Ok(())
    }

    fn put(&mut self, op: &mut Op<P>, durable_end: u64) -> io::Result<()> {
        match op {
            Op::Append(entries) => {
                for (id, payload) in entries {
                    if self.records.len() >= BATCH_BYTES_MAX {
                        self.write_batch()?;
                        self.publish(durable_end);
                    }
                    self.put_entry(*id, payload)?;
                }
            }
            Op::Vote(vote) => {
                record::put(&mut self.records, &Record::Vote(*vote));
                self.facts.vote = Some(*vote);
            }
            Op::Truncate(keep) => {
                record::put(&mut self.records, &Record::Truncate(*keep));
                self.facts.last = *keep;
                self.moved.push(Moved::Truncated { end: keep.map_or(0, |keep| keep.index + 1) });
            }
            Op::Purge(upto, purged) => {
                record::put(&mut self.records, &Record::Purge(*upto));
                self.facts.purged = Some(*upto);
                if self.facts.last.is_none_or(|last| last.index <= upto.index) {
                    self.facts.last = Some(*upto);
                }
                self.moved.push(Moved::Purged { upto: upto.index });
                self.files.forget(Box::new(std::mem::take(purged)));
            }
            Op::Nothing => {}
        }
        Ok(())
    }

    fn put_entry(&mut self, id: LogId, payload: &P) -> io::Result<()> {
        let offset = self.records.len();
        record::put_entry(&mut self.records, id, |out| payload.encode(out))?;
        self.offsets.push(offset);
        self.facts.last = Some(id);
        match self.moved.last_mut() {
            Some(Moved::Entries { count, .. }) => *count += 1,
            _ => self.moved.push(Moved::Entries { first: id.index, count: 1 }),
        }
        Ok(())
    }

    /// What is committed rides along, once the entry is in the log.
    fn put_committed(&mut self) {
        let Some(committed) = self.committed.filter(|id| Some(*id) != self.facts.committed) else { return };
        if self.facts.last.is_some_and(|last| committed.index <= last.index) {
            record::put(&mut self.records, &Record::Committed(committed));
            self.facts.committed = Some(committed);
        }
    }

    /// Writes what was put together and makes it durable.
    fn write_batch(&mut self) -> io::Result<()> {
        if self.records.is_empty() {
            return Ok(());
        }
        let mut needed = sector::sectors_of(self.records.len());
        if self.next_sector > 0 && self.next_sector + needed > self.active.sectors {
            let sectors = self.shared.options.segment_sectors();
            self.active = self.files.take(self.active.number + 1, sectors)?;
            self.next_sector = 0;
        }
        if self.next_sector == 0 {
            self.begin_segment();
            needed = sector::sectors_of(self.records.len());
            if needed > self.active.sectors {
                let from = self.active.sectors * SECTOR_BYTES as u64;
                segment::fill(&*self.active.file, from, needed, &AtomicBool::new(false))?;
                self.active.sectors = needed;
            }
        }
        sector::frame(&mut self.sectors, self.active.number, self.next_sector, self.batch, &self.records);
        failpoint::stall("log-stalled");
        self.active.file.write_at(&self.sectors, self.next_sector * SECTOR_BYTES as u64)?;
        let begun = Instant::now();
        self.sync(begun)?;
        self.shared.fsyncs.record(begun.elapsed());

        self.base = self.next_sector as usize * PAYLOAD_BYTES;
        self.next_sector += needed;
        self.batch += 1;
        self.durable = self.facts;
        if self.next_sector >= self.active.sectors / PREPARE_AT_DIVISOR {
            self.files.prepare(self.active.number + 1, self.shared.options.segment_sectors());
        }
        Ok(())
    }

    /// Makes the segment durable, as slowly and as badly as the faults want it that were asked for.
    fn sync(&self, begun: Instant) -> io::Result<()> {
        let faults = &self.shared.options.faults;
        loop {
            let left = faults.fsync_delay().saturating_sub(begun.elapsed());
            if left.is_zero() || self.shared.state.lock().closing {
                break;
            }
            std::thread::sleep(left.min(DELAY_SLICE));
        }
        if faults.fsync_fails() {
            return Err(io::Error::other("fdatasync of the log: failed by an injected fault"));
        }
        self.active.file.sync()
    }

    /// Puts what is durable before all other records.
    fn begin_segment(&mut self) {
        let mut state = Vec::with_capacity(STATE_BYTES);
        record::put(&mut state, &Record::State(self.durable));
        self.records.splice(0..0, state);
        for offset in &mut self.offsets {
            *offset += STATE_BYTES;
        }
    }

    /// Lets the readers know where the entries of the batch are, and the cache, what it may drop.
    fn publish(&mut self, durable_end: u64) {
        let mut purged = Vec::new();
        {
            let mut state = self.shared.state.lock();
            state.places.add_segment(self.active.number);
            state.active = Begun { segment: self.active.number, sectors: self.next_sector };
            let mut offsets = self.offsets.drain(..);
            for moved in self.moved.drain(..) {
                match moved {
                    Moved::Entries { first, count } => {
                        for (index, offset) in (first..).zip(offsets.by_ref().take(count)) {
                            let place = Place::try_from(self.base + offset);
                            state.places.push(index, place.expect("segments are smaller than 4 GiB"));
                        }
                    }
                    Moved::Truncated { end } => state.places.truncate(end),
                    Moved::Purged { upto } => purged.extend(state.places.purge(upto)),
                }
            }
            let cache_bytes = self.shared.options.cache_bytes;
            state.tail.evict(cache_bytes, durable_end, EVICTED_MAX, &mut self.evicted);
        }
        self.evicted.clear();
        for number in purged {
            self.files.remove(number);
        }
        self.records.clear();
        if self.records.capacity() > 2 * BATCH_BYTES_MAX {
            // A single large entry; the next ones hardly are.
            self.records = Vec::new();
            self.sectors = Vec::new();
        }
    }
}

/// Fails the log when the thread panics, so that nobody waits for ever.
struct Guard<P: Payload>(Arc<Shared<P>>);

impl<P: Payload> Drop for Guard<P> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.delivery.fail("the thread that writes the log panicked");
        }
    }
}
