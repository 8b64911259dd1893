//! Probes every component with a deadline and judges it healthy, degraded or failed.
//!
//! Lives on an arbiter of its own, so that it runs while anything else hangs. Decides, but never
//! rebuilds: that is the supervisor's. Invariant: what it waits for never delays the next tick.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::fut::{wrap_future, ActorFutureExt};
use actix::{Actor, ActorContext, AsyncContext, Context, Handler, MessageResult};
use vaultdb_kv::{Health, Key};

use crate::figures::ProcessFigures;
use crate::judge::{Finding, Hysteresis, Mailbox, RunningTime};
use crate::messages::{
    impl_common_handlers, ComponentDegraded, ComponentFailed, FailureCause, GetHealth, Probe, Tick,
};
use crate::sentinel::Sentinel;
use crate::shared::Shared;
use crate::slot::{unbound_mailbox, ComponentId, Slot, Vitals};
use crate::status::{EventKind, HealthReport};
use crate::watches::{self, Seen, Watched};

/// Reads of the store that fail in a row after which it is unfit.
const STORE_ERRORS_MAX: u32 = 4;
/// The kernel is asked about the process on each tick of this many.
const TICKS_PER_PROCESS_LOOK: u32 = 10;
/// A tick that comes later than this many intervals after the last means that nothing was run meanwhile.
const TICKS_LATE_MAX: u32 = 2;
/// How the reason ends while the node is rebuilt; tells the end of that from the end of anything else.
const SET_ASIDE: &str = ": the data are set aside, and this node is rebuilt from its peers";
/// Read by probes of the store; clients cannot be kept from setting it, and it does not matter.
pub(crate) const PROBE_KEY: &[u8] = b"vaultdb/health-probe";

pub(crate) struct HealthMonitor {
    shared: Arc<Shared>,
    generation: u64,
    time: RunningTime,
    mailboxes: HashMap<ComponentId, Mailbox>,
    watches: Vec<Watched>,
    store_read: StoreRead,
    process: ProcessLook,
    report: Arc<HealthReport>,
    _sentinel: Sentinel,
}

/// The probe of the store's read path.
struct StoreRead {
    /// In running time; one at a time.
    began: Option<Duration>,
    errors: u32,
    hysteresis: Hysteresis,
}

/// The question to the kernel; one at a time.
#[derive(Default)]
struct ProcessLook {
    asked: bool,
    ticks: u32,
    last: Option<Result<ProcessFigures, String>>,
}

impl HealthMonitor {
    pub fn new(shared: Arc<Shared>, sentinel: Sentinel) -> Self {
        let step_max = shared.options.health.probe_interval * TICKS_LATE_MAX;
        let hysteresis = Hysteresis::after(shared.engine.condition());
        Self {
            generation: shared.health.vitals.generation(),
            time: RunningTime::new(Instant::now(), step_max),
            mailboxes: HashMap::new(),
            watches: watches::all(&shared),
            store_read: StoreRead { began: None, errors: 0, hysteresis },
            process: ProcessLook::default(),
            report: Arc::new(shared.report()),
            shared,
            _sentinel: sentinel,
        }
    }

    /// Notes a verdict and tells the supervisor when it is news.
    fn say(&self, vitals: &Vitals, found: Finding) {
        let Finding { state, reason } = found;
        if vitals.set(state, reason.clone()) {
            self.shared.supervisor.tell(ComponentDegraded { component: vitals.id, state, reason });
        }
    }

    /// Sends a probe, or judges how long the last one has been unanswered.
    fn probe<A>(&mut self, slot: &Slot<A>, ctx: &mut Context<Self>)
    where
        A: Actor<Context = Context<A>> + Handler<Probe>,
    {
        let (id, now, generation) = (slot.vitals.id, self.time.get(), slot.vitals.generation());
        let mailbox = self.mailboxes.entry(id).or_insert_with(|| Mailbox::new(generation));
        if mailbox.generation() != generation {
            *mailbox = Mailbox::new(generation);
        }
        if let Some(waited) = mailbox.outstanding(now) {
            self.judge_mailbox(&slot.vitals, waited);
            return;
        }
        // Nobody there: the supervisor knows already.
        let Ok(request) = slot.send(Probe) else { return };
        mailbox.send(now);
        let (vitals, sent) = (slot.vitals.clone(), Instant::now());
        // A handful of these at most, one for each actor that was built: that each wake polls them all costs nothing.
        ctx.spawn(wrap_future(request).map(move |answer, this: &mut Self, _| {
            this.answered(&vitals, generation, answer.is_ok().then(|| sent.elapsed()));
        }));
    }

