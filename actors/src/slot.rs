//! A slot holds the current address of an actor that may be rebuilt at any time.
//!
//! `actix::Supervisor` does not survive a panic and would restart the same value, so a dead actor is
//! replaced: the supervisor builds a new one and puts its address here. Must never hold its lock
//! across an await.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use actix::dev::ToEnvelope;
use actix::{Actor, Addr, Handler, Message};
use parking_lot::{Mutex, RwLock};
use vaultdb_kv::Health;

/// Which component something is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ComponentId {
    Supervisor,
    Raft,
    Dispatcher,
    Health,
    /// The `StoreActor` of one web worker.
    Store(u32),
    /// The store under all `StoreActor`s. Nothing to rebuild: when it is unfit, so is the process.
    Engine,
    /// Leader and peers. Seen, not rebuilt.
    Cluster,
    /// Whether the data are what was written. Not rebuilt: the whole node is.
    Integrity,
}

/// The names under which components appear in status, events and metrics.
pub mod component_names {
    pub const SUPERVISOR: &str = "supervisor";
    pub const RAFT: &str = "raft";
    pub const DISPATCHER: &str = "dispatcher";
    pub const HEALTH: &str = "health";
    pub const STORE: &str = "store";
    pub const CLUSTER: &str = "cluster";
    pub const INTEGRITY: &str = "integrity";
}

impl ComponentId {
    pub fn name(self) -> &'static str {
        match self {
            ComponentId::Supervisor => component_names::SUPERVISOR,
            ComponentId::Raft => component_names::RAFT,
            ComponentId::Dispatcher => component_names::DISPATCHER,
            ComponentId::Health => component_names::HEALTH,
            ComponentId::Store(_) | ComponentId::Engine => component_names::STORE,
            ComponentId::Cluster => component_names::CLUSTER,
            ComponentId::Integrity => component_names::INTEGRITY,
        }
    }
}

impl fmt::Display for ComponentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ComponentId::Store(worker) => write!(f, "{} of worker {worker}", self.name()),
            other => f.write_str(other.name()),
        }
    }
}

/// Milliseconds since the Unix epoch.
pub(crate) fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// How a component is; readable while the component itself hangs.
#[derive(Debug)]
pub(crate) struct Vitals {
    pub id: ComponentId,
    /// Counts the actors that were built; a notice about an older one is ignored.
    generation: AtomicU64,
    restarts: AtomicU64,
    condition: Mutex<Condition>,
}

#[derive(Debug, Clone)]
pub(crate) struct Condition {
    pub state: Health,
    pub since_ms: u64,
    pub reason: Option<String>,
}

impl Vitals {
    pub fn new(id: ComponentId, state: Health, reason: Option<String>) -> Arc<Self> {
        Arc::new(Self {
            id,
            generation: AtomicU64::new(0),
            restarts: AtomicU64::new(0),
            condition: Mutex::new(Condition { state, since_ms: unix_ms(), reason }),
        })
    }

    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    pub fn restarts(&self) -> u64 {
        self.restarts.load(Ordering::Relaxed)
    }

    pub fn count_restart(&self) {
        self.restarts.fetch_add(1, Ordering::Relaxed);
    }

    pub fn condition(&self) -> Condition {
        self.condition.lock().clone()
    }

    /// Returns whether anything changed. `since_ms` moves only when the state does.
    pub fn set(&self, state: Health, reason: Option<String>) -> bool {
        let mut condition = self.condition.lock();
        if condition.state == state && condition.reason == reason {
            return false;
        }
        if condition.state != state {
            condition.since_ms = unix_ms();
        }
        condition.state = state;
        condition.reason = reason;
        true
    }

    pub fn next_generation(&self) -> u64 {
        self.generation.fetch_add(1, Ordering::AcqRel) + 1
    }
}

/// The message was not accepted by anybody; here it is again.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Absent<M>(pub M);

/// The current address of one actor. Clones share it.
pub(crate) struct Slot<A: Actor> {
    addr: Arc<RwLock<Option<Addr<A>>>>,
    pub vitals: Arc<Vitals>,
}

impl<A: Actor> Clone for Slot<A> {
    fn clone(&self) -> Self {
        Self { addr: self.addr.clone(), vitals: self.vitals.clone() }
    }
}

impl<A: Actor> Slot<A> {
    pub fn empty(id: ComponentId) -> Self {
        let vitals = Vitals::new(id, Health::Failed, Some("not started yet".into()));
        Self { addr: Arc::new(RwLock::new(None)), vitals }
    }

    /// Whether there is an actor that takes messages.
    pub fn is_live(&self) -> bool {
        self.addr.read().as_ref().is_some_and(Addr::connected)
    }

    pub fn put(&self, addr: Addr<A>) {
        *self.addr.write() = Some(addr);
    }

    pub fn clear(&self) {
        *self.addr.write() = None;
    }

    /// Puts the message into the mailbox at once. The mailboxes here are unbounded (see
    /// [`unbound_mailbox`]), so nothing is left for the request's first poll to do.
    ///
    /// # Errors
    /// [`Absent`] when there is no live actor: the message was certainly not accepted.
    pub fn send<M>(&self, message: M) -> Result<actix::dev::Request<A, M>, Absent<M>>
    where
        M: Message + Send + 'static,
        M::Result: Send,
        A: Handler<M>,
        A::Context: ToEnvelope<A, M>,
    {
        match &*self.addr.read() {
            Some(addr) if addr.connected() => Ok(addr.send(message)),
            _ => Err(Absent(message)),
        }
    }

    /// Puts the message into the mailbox at once, for actors that answer in another way.
    ///
    /// # Errors
    /// [`Absent`] when there is no live actor: the message was certainly not accepted.
    pub fn post<M>(&self, message: M) -> Result<(), Absent<M>>
    where
        M: Message + Send + 'static,
        M::Result: Send,
        A: Handler<M>,
        A::Context: ToEnvelope<A, M>,
    {
        match &*self.addr.read() {
            Some(addr) if addr.connected() => {
                addr.do_send(message);
                Ok(())
            }
            _ => Err(Absent(message)),
        }
    }

    /// Tells without waiting. Lost when there is no live actor: only for what may be lost.
    pub fn tell<M>(&self, message: M)
    where
        M: Message + Send + 'static,
        M::Result: Send,
        A: Handler<M>,
        A::Context: ToEnvelope<A, M>,
    {
        if let Some(addr) = &*self.addr.read() {
            addr.do_send(message);
        }
    }
}

/// Switches a mailbox's capacity off. `Addr::send` ignores it anyway and only pays for parking; what
/// bounds the queues is admission: permits at the HTTP edge and the dispatcher's own limits.
pub(crate) fn unbound_mailbox<A: Actor<Context = actix::Context<A>>>(ctx: &mut actix::Context<A>) {
    ctx.set_mailbox_capacity(0);
}
