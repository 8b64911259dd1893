//! Whether a node has room for more data, as it last measured, for every part of it that takes writes.
//!
//! One [`Room`] is shared by every part of a node: one of them measures, the others ask for each write, which costs a few
//! loads. Between two looks it counts what was taken, so that no burst fills a disk unseen. Nothing here looks at a disk.
//! Invariant: what is refused has reached no log.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::Thread;

use serde::{Deserialize, Serialize};

use crate::faults::Faults;

/// What a byte of a write may take on the disk: in the log, in the file to which it is flushed, and in the one into which that
/// is compacted.
const DISK_BYTES_PER_BYTE: u64 = 3;
/// What was taken since the last look may bring the room down to this part of the line, until it is looked again.
const LINE_PER_RESERVE: u64 = 2;

/// Why a node takes no write that sets a value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shortage {
    /// The name of the node whose disk is nearly full.
    pub node: String,
    pub free_bytes: u64,
    /// So many must be free before it takes such writes again.
    pub needed_bytes: u64,
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { node, free_bytes, needed_bytes } = self;
        write!(
            f,
            "the disk of {node} is nearly full: {free_bytes} bytes are free, and {needed_bytes} must be before it takes more data"
        )
    }
}

/// What was measured last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measured {
    /// Bytes that the node may still take.
    pub free_bytes: u64,
    /// Bytes of the whole filesystem.
    pub total_bytes: u64,
    /// Whether writes that set a value are refused.
    pub read_only: bool,
}

/// Where growth ends and begins again, in free bytes; both 0 where nothing is to be refused, whatever is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoomLines {
    pub read_only: u64,
    /// See [`Shortage::needed_bytes`].
    pub resume: u64,
}

/// The room of one node. The default is one that nobody measures, which always suffices.
#[derive(Debug, Default)]
pub struct Room {
    node: String,
    faults: Arc<Faults>,
    free_bytes: AtomicU64,
    /// 0 until something was measured.
    total_bytes: AtomicU64,
    /// 0 while nothing is ever refused.
    line_bytes: AtomicU64,
    needed_bytes: AtomicU64,
    read_only: AtomicBool,
    /// Bytes of the writes that were taken since the last look.
    taken_bytes: AtomicU64,
    /// Who measures.
    watcher: OnceLock<Thread>,
}

impl Room {
    pub fn new(node: impl Into<String>, faults: Arc<Faults>) -> Self {
        Self { node: node.into(), faults, ..Self::default() }
    }

    /// Who is to be unparked when it is time to look. The first one stays.
    pub fn watched_by(&self, watcher: Thread) {
        // A second watcher would be one too many; a node has one in its life.
        let _ = self.watcher.set(watcher);
    }

    /// Tells what was measured.
    pub fn note(&self, measured: Measured, lines: RoomLines) {
        self.taken_bytes.store(0, Ordering::Relaxed);
        self.free_bytes.store(measured.free_bytes, Ordering::Relaxed);
        self.total_bytes.store(measured.total_bytes, Ordering::Relaxed);
        self.line_bytes.store(lines.read_only, Ordering::Relaxed);
        self.needed_bytes.store(lines.resume, Ordering::Relaxed);
        self.read_only.store(measured.read_only, Ordering::Release);
    }

    /// `None` while nobody has measured anything.
    pub fn measured(&self) -> Option<Measured> {
        let read_only = self.read_only.load(Ordering::Acquire);
        let total_bytes = Some(self.total_bytes.load(Ordering::Relaxed)).filter(|total| *total > 0)?;
        Some(Measured { free_bytes: self.free_bytes.load(Ordering::Relaxed), total_bytes, read_only })
    }

    /// What counts as free where so much is: nothing while the disk is to count as full.
    pub fn counted(&self, free_bytes: u64) -> u64 {
        match self.faults.disk_is_full() {
            true => 0,
            false => free_bytes,
        }
    }

