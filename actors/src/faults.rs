//! Faults by order of a test or a demonstration: what is on, and an event for the begin and the end of each.
//!
//! Invariant: without fault injection nothing here does anything. What goes wrong where is each part's own business, which
//! asks the [`Faults`] that all of them share.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use vaultdb_kv::faults::{FAULTS_MAX, FAULT_DURATION_MAX};
use vaultdb_kv::{ActiveFault, FaultKind, Faults};

use crate::damage::{flip_bits, DataFile};
use crate::events::EventRing;
use crate::handles::WorkerHandles;
use crate::messages::Fault;
use crate::slot::ComponentId;
use crate::status::EventKind;

/// What is to go wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FaultOrder {
    /// For a time.
    Timed { kind: FaultKind, duration: Duration },
    /// To every actor of that name, at once.
    Actor { component: String, fault: Fault },
    /// In one file, at once.
    FlipBits(DataFile),
    /// In the state itself, at once: it is no longer what the other nodes have.
    FlipState,
}

/// Why nothing goes wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FaultRefusal {
    /// Fault injection is off.
    Off,
    NoSuchComponent {
        name: String,
    },
    NoSuchPeer {
        name: String,
    },
    /// So many are on.
    TooMany {
        faults_max: usize,
    },
    /// There is nothing on this node that could go wrong so.
    Impossible {
        reason: String,
    },
    /// The node starts, stops or is too busy; it may be repeated.
    Unavailable,
    Failed {
        reason: String,
    },
}

impl fmt::Display for FaultRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FaultRefusal::Off => f.write_str("fault injection is off"),
            FaultRefusal::NoSuchComponent { name } => write!(f, "no actor is called \"{name}\" on this node"),
            FaultRefusal::NoSuchPeer { name } => write!(f, "no peer of this node is called \"{name}\""),
            FaultRefusal::TooMany { faults_max } => write!(f, "{faults_max} faults are on already"),
            FaultRefusal::Impossible { reason } | FaultRefusal::Failed { reason } => f.write_str(reason),
            FaultRefusal::Unavailable => f.write_str("the node is starting or stopping"),
        }
    }
}

/// The faults that last, and which of them were told of.
pub(crate) struct FaultBoard {
    faults: Arc<Faults>,
    /// Told as begun and not yet as over. Held while one begins or ends, so that each is told once, in order.
    told: Mutex<Vec<ActiveFault>>,
}

impl FaultBoard {
    pub fn new(faults: Arc<Faults>) -> Self {
        Self { faults, told: Mutex::default() }
    }

    fn inject(&self, events: &EventRing, kind: FaultKind, duration: Duration) -> Option<ActiveFault> {
        let mut told = self.told.lock();
        let detail = format!("{}, for {} ms at most", sentence(&kind), duration.as_millis());
        let component = component_of(&kind);
        let until = Instant::now() + duration.min(FAULT_DURATION_MAX);
        let id = self.faults.inject(kind.clone(), duration)?;
        let fault = ActiveFault { id, kind, until };
        events.push(component, EventKind::FaultInjected, format!("fault {id}: {detail}"));
        told.push(fault.clone());
        Some(fault)
    }

    fn clear(&self, events: &EventRing, id: Option<u64>) -> usize {
        let mut told = self.told.lock();
        self.tell_over(&mut told, events, "its time is over");
        let cleared = self.faults.clear(id);
        self.tell_over(&mut told, events, "it was cleared");
        cleared
    }

    /// Tells of those that have ended by themselves.
    pub fn sweep(&self, events: &EventRing) {
        let mut told = self.told.lock();
        if !told.is_empty() {
            self.tell_over(&mut told, events, "its time is over");
        }
    }

    fn tell_over(&self, told: &mut Vec<ActiveFault>, events: &EventRing, why: &str) {
        let active = self.faults.active();
        told.retain(|fault| {
            let is_on = active.iter().any(|active| active.id == fault.id);
            if !is_on {
                let detail = format!("fault {}, {}: {why}", fault.id, fault.kind.name());
                events.push(component_of(&fault.kind), EventKind::FaultCleared, detail);
            }
            is_on
        });
    }
}

fn component_of(kind: &FaultKind) -> ComponentId {
    match kind {
        FaultKind::FsyncDelay { .. } | FaultKind::FsyncFail => ComponentId::Wal,
        FaultKind::PeerDrop { .. } | FaultKind::PeerDelay { .. } => ComponentId::Cluster,
        FaultKind::DiskFull => ComponentId::Disk,
    }
}

fn sentence(kind: &FaultKind) -> String {
    let peer = |peer: &Option<String>| peer.clone().unwrap_or_else(|| "any peer".into());
    match kind {
        FaultKind::FsyncDelay { delay } => {
            format!("each fdatasync of the log takes {} ms longer", delay.as_millis())
        }
        FaultKind::FsyncFail => "the next fdatasync of the log fails".into(),
        FaultKind::PeerDrop { peer: name } => format!("nothing goes to or comes from {}", peer(name)),
        FaultKind::PeerDelay { peer: name, delay } => {
            format!("each message to {} leaves {} ms later", peer(name), delay.as_millis())
        }
        FaultKind::DiskFull => "the disk counts as full".into(),
    }
}

impl WorkerHandles {
    /// Whether faults may be injected at all.
    pub fn may_inject_faults(&self) -> bool {
        self.shared.options.fault_injection
    }

