//! The Raft log on disk: segments of checksummed batches, written by one thread.
//!
//! Invariant: what a caller was told to be durable is read back after any crash, or opening fails.
//! [ADR 5](../../../docs/adr/0005-write-ahead-log.md) has the format and why it is what it is.
//!
//! Callers change what the log holds in memory and queue what is to be written; they wait for the disk only while
//! it is so far behind that [`LogOptions::queue_bytes_max`] or [`delivery::OPERATIONS_MAX`] is reached, for at most
//! [`LogOptions::queue_wait_max`]. Entries that are no longer cached are read outside of every lock.

mod delivery;
pub(crate) mod disk;
mod files;
mod places;
mod reader;
pub(crate) mod record;
pub(crate) mod recover;
mod scrub;
pub(crate) mod sector;
mod segment;
#[cfg(test)]
mod sim_disk;
mod source;
pub(crate) mod tail;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use parking_lot::{Condvar, Mutex};
use vaultdb_kv::histogram::{Histogram, IO_BOUNDS_US};

use self::delivery::Delivery;
use self::disk::{Disk, RealDisk};
use self::files::Files;
use self::places::{Places, Run};
use self::reader::Reader;
use self::tail::Tail;
use self::writer::{Op, Queued, Writer};
use crate::durable_fs;
use crate::error::StorageError;
use crate::log::{LogBounds, LogStore, OnDurable, Payload};
use crate::log_options::LogOptions;
use crate::log_rules;
use crate::scrub::Pace;
use crate::types::{LogId, Vote};

/// Entries that a read looks up at once, while nothing can be appended.
const RUN_ENTRIES_MAX: usize = 1024;
/// How often a read begins anew because entries were truncated or purged under it.
const READ_TRIES_MAX: u32 = 16;

/// The Raft log on disk. One process at a time has a directory open.
pub struct DiskLog<P: Payload> {
    shared: Arc<Shared<P>>,
    reader: Reader,
    writer: Option<JoinHandle<()>>,
    disk: Arc<dyn Disk>,
}

/// What the callers and the writer share.
struct Shared<P: Payload> {
    state: Mutex<State<P>>,
    /// There is something in the queue, or the log is closing.
    work: Condvar,
    delivery: Arc<Delivery>,
    fsyncs: Arc<Histogram>,
    options: LogOptions,
}

struct State<P> {
    tail: Tail<P>,
    places: Places,
    queue: VecDeque<Queued<P>>,
    /// Grows whenever an entry may have been replaced by another one.
    truncations: u64,
    active: Begun,
    closing: bool,
}

/// The newest segment that is written to, and how many of its sectors are durable and never written again.
#[derive(Debug, Clone, Copy)]
struct Begun {
    segment: u64,
    sectors: u64,
}

/// Where a read goes on.
enum Step {
    Done,
    OnDisk(Run),
    Anew,
}

impl<P: Payload> std::fmt::Debug for DiskLog<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DiskLog").field("dir", &self.disk.path()).finish_non_exhaustive()
    }
}

impl<P: Payload> DiskLog<P> {
    /// Opens the log in `dir`, or makes it. What a crash left of a write that nobody was told to be
    /// durable is cut off the end; everything that is left is durable.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] for any other damage, [`StorageError::Refused`] for a log of another format,
    /// [`StorageError::Io`], also when another process has it open.
    pub fn open(dir: &Path, options: LogOptions) -> Result<Self, StorageError> {
        durable_fs::create_dir(dir)?;
        let disk = RealDisk::lock(dir).map_err(StorageError::io(format!("cannot lock {}", dir.display())))?;
        Self::open_on(Arc::new(disk), options)
    }

