//! Owns the factories and current addresses of all other actors, and rebuilds what fails.
//!
//! A ladder of three rungs: an actor is rebuilt, at most `restarts_max` times within `restart_window`; after that, or
//! where rebuilding cannot help, a node that leads has its leadership moved away, within `step_aside_max`; then the
//! node is given up and whatever runs the process restarts it. Rebuilding makes actors, never a second consensus: that
//! is made once in a process. Sees to it that listings end with their leases. Must never wait for another actor.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::{
    Actor, ActorContext, Addr, Arbiter, ArbiterHandle, AsyncContext, Context, Handler, MessageResult,
};
use vaultdb_kv::Health;

use tokio::time::timeout;

use crate::component::{Component, Home, Member, Place, Slotted};
use crate::dispatcher::ReplicationDispatcher;
use crate::events::EVENTS_MAX;
use crate::health::HealthMonitor;
use crate::judge::RunningTime;
use crate::messages::{
    impl_common_handlers, Attach, ComponentDegraded, ComponentFailed, FailureCause, GetEvents, Inject,
    RegisterWorker, Restart, Sabotage, Stop,
};
use crate::pending::Ack;
use crate::queue::Queue;
use crate::raft_node::RaftNodeActor;
use crate::sentinel::Sentinel;
use crate::shared::Shared;
use crate::slot::{unbound_mailbox, ComponentId};
use crate::status::EventKind;
use crate::store::StoreActor;

/// How often the supervisor looks whether the health monitor still ticks.
const WATCH_INTERVAL: Duration = Duration::from_millis(100);
/// How often it is looked for listings whose leases have ended.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// How long a fault takes to strike: an actor may live on the thread of the worker that is to answer first.
const STRIKE_DELAY: Duration = Duration::from_millis(20);
/// Each restart in a window waits this many times longer than the one before. All of them stay within 100 ms, in which
/// a component is to be back: what keeps one that fails at once from being rebuilt forever is their number.
const BACKOFF_FACTOR: u32 = 2;

pub(crate) struct Supervisor {
    members: Vec<Member>,
    writes: Arbiter,
    health: Arbiter,
    /// The threads that were left behind and may still be blocked.
    abandoned: Vec<ArbiterHandle>,
    /// Whether the last rungs of the ladder are being climbed.
    giving_up: bool,
    watch: Watch,
    root: Root,
}

/// How long the health monitor has been silent.
struct Watch {
    time: RunningTime,
    /// The monitor's last beat, and when it was first seen, in running time.
    beat_ms: u64,
    seen: Duration,
}

/// Nobody rebuilds the supervisor: when it ends unasked, the node is given up.
struct Root(Arc<Shared>);

impl Drop for Root {
    fn drop(&mut self) {
        self.0.escalate(ComponentId::Supervisor, "the supervisor ended".into());
    }
}

impl Supervisor {
    /// To be called on the supervisor's own arbiter.
    pub fn new(shared: Arc<Shared>) -> Self {
        // First, so that it tells of a thread that cannot be had.
        let root = Root(shared);
        let time = RunningTime::new(Instant::now(), WATCH_INTERVAL * 2);
        Self {
            members: Vec::new(),
            writes: Arbiter::new(),
            health: Arbiter::new(),
            abandoned: Vec::new(),
            giving_up: false,
            watch: Watch { time, beat_ms: 0, seen: Duration::ZERO },
            root,
        }
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.root.0
    }

    fn home(&mut self, home: Home) -> &mut Arbiter {
        match home {
            Home::Writes => &mut self.writes,
            Home::Health => &mut self.health,
        }
    }

    fn position(&self, id: ComponentId) -> Option<usize> {
        self.members.iter().position(|member| member.id() == id)
    }

    fn add(&mut self, component: Box<dyn Component>, place: Place) -> usize {
        self.members.push(Member::new(component, place));
        self.members.len() - 1
    }

    fn build(&mut self, index: usize, own: Addr<Self>) {
        let arbiter = match &self.members[index].place {
            Place::Worker(arbiter) => arbiter.clone(),
            Place::Home(home) => {
                let home = *home;
                self.home(home).handle()
            }
        };
        let member = &mut self.members[index];
        member.rebuild_pending = false;
        let vitals = member.component.vitals();
        let sentinel = Sentinel::new(own, vitals.id, vitals.next_generation());
        member.component.build(&arbiter, sentinel);
        vitals.set(Health::Healthy, None);
        if vitals.id == ComponentId::Health {
            // A new monitor has its time to tick for the first time.
            self.watch.seen = self.watch.time.get();
        }
    }