    /// `delay` is `None` of an actor that ended: its own sentinel tells of that.
    fn answered(&mut self, vitals: &Vitals, generation: u64, delay: Option<Duration>) {
        let now = self.time.get();
        let Some(mailbox) = self.mailboxes.get_mut(&vitals.id) else { return };
        if mailbox.generation() != generation || vitals.generation() != generation {
            return;
        }
        let waited = mailbox.outstanding(now).unwrap_or_default();
        mailbox.clear();
        let Some(delay) = delay else { return };
        vitals.note_mailbox_delay(delay);
        // One that was slow and yet came in time is no good look.
        let found = self.slowness(waited);
        self.say_of_mailbox(vitals, found);
    }

    fn slowness(&self, waited: Duration) -> Finding {
        let degraded = self.shared.options.health.probe_degraded;
        match waited >= degraded {
            true => Finding::degraded(format!("slow: no answer within {} ms", degraded.as_millis())),
            false => Finding::healthy(),
        }
    }

    fn say_of_mailbox(&mut self, vitals: &Vitals, found: Finding) {
        let looks_min = self.shared.options.health.good_looks_min;
        let Some(mailbox) = self.mailboxes.get_mut(&vitals.id) else { return };
        if let Some(news) = mailbox.take(vitals.condition(), found, looks_min) {
            self.say(vitals, news);
        }
    }

    fn judge_mailbox(&mut self, vitals: &Vitals, waited: Duration) {
        let options = self.shared.options.health;
        if waited < options.probe_degraded {
            return;
        }
        vitals.note_mailbox_delay(waited);
        if waited < options.probe_failed {
            let found = self.slowness(waited);
            self.say_of_mailbox(vitals, found);
            return;
        }
        let silent_ms = u64::try_from(waited.as_millis()).unwrap_or(u64::MAX);
        let cause = FailureCause::Hung { silent_ms };
        if vitals.id == ComponentId::Supervisor {
            // Nobody is left to rebuild anything.
            self.shared.escalate(vitals.id, format!("the supervisor {cause}"));
        } else {
            // Said again on each tick: the first word may be lost.
            let generation = vitals.generation();
            self.shared.supervisor.tell(ComponentFailed { component: vitals.id, generation, cause });
        }
    }

    /// One read of the store at a time, on a blocking thread; a slow one is judged while it runs.
    fn probe_store(&mut self, ctx: &mut Context<Self>) {
        let Some(node) = self.shared.node().cloned() else { return };
        let now = self.time.get();
        if let Some(began) = self.store_read.began {
            let options = self.shared.options.health;
            let waited = now.saturating_sub(began);
            if waited >= options.store_read_degraded {
                let (degraded, failed) = (options.store_read_degraded, options.store_failed);
                self.say_of_store(Finding::of_wait(waited, degraded, failed, "a read of the store hangs"));
            }
            return;
        }
        let Ok(key) = Key::new(PROBE_KEY) else { return };
        self.store_read.began = Some(now);
        let read = tokio::task::spawn_blocking(move || node.get(&key));
        ctx.spawn(wrap_future(read).map(|read, this: &mut Self, _| {
            this.store_read.began = None;
            this.store_answered(match read {
                Ok(Ok(_)) => None,
                Ok(Err(error)) => Some(error.to_string()),
                Err(error) => Some(error.to_string()),
            });
        }));
    }

    fn say_of_store(&mut self, found: Finding) {
        let looks_min = self.shared.options.health.good_looks_min;
        if let Some(news) = self.store_read.hysteresis.take(found, looks_min) {
            self.say(&self.shared.engine, news);
        }
    }

    fn store_answered(&mut self, error: Option<String>) {
        let Some(reason) = error else {
            self.store_read.errors = 0;
            self.say_of_store(Finding::healthy());
            return;
        };
        self.store_read.errors += 1;
        self.say_of_store(Finding::failed(reason.clone()));
        if self.store_read.errors >= STORE_ERRORS_MAX {
            let (component, generation) = (ComponentId::Engine, 0);
            let cause = FailureCause::Unfit { reason };
            self.shared.supervisor.tell(ComponentFailed { component, generation, cause });
        }
    }

