//! Whether a node has room for more data, as it last measured, for every part of it that takes writes.
//!
//! One [`Room`] is shared by every part of a node: one of them measures, the others ask for each write, which costs
//! two loads. Nothing here looks at a disk. Invariant: what is refused has reached no log.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::faults::Faults;

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

/// The room of one node. The default is one that nobody measures, which always suffices.
#[derive(Debug, Default)]
pub struct Room {
    node: String,
    faults: Arc<Faults>,
    free_bytes: AtomicU64,
    /// 0 until something was measured.
    total_bytes: AtomicU64,
    /// See [`Shortage::needed_bytes`]; 0 while nothing is ever refused.
    needed_bytes: AtomicU64,
    read_only: AtomicBool,
}

impl Room {
    pub fn new(node: impl Into<String>, faults: Arc<Faults>) -> Self {
        Self { node: node.into(), faults, ..Self::default() }
    }

    /// Tells what was measured; `needed_bytes` is 0 where nothing is to be refused, whatever is free.
    pub fn note(&self, measured: Measured, needed_bytes: u64) {
        self.free_bytes.store(measured.free_bytes, Ordering::Relaxed);
        self.total_bytes.store(measured.total_bytes, Ordering::Relaxed);
        self.needed_bytes.store(needed_bytes, Ordering::Relaxed);
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

    /// Why a write that sets a value is to be refused now. A fault counts at once, before anything is measured anew.
    pub fn shortage(&self) -> Option<Shortage> {
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
    use std::time::Duration;

    use super::*;
    use crate::faults::FaultKind;

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
        assert_eq!((room.shortage(), room.measured()), (None, None), "nobody measures");
        faults.clear(fault);

        room.note(measured(40, true), 100);
        let shortage = room.shortage().expect("read-only");
        assert_eq!((shortage.free_bytes, shortage.needed_bytes), (40, 100));
        assert_eq!(
            shortage.to_string(),
            "the disk of node0 is nearly full: 40 bytes are free, and 100 must be before it takes more data"
        );
        room.note(measured(400, false), 100);
        assert_eq!(room.shortage(), None);
        assert_eq!(room.counted(400), 400);

        let fault = inject();
        assert_eq!((room.shortage().expect("by fault").free_bytes, room.counted(400)), (0, 0));
        room.note(measured(400, false), 0);
        assert_eq!(room.shortage(), None, "switched off");
        faults.clear(fault);
    }
}