    fn start(&mut self, index: usize, own: Addr<Self>) {
        self.build(index, own);
        let id = self.members[index].id();
        self.shared().events.push(id, EventKind::Started, String::new());
    }

    fn rebuild(&mut self, index: usize, detail: String, own: Addr<Self>) {
        self.build(index, own);
        let vitals = self.members[index].component.vitals();
        vitals.count_restart();
        let id = vitals.id;
        self.shared().events.push(id, EventKind::Restarted, detail);
    }

    fn start_health(&mut self, own: Addr<Self>) {
        let shared = self.shared().clone();
        let slot = shared.health.clone();
        let component = Slotted::new(slot, move |sentinel| HealthMonitor::new(shared.clone(), sentinel));
        let index = self.add(Box::new(component), Place::Home(Home::Health));
        self.start(index, own);
    }

    fn fail(&mut self, failed: ComponentFailed, ctx: &mut Context<Self>) {
        let ComponentFailed { component: id, generation, cause } = failed;
        if self.shared().is_stopping() || self.giving_up {
            return;
        }
        let Some(index) = self.position(id) else {
            if let FailureCause::Unfit { reason } = cause {
                self.give_up(id, reason);
            }
            return;
        };
        let member = &self.members[index];
        if member.rebuild_pending || member.component.vitals().generation() != generation {
            return;
        }
        if matches!(&member.place, Place::Worker(arbiter) if !arbiter.alive()) {
            self.retire(index);
            return;
        }
        member.component.clear();
        member.component.vitals().set(Health::Failed, Some(cause.to_string()));
        self.shared().events.push(id, cause.event(), cause.to_string());
        if let FailureCause::Unfit { reason } = cause {
            self.give_up(id, reason);
            return;
        }
        if matches!(cause, FailureCause::Hung { .. }) && !self.leave_arbiter(index, ctx.address()) {
            return;
        }
        self.schedule_rebuild(index, &cause, ctx);
    }

    fn schedule_rebuild(&mut self, index: usize, cause: &FailureCause, ctx: &mut Context<Self>) {
        let now = Instant::now();
        let (restarts_max, window, first) = {
            let options = &self.shared().options;
            (options.restarts_max, options.restart_window, options.restart_backoff)
        };
        let member = &mut self.members[index];
        let id = member.id();
        member.recent.retain(|at| now.duration_since(*at) < window);
        if member.recent.len() >= restarts_max {
            let reason = format!(
                "{id} {cause} after {restarts_max} restarts within {} s: the node gives up",
                window.as_secs()
            );
            self.give_up(id, reason);
            return;
        }
        let exponent = u32::try_from(member.recent.len()).unwrap_or(u32::MAX);
        let delay = first.saturating_mul(BACKOFF_FACTOR.saturating_pow(exponent));
        member.recent.push_back(now);
        member.rebuild_pending = true;
        let detail = format!("{cause}; rebuilt after {} ms", delay.as_millis());
        ctx.run_later(delay, move |this, ctx| {
            let pending = this.position(id).filter(|index| this.members[*index].rebuild_pending);
            if let Some(index) = pending.filter(|_| !this.shared().is_stopping()) {
                this.rebuild(index, detail, ctx.address());
            }
        });
    }

    /// A blocked actor cannot be killed: its thread is left behind, with a request to end, and
    /// everything that lived there moves. Returns `false` when the node was given up instead.
    fn leave_arbiter(&mut self, index: usize, own: Addr<Self>) -> bool {
        let Place::Home(home) = self.members[index].place else { return true };
        let abandoned_max = self.shared().options.abandoned_arbiters_max;
        // One that woke up has ended since, as it was asked to, and costs nothing any more.
        self.abandoned.retain(ArbiterHandle::alive);
        if self.abandoned.len() >= abandoned_max {
            let reason = format!("{abandoned_max} blocked threads were left behind already");
            self.give_up(self.members[index].id(), reason);
            return false;
        }
        let old = std::mem::replace(self.home(home), Arbiter::new());
        old.stop();
        self.abandoned.push(old.handle());
        for other in 0..self.members.len() {
            if other != index && self.members[other].is_at(home) && !self.members[other].rebuild_pending {
                self.members[other].component.clear();
                self.rebuild(other, "its thread was blocked by another actor".into(), own.clone());
            }
        }
        true
    }

