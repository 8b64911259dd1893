//! What the actors and their callers share: addresses, events and vital signs.
//!
//! Everything here can be read while any actor hangs.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use parking_lot::RwLock;
use tokio::sync::watch;
use vaultdb_kv::Health;

use crate::dispatcher::ReplicationDispatcher;
use crate::events::EventRing;
use crate::faults::FaultBoard;
use crate::health::HealthMonitor;
use crate::listings::Listings;
use crate::options::Options;
use crate::port::Node;
use crate::raft_node::RaftNodeActor;
use crate::slot::{ComponentId, Slot, Vitals, STARTING};
use crate::status::{ComponentHealth, EventKind, HealthReport, NodeInfo};
use crate::store::StoreActor;
use crate::supervisor::Supervisor;
use crate::totals::Totals;
use crate::witness::Witness;

pub(crate) struct Shared {
    pub info: NodeInfo,
    pub options: Options,
    pub started: Instant,
    /// Set once, when consensus is up.
    node: OnceLock<Arc<dyn Node>>,
    pub supervisor: Slot<Supervisor>,
    pub raft: Slot<RaftNodeActor>,
    pub dispatcher: Slot<ReplicationDispatcher>,
    pub health: Slot<HealthMonitor>,
    /// One for each web worker, in the order in which they came up.
    pub stores: RwLock<Vec<Slot<StoreActor>>>,
    /// How many web workers came up; numbers are not used again.
    pub workers: AtomicU32,
    pub listings: Listings,
    /// What passed through the dispatchers.
    pub totals: Arc<Totals>,
    pub engine: Arc<Vitals>,
    pub store_writes: Arc<Vitals>,
    pub cluster: Arc<Vitals>,
    /// Shown where there is a disk.
    pub disk: Arc<Vitals>,
    pub wal: Arc<Vitals>,
    pub process: Arc<Vitals>,
    pub clock: Arc<Vitals>,
    pub integrity: Arc<Vitals>,
    pub events: EventRing,
    pub faults: FaultBoard,
    pub witness: Witness,
    /// When the health monitor last ticked, in milliseconds since `started`.
    beat_ms: AtomicU64,
    escalation: watch::Sender<Option<String>>,
    stopping: AtomicBool,
}

impl Shared {
    pub fn new(info: NodeInfo, options: Options) -> Arc<Self> {
        let starting = || Some(STARTING.to_owned());
        let faults = FaultBoard::new(options.faults.clone());
        Arc::new(Self {
            info,
            options,
            started: Instant::now(),
            node: OnceLock::new(),
            supervisor: Slot::empty(ComponentId::Supervisor),
            raft: Slot::empty(ComponentId::Raft),
            dispatcher: Slot::empty(ComponentId::Dispatcher),
            health: Slot::empty(ComponentId::Health),
            stores: RwLock::default(),
            workers: AtomicU32::new(0),
            listings: Listings::default(),
            totals: Arc::default(),
            engine: Vitals::new(ComponentId::Engine, Health::Failed, starting()),
            store_writes: Vitals::new(ComponentId::StoreWrites, Health::Failed, starting()),
            cluster: Vitals::new(ComponentId::Cluster, Health::Failed, starting()),
            disk: Vitals::new(ComponentId::Disk, Health::Healthy, None),
            wal: Vitals::new(ComponentId::Wal, Health::Failed, starting()),
            process: Vitals::new(ComponentId::Process, Health::Healthy, None),
            clock: Vitals::new(ComponentId::Clock, Health::Healthy, None),
            integrity: Vitals::new(ComponentId::Integrity, Health::Healthy, None),
            events: EventRing::default(),
            faults,
            witness: Witness::default(),
            beat_ms: AtomicU64::new(0),
            escalation: watch::Sender::new(None),
            stopping: AtomicBool::new(false),
        })
    }

    pub fn node(&self) -> Option<&Arc<dyn Node>> {
        self.node.get()
    }

    /// The first attach wins, a node has one consensus in its life: `false` for any other.
    pub fn attach(&self, node: Arc<dyn Node>) -> bool {
        self.node.set(node).is_ok()
    }

    pub fn uptime_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub fn beat(&self) {
        self.beat_ms.store(self.uptime_ms(), Ordering::Release);
    }

    /// When the health monitor last ticked.
    pub fn beat_ms(&self) -> u64 {
        self.beat_ms.load(Ordering::Acquire)
    }

    /// How every component is, as last judged.
    pub fn report(&self) -> HealthReport {
        let stores: Vec<_> = self.stores.read().iter().map(|slot| slot.vitals.clone()).collect();
        let mut components = vec![
            health_of(&[&self.supervisor.vitals]),
            health_of(&[&self.raft.vitals]),
            health_of(&[&self.engine, &self.store_writes].into_iter().chain(&stores).collect::<Vec<_>>()),
            health_of(&[&self.dispatcher.vitals]),
            health_of(&[&self.health.vitals]),
            health_of(&[&self.cluster]),
            health_of(&[&self.wal]),
            health_of(&[&self.process]),
            health_of(&[&self.clock]),
            health_of(&[&self.integrity]),
        ];
        components.extend(self.options.space.iter().map(|_| health_of(&[&self.disk])));
        let state = components.iter().map(|component| component.state).max().unwrap_or(Health::Failed);
        HealthReport { state, components }
    }

    /// Gives the node up: the process must end. The first reason stays.
    pub fn escalate(&self, component: ComponentId, reason: String) {
        if self.is_stopping() {
            return;
        }
        let first = self.escalation.send_if_modified(|slot| {
            let first = slot.is_none();
            if first {
                *slot = Some(reason.clone());
            }
            first
        });
        if first {
            self.events.push(component, EventKind::Escalated, reason);
        }
    }

    pub fn escalations(&self) -> watch::Receiver<Option<String>> {
        self.escalation.subscribe()
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Returns whether this was the first call.
    pub fn begin_stop(&self) -> bool {
        !self.stopping.swap(true, Ordering::AcqRel)
    }
}

/// Several parts under one name: the worst speaks for all, restarts add up.
fn health_of(parts: &[&Arc<Vitals>]) -> ComponentHealth {
    let name = parts[0].id.name();
    let restarts = parts.iter().map(|part| part.restarts()).sum();
    let conditions = parts.iter().map(|part| part.condition());
    let worst = conditions.reduce(|worst, next| if next.state > worst.state { next } else { worst });
    let worst = worst.expect("every component has at least one part");
    ComponentHealth {
        name,
        state: worst.state,
        restarts,
        since_ms: worst.since_ms,
        reason: worst.reason,
        mailbox_delay: parts.iter().filter_map(|part| part.mailbox_delay()).max(),
    }
}