    pub(crate) fn open_on(disk: Arc<dyn Disk>, options: LogOptions) -> Result<Self, StorageError> {
        let found = recover::recover::<P>(&*disk, &options)?;
        let facts = found.tail.facts;
        let delivery = Arc::new(Delivery::default());
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                tail: found.tail,
                places: found.places,
                queue: VecDeque::new(),
                truncations: 0,
                active: Begun { segment: found.active.number, sectors: found.next_sector },
                closing: false,
            }),
            work: Condvar::new(),
            delivery: delivery.clone(),
            fsyncs: Arc::new(Histogram::new(IO_BOUNDS_US)),
            options,
        });
        let io = StorageError::io("cannot start a thread of the Raft log");
        let writer = Files::start(disk.clone(), delivery).and_then(|files| {
            let writer =
                Writer::new(shared.clone(), files, found.active, found.next_sector, found.next_batch, facts);
            std::thread::Builder::new().name("log-writer".into()).spawn(move || writer.run())
        });
        let writer = Some(writer.map_err(io)?);
        Ok(Self { shared, reader: Reader::new(disk.clone()), writer, disk })
    }

    /// Queues what `apply` does to the state; what `check` refuses changes nothing. `check` tells whether there
    /// is anything to do. `bytes` is about what it will write.
    fn change(
        &self,
        done: Option<OnDurable>,
        bytes: usize,
        check: impl FnOnce(&State<P>) -> io::Result<bool>,
        apply: impl FnOnce(&mut State<P>, u64) -> Op<P>,
    ) -> io::Result<()> {
        let Shared { state, work, delivery, options, .. } = &*self.shared;
        let refuse = |done: Option<OnDurable>, error: io::Error| match done {
            Some(done) => delivery.refuse(done, error),
            None => error,
        };
        if let Err(error) = delivery.wait_for_room(options.queue_bytes_max, options.queue_wait_max) {
            return Err(refuse(done, error));
        }
        {
            let mut state = state.lock();
            let needed = match check(&state) {
                Ok(needed) => needed,
                Err(error) => {
                    drop(state);
                    return Err(refuse(done, error));
                }
            };
            if !needed && done.is_none() {
                return Ok(());
            }
            let number = delivery.register(bytes, done);
            let op = if needed { apply(&mut state, number) } else { Op::Nothing };
            state.queue.push_back(Queued { number, bytes, op });
        }
        work.notify_one();
        delivery.answer_if_failed();
        Ok(())
    }

    /// Reads on from `entries`, as far as that needs no disk.
    fn step(
        &self,
        range: &Range<u64>,
        truncations: u64,
        bytes_left: usize,
        entries: &mut Vec<(LogId, P)>,
    ) -> Step {
        let state = self.shared.state.lock();
        if state.truncations != truncations {
            return Step::Anew;
        }
        let mut left = state.tail.clamp(range.clone());
        if let Some((last, _)) = entries.last() {
            if left.start > last.index + 1 {
                // What comes next was purged meanwhile; what was read before is a whole answer.
                return Step::Done;
            }
            left.start = last.index + 1;
        }
        if left.is_empty() {
            return Step::Done;
        }
        let cached_from = state.tail.cached_from().unwrap_or(left.end);
        if left.start >= cached_from {
            state.tail.copy(left, bytes_left, entries);
            return Step::Done;
        }
        match state.places.find(left.start..left.end.min(cached_from), RUN_ENTRIES_MAX) {
            Some(run) => Step::OnDisk(run),
            // Purged on disk already, which the next look at the bounds will show.
            None => Step::Anew,
        }
    }
}

impl<P: Payload> LogStore<P> for DiskLog<P> {
    fn bounds(&self) -> LogBounds {
        self.shared.state.lock().tail.bounds()
    }

    fn vote(&self) -> Option<Vote> {
        self.shared.state.lock().tail.facts.vote
    }

    fn committed(&self) -> Option<LogId> {
        self.shared.state.lock().tail.facts.committed
    }

    fn save_vote(&self, vote: Vote, done: OnDurable) -> io::Result<()> {
        self.change(
            Some(done),
            record::STATE_BYTES,
            |state| log_rules::check_vote(state.tail.facts.vote, vote).map(|()| true),
            |state, _| {
                state.tail.facts.vote = Some(vote);
                Op::Vote(vote)
            },
        )
    }

