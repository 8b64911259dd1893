//! What is looked at on every tick, apart from mailboxes: one watch for each component that is judged by figures.
//!
//! A new component is a watch and a line in [`all`]. A watch looks at memory only: it must never wait. Times are the
//! monitor's running time, so that a pause of the process is nobody's fault but its own.

mod cluster;
mod process;
mod storage;

use std::sync::Arc;
use std::time::Duration;

use vaultdb_consensus::api::ClusterStatus;

use crate::figures::{Clocks, ProcessFigures};
use crate::judge::{Finding, Hysteresis};
use crate::options::HealthOptions;
use crate::port::Node;
use crate::shared::Shared;
use crate::slot::Vitals;

/// What there is to be seen at one tick.
pub(crate) struct Seen<'a> {
    /// The monitor's running time.
    pub now: Duration,
    pub clocks: Clocks,
    /// As last told by the kernel, or why it did not; `None` before the first answer.
    pub process: Option<&'a Result<ProcessFigures, String>>,
    /// `None` until consensus is up.
    pub node: Option<(&'a dyn Node, &'a ClusterStatus)>,
    pub options: &'a HealthOptions,
}

pub(crate) trait Watch: Send {
    /// `None` where nothing can be said yet.
    fn look(&mut self, seen: &Seen<'_>) -> Option<Finding>;
}

/// A watch and what it speaks of.
pub(crate) struct Watched {
    pub vitals: Arc<Vitals>,
    watch: Box<dyn Watch>,
    hysteresis: Hysteresis,
}

impl Watched {
    fn new(vitals: &Arc<Vitals>, watch: impl Watch + 'static) -> Self {
        let hysteresis = Hysteresis::after(vitals.condition());
        Self { vitals: vitals.clone(), watch: Box::new(watch), hysteresis }
    }

    /// What is to be said now, if that is news.
    pub fn look(&mut self, seen: &Seen<'_>) -> Option<Finding> {
        let found = self.watch.look(seen)?;
        self.hysteresis.take(found, seen.options.good_looks_min)
    }
}

/// Every component that is judged by figures.
pub(crate) fn all(shared: &Shared) -> Vec<Watched> {
    vec![
        Watched::new(&shared.store_writes, storage::StoreWrites),
        Watched::new(&shared.wal, storage::Wal::default()),
        Watched::new(&shared.cluster, cluster::Cluster::default()),
        Watched::new(&shared.process, process::Process::default()),
        Watched::new(&shared.clock, process::WallClock::default()),
    ]
}

/// Since when something has held without a break.
#[derive(Debug, Default)]
struct Holding(Option<Duration>);

impl Holding {
    /// For how long, if it holds now.
    fn look(&mut self, holds: bool, now: Duration) -> Duration {
        self.0 = holds.then(|| self.0.unwrap_or(now));
        self.0.map_or(Duration::ZERO, |since| now.saturating_sub(since))
    }
}