    /// Takes so many bytes of a write that sets a value, or tells why it is to be refused now.
    pub fn take(&self, bytes: u64) -> Option<Shortage> {
        let line = self.line_bytes.load(Ordering::Relaxed);
        if line == 0 {
            return None;
        }
        if let Some(shortage) = self.shortage() {
            return Some(shortage);
        }
        let taken = self.taken_bytes.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        let free_bytes = self.free_bytes.load(Ordering::Relaxed);
        let left = free_bytes.saturating_sub(taken.saturating_mul(DISK_BYTES_PER_BYTE));
        if left >= line {
            return None;
        }
        if let Some(watcher) = self.watcher.get() {
            watcher.unpark();
        }
        let needed_bytes = self.needed_bytes.load(Ordering::Relaxed);
        (left < line / LINE_PER_RESERVE).then(|| Shortage {
            node: self.node.clone(),
            free_bytes: left,
            needed_bytes,
        })
    }

    /// Why growth is refused, by the last look or by a fault, which counts at once.
    fn shortage(&self) -> Option<Shortage> {
        let read_only = self.read_only.load(Ordering::Acquire);
        let full = self.faults.disk_is_full();
        if !read_only && !full {
            return None;
        }
        let needed_bytes = Some(self.needed_bytes.load(Ordering::Relaxed)).filter(|needed| *needed > 0)?;
        let free_bytes = if full { 0 } else { self.free_bytes.load(Ordering::Relaxed) };
        Some(Shortage { node: self.node.clone(), free_bytes, needed_bytes })
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::faults::FaultKind;

    const LINES: RoomLines = RoomLines { read_only: 80, resume: 100 };

    fn measured(free_bytes: u64, read_only: bool) -> Measured {
        Measured { free_bytes, total_bytes: 1_000, read_only }
    }

    /// Growth is refused while the last look says so or the fault is on, and never where nothing is needed.
    #[test]
    fn refused_by_measure_or_by_fault() {
        let faults = Arc::new(Faults::default());
        let room = Room::new("node0", faults.clone());
        let inject = || faults.inject(FaultKind::DiskFull, Duration::from_secs(60));
        let fault = inject();
        assert_eq!((room.take(1), room.measured()), (None, None), "nobody measures");
        faults.clear(fault);

        room.note(measured(40, true), LINES);
        let shortage = room.take(1).expect("read-only");
        assert_eq!((shortage.free_bytes, shortage.needed_bytes), (40, 100));
        assert_eq!(
            shortage.to_string(),
            "the disk of node0 is nearly full: 40 bytes are free, and 100 must be before it takes more data"
        );
        room.note(measured(400, false), LINES);
        assert_eq!(room.take(1), None);
        assert_eq!(room.counted(400), 400);

        let fault = inject();
        assert_eq!((room.take(1).expect("by fault").free_bytes, room.counted(400)), (0, 0));
        room.note(measured(400, false), RoomLines { read_only: 0, resume: 0 });
        assert_eq!(room.take(u64::MAX), None, "switched off");
        faults.clear(fault);
    }

    /// A burst between two looks has the disk looked at before it reaches the line, and is refused before it fills the disk.
    #[test]
    fn a_burst_is_bounded() {
        let room = Arc::new(Room::new("node0", Arc::default()));
        room.note(measured(400, false), LINES);
        assert_eq!((room.take(100), room.take(6)), (None, None));
        let parked = room.clone();
        let watcher = std::thread::spawn(move || {
            parked.watched_by(std::thread::current());
            let begun = Instant::now();
            std::thread::park_timeout(Duration::from_secs(60));
            begun.elapsed()
        });
        while room.watcher.get().is_none() {
            std::thread::yield_now();
        }
        assert_eq!(room.take(1), None, "79 would be left, and 40 must be");
        assert!(watcher.join().expect("woken") < Duration::from_secs(60));
        assert_eq!(room.take(14).map(|shortage| shortage.free_bytes), Some(37));
        room.note(measured(300, false), LINES);
        assert_eq!(room.take(14), None, "measured anew");
    }
}