    /// The last rungs of the ladder. A leader that is about to end hands over first, so that the others need not wait
    /// for its lease; whether that works or not, the node ends.
    fn give_up(&mut self, id: ComponentId, reason: String) {
        if std::mem::replace(&mut self.giving_up, true) {
            return;
        }
        let shared = self.shared().clone();
        let leading = shared.node().filter(|node| node.leadership().is_local).cloned();
        let Some(node) = leading else {
            shared.escalate(id, reason);
            return;
        };
        actix_rt::spawn(async move {
            let longest = shared.options.step_aside_max;
            let handover = node.transfer_leader(None, Instant::now() + longest);
            let detail = match timeout(longest, handover).await {
                Ok(Ok(name)) => format!("{name} leads now, since {reason}"),
                Ok(Err(error)) => format!("leadership was not moved away ({error}), though {reason}"),
                Err(_) => {
                    format!("nobody took leadership over within {} ms, though {reason}", longest.as_millis())
                }
            };
            shared.events.push(id, EventKind::SteppedAside, detail);
            shared.escalate(id, reason);
        });
    }

    /// A web worker ended, and its store actor with it.
    fn retire(&mut self, index: usize) {
        let member = self.members.remove(index);
        let id = member.id();
        member.component.clear();
        self.shared().stores.write().retain(|slot| slot.vitals.id != id);
        self.shared().events.push(id, EventKind::Stopped, "its web worker ended".into());
    }

    fn strike(&self, inject: &Inject, ctx: &mut Context<Self>) {
        if inject.name == ComponentId::Supervisor.name() {
            ctx.notify(Sabotage(inject.fault));
        }
        for member in self.members.iter().filter(|member| member.id().name() == inject.name) {
            member.component.sabotage(inject.fault);
        }
    }

    fn watch_health(&mut self, ctx: &mut Context<Self>) {
        let (now, beat_ms) = (self.watch.time.advance(Instant::now()), self.shared().beat_ms());
        if beat_ms != self.watch.beat_ms {
            (self.watch.beat_ms, self.watch.seen) = (beat_ms, now);
        }
        let health = &self.shared().options.health;
        let silent = now.saturating_sub(self.watch.seen);
        if silent >= health.probe_failed {
            // The next one has its time.
            self.watch.seen = now;
            let silent_ms = u64::try_from(silent.as_millis()).unwrap_or(u64::MAX);
            let generation = self.shared().health.vitals.generation();
            let cause = FailureCause::Hung { silent_ms };
            self.fail(ComponentFailed { component: ComponentId::Health, generation, cause }, ctx);
        }
    }
}

impl Actor for Supervisor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        unbound_mailbox(ctx);
        self.shared().supervisor.vitals.set(Health::Healthy, None);
        self.shared().events.push(ComponentId::Supervisor, EventKind::Started, String::new());
        self.start_health(ctx.address());
        ctx.run_interval(WATCH_INTERVAL, Self::watch_health);
        ctx.run_interval(WATCH_INTERVAL, |this, _| this.shared().faults.sweep(&this.shared().events));
        ctx.run_interval(SWEEP_INTERVAL, |this, _| this.shared().listings.sweep(Instant::now()));
    }
}

impl_common_handlers!(Supervisor);

impl Handler<Attach> for Supervisor {
    type Result = ();

