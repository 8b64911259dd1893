//! Probes every component with a deadline and judges it healthy, degraded or failed.
//!
//! Lives on an arbiter of its own, so that it runs while anything else hangs. Decides, but never
//! rebuilds: that is the supervisor's. Invariant: what it waits for never delays the next tick.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::fut::{wrap_future, ActorFutureExt};
use actix::{Actor, ActorContext, AsyncContext, Context, Handler, MailboxError, MessageResult};
use tokio::time::timeout;
use vaultdb_consensus::api::ClusterStatus;
use vaultdb_kv::{Health, Key, NodeId};

use crate::judge::{Judge, Verdict};
use crate::messages::{
    impl_common_handlers, ComponentDegraded, ComponentFailed, FailureCause, GetHealth, Probe, Tick,
};
use crate::sentinel::Sentinel;
use crate::shared::Shared;
use crate::slot::{unbound_mailbox, ComponentId, Slot, Vitals};
use crate::status::{EventKind, HealthReport};

/// Applying that stands still this long behind the committed index is reported.
const APPLY_STALLED: Duration = Duration::from_secs(1);
/// Read by probes of the store; clients cannot be kept from setting it, and it does not matter.
pub(crate) const PROBE_KEY: &[u8] = b"vaultdb/health-probe";

pub(crate) struct HealthMonitor {
    shared: Arc<Shared>,
    generation: u64,
    /// Those with a probe on its way.
    probing: HashSet<ComponentId>,
    judges: HashMap<ComponentId, Judge>,
    engine: EngineProbe,
    leader_seen: Instant,
    /// Peers that cannot be reached, and since when.
    unreachable: HashMap<NodeId, Instant>,
    /// The applied index and when it last moved or had nothing to do.
    applied: (u64, Instant),
    report: Arc<HealthReport>,
    _sentinel: Sentinel,
}

#[derive(Default)]
struct EngineProbe {
    began: Option<Instant>,
    errors: u32,
}

impl HealthMonitor {
    pub fn new(shared: Arc<Shared>, sentinel: Sentinel) -> Self {
        let now = Instant::now();
        Self {
            generation: shared.health.vitals.generation(),
            report: Arc::new(shared.report()),
            shared,
            probing: HashSet::new(),
            judges: HashMap::new(),
            engine: EngineProbe::default(),
            leader_seen: now,
            unreachable: HashMap::new(),
            applied: (0, now),
            _sentinel: sentinel,
        }
    }

    /// Notes a verdict and tells the supervisor when it is news.
    fn judge(&self, vitals: &Vitals, state: Health, reason: Option<String>) {
        if vitals.set(state, reason.clone()) {
            self.shared.supervisor.tell(ComponentDegraded { component: vitals.id, reason });
        }
    }

    fn probe<A>(&mut self, slot: &Slot<A>, ctx: &mut Context<Self>)
    where
        A: Actor<Context = Context<A>> + Handler<Probe>,
    {
        let id = slot.vitals.id;
        if self.probing.contains(&id) {
            return;
        }
        // Nobody there: the supervisor knows already.
        let Ok(request) = slot.send(Probe) else { return };
        self.probing.insert(id);
        self.judges.entry(id).or_default().follow(slot.vitals.generation());
        let vitals = slot.vitals.clone();
        // A handful of these at most: that each wake polls them all costs nothing here.
        let answer = wrap_future(timeout(self.shared.options.probe_timeout, request));
        ctx.spawn(answer.map(move |answer, this: &mut Self, _| {
            this.probing.remove(&id);
            match answer {
                Ok(Ok(())) => this.probed(&vitals, true),
                // Its death is told by its own sentinel.
                Ok(Err(MailboxError::Closed | MailboxError::Timeout)) => {}
                Err(_) => this.probed(&vitals, false),
            }
        }));
    }

    fn probed(&mut self, vitals: &Vitals, answered: bool) {
        let options = &self.shared.options;
        let (degraded_at, failed_at) = (options.probes_missed_degraded, options.probes_missed_failed);
        let timeout_ms = options.probe_timeout.as_millis();
        let judge = self.judges.entry(vitals.id).or_default();
        let generation = judge.generation();
        if generation != vitals.generation() {
            return;
        }
        let verdict =
            if answered { judge.answered(degraded_at) } else { judge.missed(degraded_at, failed_at) };
        match verdict {
            Verdict::Unchanged => {}
            Verdict::Recovered => self.judge(vitals, Health::Healthy, None),
            Verdict::Degraded => {
                let reason = format!("does not answer within {timeout_ms} ms");
                self.judge(vitals, Health::Degraded, Some(reason));
            }
            Verdict::Failed => {
                let silent_ms = u64::try_from(timeout_ms).unwrap_or(u64::MAX) * u64::from(failed_at);
                let cause = FailureCause::Hung { silent_ms };
                if vitals.id == ComponentId::Supervisor {
                    // Nobody is left to rebuild anything.
                    self.shared.escalate(vitals.id, format!("the supervisor {cause}"));
                } else {
                    let failed = ComponentFailed { component: vitals.id, generation, cause };
                    self.shared.supervisor.tell(failed);
                }
            }
        }
    }

