//! Every limit of the actors, with its default.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use vaultdb_kv::Faults;

/// Limits of admission, probing and healing.
#[derive(Debug, Clone)]
pub struct Options {
    /// Most writes admitted and not answered yet; one more is refused as overloaded.
    pub pending_commands_max: usize,
    /// Most bytes of keys and values in those writes.
    pub pending_bytes_max: usize,
    /// Most writes in one batch.
    pub batch_commands_max: usize,
    /// Most reads of one web worker that wait for the disk at once.
    pub disk_reads_max: usize,
    /// Whether reads that wait for the leader at the same time share one question to it.
    pub share_reads: bool,
    /// Time between two probes of a component.
    pub probe_interval: Duration,
    /// A probe that took longer is missed.
    pub probe_timeout: Duration,
    /// Missed probes in a row after which a component counts as degraded.
    pub probes_missed_degraded: u32,
    /// Missed probes in a row after which a component counts as failed and is rebuilt.
    pub probes_missed_failed: u32,
    /// A cluster without a leader for longer is degraded.
    pub leaderless_degraded: Duration,
    /// A peer that is unreachable for longer is reported.
    pub peer_unreachable_degraded: Duration,
    /// Restarts of one component within `restart_window` that are tried before the node gives up.
    pub restarts_max: usize,
    pub restart_window: Duration,
    /// Wait before the first restart in a window; five times as long before each next one.
    pub restart_backoff: Duration,
    /// Threads left behind because an actor blocked them; one more and the node gives up.
    pub abandoned_arbiters_max: usize,
    /// Lets `inject` reach the actors, and `inject_fault` everything else. Tests and demonstrations only.
    pub fault_injection: bool,
    /// The same that the log and consensus have.
    pub faults: Arc<Faults>,
    /// Whose files may be damaged on demand; `None` for a node that keeps everything in memory.
    pub data_dir: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            pending_commands_max: 16 * 1024,
            pending_bytes_max: 64 * 1024 * 1024,
            batch_commands_max: 512,
            disk_reads_max: 64,
            share_reads: true,
            probe_interval: Duration::from_millis(150),
            probe_timeout: Duration::from_millis(500),
            probes_missed_degraded: 2,
            probes_missed_failed: 4,
            leaderless_degraded: Duration::from_secs(1),
            peer_unreachable_degraded: Duration::from_secs(1),
            restarts_max: 3,
            restart_window: Duration::from_secs(60),
            restart_backoff: Duration::from_millis(20),
            abandoned_arbiters_max: 4,
            fault_injection: false,
            faults: Arc::default(),
            data_dir: None,
        }
    }
}