    fn save_committed(&self, committed: Option<LogId>) -> io::Result<()> {
        self.shared.delivery.check()?;
        let Some(next) = committed else { return Ok(()) };
        let tail = &mut self.shared.state.lock().tail;
        if log_rules::commits(tail.bounds(), tail.facts.committed, next, || tail.id_at(next.index)) {
            tail.facts.committed = Some(next);
        }
        Ok(())
    }

    fn append(&self, entries: Vec<(LogId, P)>, done: OnDurable) -> io::Result<()> {
        let bytes = entries.iter().map(|(_, payload)| payload.weight() + record::HEADER_BYTES).sum();
        let ids: Vec<LogId> = entries.iter().map(|(id, _)| *id).collect();
        self.change(
            Some(done),
            bytes,
            |state| {
                log_rules::check_append(state.tail.facts.last, ids.into_iter())?;
                Ok(true)
            },
            |state, number| {
                for (id, payload) in &entries {
                    state.tail.push(*id, payload.clone(), number);
                }
                Op::Append(entries)
            },
        )
    }

    fn truncate_after(&self, last: Option<LogId>) -> io::Result<()> {
        self.change(
            None,
            record::STATE_BYTES,
            |state| {
                let found = last.and_then(|last| state.tail.id_at(last.index));
                log_rules::check_truncate(state.tail.bounds(), state.tail.facts.committed, last, found)
            },
            |state, _| {
                state.tail.truncate_after(last);
                state.truncations += 1;
                Op::Truncate(last)
            },
        )
    }

    fn purge(&self, upto: LogId) -> io::Result<()> {
        self.change(
            None,
            record::STATE_BYTES,
            |state| Ok(state.tail.facts.purged.is_none_or(|purged| upto.index > purged.index)),
            |state, _| Op::Purge(upto, state.tail.purge(upto)),
        )
    }

    fn read(&self, range: Range<u64>, bytes_max: usize) -> io::Result<Vec<(LogId, P)>> {
        let mut entries: Vec<(LogId, P)> = Vec::new();
        for _ in 0..READ_TRIES_MAX {
            self.shared.delivery.check()?;
            entries.clear();
            let mut weight = 0;
            let truncations = self.shared.state.lock().truncations;
            loop {
                match self.step(&range, truncations, bytes_max.saturating_sub(weight), &mut entries) {
                    Step::Done => return Ok(entries),
                    Step::Anew => break,
                    Step::OnDisk(run) => match self.reader.read(&run, bytes_max, &mut weight, &mut entries) {
                        Ok(()) if weight >= bytes_max => return Ok(entries),
                        Ok(()) => {}
                        Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                        Err(error) => return Err(error),
                    },
                }
            }
        }
        Err(io::Error::other(format!("entries {range:?} change faster than they can be read")))
    }

    fn bytes_behind(&self, index: u64) -> u64 {
        let segment_bytes = self.shared.options.segment_bytes as u64;
        self.shared.state.lock().places.bytes_behind(index, segment_bytes)
    }

    fn first_within(&self, bytes_max: u64) -> u64 {
        let segment_bytes = self.shared.options.segment_bytes as u64;
        self.shared.state.lock().places.first_within(bytes_max, segment_bytes)
    }

    fn scrub(&self, pace: Pace<'_>) -> Result<bool, StorageError> {
        let (closed, active) = {
            let state = self.shared.state.lock();
            (state.places.closed(), state.active)
        };
        Ok(scrub::closed_segments(&*self.disk, &closed, pace)?
            && scrub::begun_segment(&*self.disk, active, pace)?)
    }

    fn fsync_histogram(&self) -> Option<Arc<Histogram>> {
        Some(self.shared.fsyncs.clone())
    }
}

impl<P: Payload> Drop for DiskLog<P> {
    fn drop(&mut self) {
        self.shared.state.lock().closing = true;
        self.shared.work.notify_one();
        // Joined, so that all is written and answered, and the directory free, when the log is gone.
        if self.writer.take().is_some_and(|writer| writer.join().is_err()) {
            log::error!("the thread that writes the Raft log panicked");
        }
    }
}