    /// One read of the store at a time, on a blocking thread; a slow one is judged while it runs.
    fn probe_engine(&mut self, ctx: &mut Context<Self>) {
        let Some(node) = self.shared.node().cloned() else { return };
        if let Some(began) = self.engine.began {
            let options = &self.shared.options;
            let slow = options.probe_timeout * options.probes_missed_degraded;
            if began.elapsed() > slow {
                let hung = began.elapsed() > options.probe_timeout * options.probes_missed_failed;
                let state = if hung { Health::Failed } else { Health::Degraded };
                self.judge(&self.shared.engine, state, Some("a read of the store hangs".into()));
            }
            return;
        }
        let Ok(key) = Key::new(PROBE_KEY) else { return };
        self.engine.began = Some(Instant::now());
        let read = tokio::task::spawn_blocking(move || node.get(&key));
        ctx.spawn(wrap_future(read).map(|read, this: &mut Self, _| {
            this.engine.began = None;
            let error = match read {
                Ok(Ok(_)) => None,
                Ok(Err(error)) => Some(error.to_string()),
                Err(error) => Some(error.to_string()),
            };
            this.engine_probed(error);
        }));
    }

    fn engine_probed(&mut self, error: Option<String>) {
        let Some(reason) = error else {
            self.engine.errors = 0;
            self.judge(&self.shared.engine, Health::Healthy, None);
            return;
        };
        self.engine.errors += 1;
        self.judge(&self.shared.engine, Health::Failed, Some(reason.clone()));
        if self.engine.errors >= self.shared.options.probes_missed_failed {
            let (component, generation) = (ComponentId::Engine, 0);
            let cause = FailureCause::Unfit { reason };
            self.shared.supervisor.tell(ComponentFailed { component, generation, cause });
        }
    }

    fn look_at_cluster(&mut self) {
        let Some(node) = self.shared.node() else { return };
        let (status, now) = (node.status(), Instant::now());
        if status.leadership.leader.is_some() {
            self.leader_seen = now;
        }
        if status.applied != self.applied.0 || status.applied >= status.committed {
            self.applied = (status.applied, now);
        }
        let peers = status.members.iter().filter(|other| other.member.id != status.node.id);
        self.unreachable = peers
            .filter(|peer| !peer.reachable)
            .map(|peer| (peer.member.id, *self.unreachable.get(&peer.member.id).unwrap_or(&now)))
            .collect();
        if let Some(reason) = &status.fatal {
            self.judge(&self.shared.cluster, Health::Failed, Some(format!("consensus stopped: {reason}")));
            return;
        }
        let reasons = self.cluster_troubles(&status, now);
        if reasons.is_empty() {
            self.judge(&self.shared.cluster, Health::Healthy, None);
        } else {
            self.judge(&self.shared.cluster, Health::Degraded, Some(reasons.join("; ")));
        }
    }

    /// Told by what changes, so that a monitor that was rebuilt does not tell it again.
    fn look_at_integrity(&self) {
        let Some(node) = self.shared.node() else { return };
        let (found, vitals) = (node.integrity(), &self.shared.integrity);
        if let Some(reason) = found.corruption {
            self.judge(vitals, Health::Failed, Some(reason));
        } else if let Some(reason) = found.rebuilding {
            let told = format!("{reason}: the data are set aside, and this node is rebuilt from its peers");
            if vitals.set(Health::Degraded, Some(told.clone())) {
                self.shared.events.push(vitals.id, EventKind::Quarantined, told);
            }
        } else if vitals.set(Health::Healthy, None) {
            let told = "a full member again, with data from its peers".to_owned();
            self.shared.events.push(vitals.id, EventKind::Rebuilt, told);
        }
    }

    /// Reasons hold no figure that changes by itself: each change of them is an event.
    fn cluster_troubles(&self, status: &ClusterStatus, now: Instant) -> Vec<String> {
        let mut reasons = Vec::new();
        if now.duration_since(self.leader_seen) > self.shared.options.leaderless_degraded {
            reasons.push("there is no leader".to_owned());
        }
        let patience = self.shared.options.peer_unreachable_degraded;
        let long_gone = |id| self.unreachable.get(id).is_some_and(|at| now.duration_since(*at) > patience);
        let unreachable: Vec<&str> = status
            .members
            .iter()
            .filter(|peer| long_gone(&peer.member.id))
            .map(|peer| peer.member.name.as_str())
            .collect();
        if !unreachable.is_empty() {
            reasons.push(format!("unreachable: {}", unreachable.join(", ")));
        }
        if now.duration_since(self.applied.1) > APPLY_STALLED {
            reasons.push("committed entries are not being applied".to_owned());
        }
        reasons
    }
}

impl Actor for HealthMonitor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        unbound_mailbox(ctx);
        ctx.notify(Tick);
        ctx.run_interval(self.shared.options.probe_interval, |_, ctx| ctx.notify(Tick));
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
        let shared = self.shared.clone();
        self.probe(&shared.supervisor, ctx);
        self.probe(&shared.raft, ctx);
        self.probe(&shared.dispatcher, ctx);
        let stores = shared.stores.read().clone();
        for store in &stores {
            self.probe(store, ctx);
        }
        self.probe_engine(ctx);
        self.look_at_cluster();
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