    /// Asks the kernel about the process, on a blocking thread.
    fn look_at_process(&mut self, ctx: &mut Context<Self>) {
        let due = self.process.ticks % TICKS_PER_PROCESS_LOOK == 0;
        self.process.ticks = self.process.ticks.wrapping_add(1);
        if !due || self.process.asked {
            return;
        }
        self.process.asked = true;
        let figures = self.shared.options.figures.clone();
        let look = tokio::task::spawn_blocking(move || figures.process());
        ctx.spawn(wrap_future(look).map(|look, this: &mut Self, _| {
            this.process.asked = false;
            this.process.last = Some(match look {
                Ok(Ok(figures)) => Ok(figures),
                Ok(Err(error)) => Err(error.to_string()),
                Err(error) => Err(error.to_string()),
            });
        }));
    }

    /// Told by what changes, so that a monitor that was rebuilt does not tell it again.
    fn look_at_integrity(&self) {
        let Some(node) = self.shared.node() else { return };
        let (found, vitals) = (node.integrity(), &self.shared.integrity);
        if let Some(reason) = found.corruption {
            self.say(vitals, Finding::failed(reason));
        } else if let Some(reason) = found.rebuilding {
            let told = format!("{reason}{SET_ASIDE}");
            if vitals.set(Health::Degraded, Some(told.clone())) {
                self.shared.events.push(vitals.id, EventKind::Quarantined, told);
            }
        } else if vitals.condition().reason.is_some_and(|reason| reason.ends_with(SET_ASIDE)) {
            vitals.set(Health::Healthy, None);
            let told = "a full member again, with data from its peers".to_owned();
            self.shared.events.push(vitals.id, EventKind::Rebuilt, told);
        } else {
            let concern = node.status().agreement.concern();
            self.say(vitals, concern.map_or_else(Finding::healthy, Finding::degraded));
        }
    }

    fn look_at_figures(&mut self) {
        let shared = self.shared.clone();
        let status = shared.node().map(|node| node.status());
        if let Some(status) = &status {
            shared.witness.look(status, Instant::now(), &shared.events);
        }
        let seen = Seen {
            now: self.time.get(),
            clocks: shared.options.figures.clocks(),
            process: self.process.last.as_ref(),
            node: shared.node().map(|node| &**node).zip(status.as_ref()),
            options: &shared.options.health,
        };
        let news: Vec<_> = self
            .watches
            .iter_mut()
            .filter_map(|watched| Some((watched.vitals.clone(), watched.look(&seen)?)))
            .collect();
        news.into_iter().for_each(|(vitals, found)| self.say(&vitals, found));
    }
}

impl Actor for HealthMonitor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        unbound_mailbox(ctx);
        ctx.notify(Tick);
        ctx.run_interval(self.shared.options.health.probe_interval, |_, ctx| ctx.notify(Tick));
    }
}

impl_common_handlers!(HealthMonitor);

impl Handler<Tick> for HealthMonitor {
    type Result = ();

    fn handle(&mut self, _: Tick, ctx: &mut Context<Self>) {
        if self.shared.health.vitals.generation() != self.generation {
            // Replaced: without this its own timer would keep it alive.
            ctx.stop();
            return;
        }
        self.shared.beat();
        self.time.advance(Instant::now());
        let shared = self.shared.clone();
        self.probe(&shared.supervisor, ctx);
        self.probe(&shared.raft, ctx);
        self.probe(&shared.dispatcher, ctx);
        let stores = shared.stores.read().clone();
        for store in &stores {
            self.probe(store, ctx);
        }
        self.mailboxes.retain(|id, _| {
            !matches!(id, ComponentId::Store(_)) || stores.iter().any(|store| store.vitals.id == *id)
        });
        self.probe_store(ctx);
        self.look_at_process(ctx);
        self.look_at_figures();
        self.look_at_integrity();
        self.report = Arc::new(shared.report());
    }
}

impl Handler<GetHealth> for HealthMonitor {
    type Result = MessageResult<GetHealth>;

    fn handle(&mut self, _: GetHealth, _: &mut Context<Self>) -> Self::Result {
        MessageResult(self.report.clone())
    }
}