    fn handle(&mut self, Attach(node): Attach, ctx: &mut Context<Self>) {
        let shared = self.shared().clone();
        let raft = {
            let node = node.clone();
            Slotted::new(shared.raft.clone(), move |sentinel| RaftNodeActor::new(node.clone(), sentinel))
        };
        let dispatcher = {
            let (shared, node) = (shared.clone(), node.clone());
            Slotted::new(shared.dispatcher.clone(), move |sentinel| {
                let queue = |ack| Queue::new(ack, node.clone(), &shared);
                ReplicationDispatcher::new(queue(Ack::Majority), queue(Ack::Leader), sentinel)
            })
        };
        let waiting: Vec<usize> = (0..self.members.len())
            .filter(|index| matches!(self.members[*index].place, Place::Worker(_)))
            .collect();
        let raft = self.add(Box::new(raft), Place::Home(Home::Writes));
        let dispatcher = self.add(Box::new(dispatcher), Place::Home(Home::Writes));
        for index in [raft, dispatcher].into_iter().chain(waiting) {
            self.start(index, ctx.address());
        }
        actix_rt::spawn(async move {
            let reason = node.failed().await;
            shared.escalate(ComponentId::Raft, format!("consensus stopped: {reason}"));
        });
    }
}

impl Handler<RegisterWorker> for Supervisor {
    type Result = ();

    fn handle(&mut self, msg: RegisterWorker, ctx: &mut Context<Self>) {
        let shared = self.shared().clone();
        let (disk_reads_max, share_reads) = (shared.options.disk_reads_max, shared.options.share_reads);
        let attached = shared.node().is_some() && self.position(ComponentId::Raft).is_some();
        let component = Slotted::new(msg.slot, move |sentinel| {
            let node = shared.node().expect("store actors are built only once consensus is attached");
            StoreActor::new(node.clone(), disk_reads_max, share_reads, sentinel)
        });
        let index = self.add(Box::new(component), Place::Worker(msg.arbiter));
        if attached {
            self.start(index, ctx.address());
        }
    }
}

impl Handler<ComponentFailed> for Supervisor {
    type Result = ();

    fn handle(&mut self, msg: ComponentFailed, ctx: &mut Context<Self>) {
        self.fail(msg, ctx);
    }
}

impl Handler<ComponentDegraded> for Supervisor {
    type Result = ();

    fn handle(&mut self, msg: ComponentDegraded, _: &mut Context<Self>) {
        let what = match msg.state {
            Health::Healthy => EventKind::Recovered,
            Health::Degraded => EventKind::Degraded,
            Health::Failed => EventKind::Failed,
        };
        self.shared().events.push(msg.component, what, msg.reason.unwrap_or_default());
    }
}

impl Handler<Restart> for Supervisor {
    type Result = bool;

    fn handle(&mut self, msg: Restart, ctx: &mut Context<Self>) -> bool {
        let named: Vec<_> = self
            .members
            .iter()
            .map(|member| member.component.vitals())
            .filter(|vitals| vitals.id.name() == msg.name)
            .map(|vitals| (vitals.id, vitals.generation()))
            .collect();
        let found = !named.is_empty();
        for (component, generation) in named {
            self.fail(ComponentFailed { component, generation, cause: FailureCause::Requested }, ctx);
        }
        found
    }
}

impl Handler<GetEvents> for Supervisor {
    type Result = MessageResult<GetEvents>;

    fn handle(&mut self, msg: GetEvents, _: &mut Context<Self>) -> Self::Result {
        MessageResult(self.shared().events.page(msg.since, EVENTS_MAX).events)
    }
}

impl Handler<Inject> for Supervisor {
    type Result = bool;

    fn handle(&mut self, msg: Inject, ctx: &mut Context<Self>) -> bool {
        if !self.shared().options.fault_injection {
            return false;
        }
        let mut found = msg.name == ComponentId::Supervisor.name();
        if found {
            self.shared().events.push(
                ComponentId::Supervisor,
                EventKind::FaultInjected,
                msg.fault.to_string(),
            );
        }
        for member in self.members.iter().filter(|member| member.id().name() == msg.name) {
            found = true;
            self.shared().events.push(member.id(), EventKind::FaultInjected, msg.fault.to_string());
        }
        if found {
            ctx.run_later(STRIKE_DELAY, move |this, ctx| this.strike(&msg, ctx));
        }
        found
    }
}

impl Handler<Stop> for Supervisor {
    type Result = ();

    fn handle(&mut self, _: Stop, ctx: &mut Context<Self>) {
        for member in &self.members {
            member.component.clear();
        }
        self.writes.stop();
        self.health.stop();
        self.shared().events.push(ComponentId::Supervisor, EventKind::Stopped, String::new());
        ctx.stop();
    }
}