    /// Lets something go wrong; the fault, if it lasts and can be cleared.
    ///
    /// # Errors
    /// [`FaultRefusal`]: nothing went wrong, except perhaps after [`FaultRefusal::Failed`].
    pub async fn inject_fault(&self, order: FaultOrder) -> Result<Option<ActiveFault>, FaultRefusal> {
        if !self.may_inject_faults() {
            return Err(FaultRefusal::Off);
        }
        match order {
            FaultOrder::Timed { kind, duration } => self.inject_timed(kind, duration).map(Some),
            FaultOrder::Actor { component, fault } => {
                if self.shared.is_stopping() {
                    return Err(FaultRefusal::Unavailable);
                }
                match self.inject(&component, fault).await {
                    true => Ok(None),
                    false => Err(FaultRefusal::NoSuchComponent { name: component }),
                }
            }
            FaultOrder::FlipBits(file) => self.damage(file).await.map(|()| None),
            FaultOrder::FlipState => self.flip_state().await.map(|()| None),
        }
    }

    fn inject_timed(&self, kind: FaultKind, duration: Duration) -> Result<ActiveFault, FaultRefusal> {
        match &kind {
            FaultKind::FsyncDelay { .. } | FaultKind::FsyncFail => {
                self.data_dir()?;
            }
            FaultKind::PeerDrop { peer: Some(name) } | FaultKind::PeerDelay { peer: Some(name), .. } => {
                self.check_peer(name)?;
            }
            FaultKind::PeerDrop { peer: None }
            | FaultKind::PeerDelay { peer: None, .. }
            | FaultKind::DiskFull => {}
        }
        let shared = &self.shared;
        let injected = shared.faults.inject(&shared.events, kind, duration);
        injected.ok_or(FaultRefusal::TooMany { faults_max: FAULTS_MAX })
    }

    fn check_peer(&self, name: &str) -> Result<(), FaultRefusal> {
        let status = self.shared.node().ok_or(FaultRefusal::Unavailable)?.status();
        let is_peer =
            |member: &vaultdb_consensus::api::Member| member.name == name && member.id != status.node.id;
        match status.members.iter().any(|other| is_peer(&other.member)) {
            true => Ok(()),
            false => Err(FaultRefusal::NoSuchPeer { name: name.to_owned() }),
        }
    }

    fn data_dir(&self) -> Result<std::path::PathBuf, FaultRefusal> {
        let in_memory = || FaultRefusal::Impossible { reason: "this node keeps everything in memory".into() };
        self.shared.options.data_dir.clone().ok_or_else(in_memory)
    }

    async fn damage(&self, file: DataFile) -> Result<(), FaultRefusal> {
        let dir = self.data_dir()?;
        let node = self.shared.node().ok_or(FaultRefusal::Unavailable)?.clone();
        let flip = move || {
            if file == DataFile::RocksDb {
                // What is in memory alone is in no file, and a compaction under way drops files that it has read already.
                node.settle_store().map_err(|error| failed(&error))?;
            }
            flip_bits(&dir, file).map_err(|error| failed(&error))
        };
        let told = tokio::task::spawn_blocking(flip).await.map_err(|error| failed(&error))??;
        let none =
            || FaultRefusal::Impossible { reason: format!("there is no file of kind {} yet", file.name()) };
        let detail = told.ok_or_else(none)?;
        self.shared.events.push(ComponentId::Integrity, EventKind::FaultInjected, detail);
        Ok(())
    }

    async fn flip_state(&self) -> Result<(), FaultRefusal> {
        let node = self.shared.node().ok_or(FaultRefusal::Unavailable)?.clone();
        let flipped = tokio::task::spawn_blocking(move || node.flip_state()).await;
        flipped.map_err(|error| failed(&error))?.map_err(|error| failed(&error))?;
        let detail = "the state was changed behind the log's back".to_owned();
        self.shared.events.push(ComponentId::Integrity, EventKind::FaultInjected, detail);
        Ok(())
    }

    /// The faults that are on and can be cleared, oldest first.
    pub fn active_faults(&self) -> Vec<ActiveFault> {
        self.shared.options.faults.active()
    }

    /// Ends one fault, or all; tells how many.
    pub fn clear_faults(&self, id: Option<u64>) -> usize {
        self.shared.faults.clear(&self.shared.events, id)
    }
}

fn failed(error: &dyn fmt::Display) -> FaultRefusal {
    FaultRefusal::Failed { reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::EVENTS_MAX;

    fn told(events: &EventRing) -> Vec<(&'static str, EventKind)> {
        events.page(0, EVENTS_MAX).events.into_iter().map(|event| (event.component, event.what)).collect()
    }

    /// The begin and the end of each fault are told once, of the component that it concerns, however it ends.
    #[test]
    fn each_fault_is_told_of_once() {
        let (faults, events) = (Arc::new(Faults::default()), EventRing::default());
        let board = FaultBoard::new(faults.clone());
        let long = Duration::from_secs(60);
        let first = board.inject(&events, FaultKind::FsyncFail, long).expect("room");
        board.inject(&events, FaultKind::PeerDrop { peer: None }, long).expect("room");
        board.sweep(&events);
        assert_eq!(told(&events), [("wal", EventKind::FaultInjected), ("cluster", EventKind::FaultInjected)]);
        assert_eq!(board.clear(&events, Some(first.id)), 1);
        assert_eq!(board.clear(&events, Some(first.id)), 0);
        assert_eq!(events.page(2, EVENTS_MAX).events.len(), 1);
        // As one that ends by itself.
        faults.clear(None);
        board.sweep(&events);
        board.sweep(&events);
        assert_eq!(board.clear(&events, None), 0);
        let ends = events.page(2, EVENTS_MAX).events;
        let over = |of: &str, why: &str| {
            ends.iter().filter(|e| e.component == of && e.detail.ends_with(why)).count()
        };
        assert_eq!((ends.len(), over("wal", "cleared"), over("cluster", "over")), (2, 1, 1));
        assert!(ends.iter().all(|event| event.what == EventKind::FaultCleared));
    }
}
