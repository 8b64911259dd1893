//! Faults that were asked for, for tests and demonstrations: what is on, since when, until when.
//!
//! One [`Faults`] is shared by every part of a node. A part asks it at the place where the fault would show; while
//! nothing was injected that costs one relaxed load. Invariant: every fault ends by itself.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Most faults that are on at once.
pub const FAULTS_MAX: usize = 64;
/// Longest time that one lasts.
pub const FAULT_DURATION_MAX: Duration = Duration::from_secs(600);

/// What goes wrong while it is on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FaultKind {
    /// Each fdatasync of the Raft log takes this much longer.
    FsyncDelay { delay: Duration },
    /// The next fdatasync of the Raft log fails.
    FsyncFail,
    /// Nothing is sent to a peer nor taken from it; without a name, of every peer.
    PeerDrop { peer: Option<String> },
    /// Each message to a peer leaves this much later; without a name, to every peer.
    PeerDelay { peer: Option<String>, delay: Duration },
    /// The disk counts as full.
    DiskFull,
}

impl FaultKind {
    /// The name that users know it by.
    pub fn name(&self) -> &'static str {
        match self {
            FaultKind::FsyncDelay { .. } => "fsync_delay",
            FaultKind::FsyncFail => "fsync_fail",
            FaultKind::PeerDrop { .. } => "peer_drop",
            FaultKind::PeerDelay { .. } => "peer_delay",
            FaultKind::DiskFull => "disk_full",
        }
    }
}

/// A fault that is on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActiveFault {
    /// Grows with each fault; starts at 1.
    pub id: u64,
    pub kind: FaultKind,
    pub until: Instant,
}

/// The faults of one node.
#[derive(Debug, Default)]
pub struct Faults {
    /// Whether `active` may hold anything.
    any: AtomicBool,
    last_id: AtomicU64,
    active: Mutex<Vec<ActiveFault>>,
}

impl Faults {
    /// Turns a fault on for at most [`FAULT_DURATION_MAX`] and tells its id; `None` when [`FAULTS_MAX`] are on.
    pub fn inject(&self, kind: FaultKind, duration: Duration) -> Option<u64> {
        let now = Instant::now();
        let mut active = self.active.lock().unwrap_or_else(PoisonError::into_inner);
        active.retain(|fault| fault.until > now);
        if active.len() >= FAULTS_MAX {
            return None;
        }
        let id = self.last_id.fetch_add(1, Ordering::Relaxed) + 1;
        active.push(ActiveFault { id, kind, until: now + duration.min(FAULT_DURATION_MAX) });
        self.any.store(true, Ordering::Release);
        Some(id)
    }

    /// What is on, oldest first.
    pub fn active(&self) -> Vec<ActiveFault> {
        if !self.any.load(Ordering::Acquire) {
            return Vec::new();
        }
        let now = Instant::now();
        let mut active = self.active.lock().unwrap_or_else(PoisonError::into_inner);
        active.retain(|fault| fault.until > now);
        if active.is_empty() {
            self.any.store(false, Ordering::Release);
        }
        active.clone()
    }

    /// Ends one fault, or all; tells how many that were on.
    pub fn clear(&self, id: Option<u64>) -> usize {
        let now = Instant::now();
        let mut active = self.active.lock().unwrap_or_else(PoisonError::into_inner);
        active.retain(|fault| fault.until > now);
        let before = active.len();
        active.retain(|fault| id.is_some_and(|id| fault.id != id));
        before - active.len()
    }

    /// Whether any fault may be on. Cheap: what is asked before the name of a peer is looked up.
    pub fn may_be_on(&self) -> bool {
        self.any.load(Ordering::Relaxed)
    }

    /// How much longer an fdatasync of the log is to take now.
    pub fn fsync_delay(&self) -> Duration {
        self.longest(|kind| match kind {
            FaultKind::FsyncDelay { delay } => Some(*delay),
            _ => None,
        })
    }

    /// Whether an fdatasync of the log is to fail now.
    pub fn fsync_fails(&self) -> bool {
        self.active().iter().any(|fault| fault.kind == FaultKind::FsyncFail)
    }

    /// Whether nothing goes to or comes from the named peer now.
    pub fn drops(&self, name: &str) -> bool {
        let is_it = |peer: &Option<String>| peer.as_deref().is_none_or(|peer| peer == name);
        self.active().iter().any(|fault| matches!(&fault.kind, FaultKind::PeerDrop { peer } if is_it(peer)))
    }

    /// How much later a message to the named peer is to leave now.
    pub fn delay_to(&self, name: &str) -> Duration {
        self.longest(|kind| match kind {
            FaultKind::PeerDelay { peer, delay } if peer.as_deref().is_none_or(|peer| peer == name) => {
                Some(*delay)
            }
            _ => None,
        })
    }

    /// Whether the disk is to count as full now.
    pub fn disk_is_full(&self) -> bool {
        self.active().iter().any(|fault| fault.kind == FaultKind::DiskFull)
    }

    fn longest(&self, delay: impl Fn(&FaultKind) -> Option<Duration>) -> Duration {
        self.active().iter().filter_map(|fault| delay(&fault.kind)).max().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    /// A fault shows where it belongs, alone, until it is cleared; its number is not used again.
    #[test]
    fn faults_come_and_go() {
        let faults = Faults::default();
        let one = Some("node1".to_owned());
        let first = faults.inject(FaultKind::PeerDrop { peer: one.clone() }, LONG);
        assert_eq!(first, Some(1));
        assert!(faults.drops("node1") && !faults.drops("node2"));
        faults.inject(FaultKind::PeerDrop { peer: None }, LONG);
        assert!(faults.drops("node2") && !faults.disk_is_full() && !faults.fsync_fails());
        assert_eq!((faults.clear(first), faults.clear(first)), (1, 0));
        assert!(faults.drops("node1"), "the other one goes on");
        assert_eq!(faults.clear(None), 1);
        assert!(!faults.drops("node1"));
        let delay = Duration::from_millis(7);
        faults.inject(FaultKind::PeerDelay { peer: one, delay }, LONG);
        assert_eq!((faults.delay_to("node1"), faults.delay_to("node2")), (delay, Duration::ZERO));
        assert_eq!(faults.active()[0].id, 3);
    }

    /// A fault ends with its time, and there are never more than so many.
    #[test]
    fn faults_are_bounded() {
        let faults = Faults::default();
        faults.inject(FaultKind::DiskFull, Duration::ZERO);
        assert!(!faults.disk_is_full());
        for _ in 0..FAULTS_MAX {
            assert!(faults.inject(FaultKind::FsyncFail, LONG).is_some());
        }
        assert_eq!(faults.inject(FaultKind::DiskFull, LONG), None);
        assert!(faults.active().iter().all(|fault| fault.until <= Instant::now() + FAULT_DURATION_MAX));
    }
}
