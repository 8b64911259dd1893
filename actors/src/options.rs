//! Every limit of the actors, with its default.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use vaultdb_kv::{Faults, Room};

use crate::figures::{Figures, SystemFigures};
use crate::space::SpaceOptions;

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
    /// When what is measured counts as degraded or failed.
    pub health: HealthOptions,
    /// Who tells of the process and of the time.
    pub figures: Arc<dyn Figures>,
    /// Restarts of one component within `restart_window` that are tried before the node gives up.
    pub restarts_max: usize,
    pub restart_window: Duration,
    /// Wait before the first restart in a window; twice as long before each next one.
    pub restart_backoff: Duration,
    /// Longest wait for another node to take the leadership over from one that is given up.
    pub step_aside_max: Duration,
    /// Threads left behind because an actor blocked them, and blocked still; one more and the node gives up.
    pub abandoned_arbiters_max: usize,
    /// What of the disk is watched; `None` for a node that has none.
    pub space: Option<SpaceOptions>,
    /// Whether the node has room for more data: the same one as [`crate::boot::BootOptions::room`].
    pub room: Arc<Room>,
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
            health: HealthOptions::default(),
            figures: Arc::new(SystemFigures),
            restarts_max: 3,
            restart_window: Duration::from_secs(60),
            restart_backoff: Duration::from_millis(20),
            step_aside_max: Duration::from_secs(1),
            abandoned_arbiters_max: 4,
            space: None,
            room: Arc::default(),
            fault_injection: false,
            faults: Arc::default(),
            data_dir: None,
        }
    }
}

/// Thresholds of the health monitor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HealthOptions {
    /// Time between two looks at everything.
    pub probe_interval: Duration,
    /// An actor that has not answered a probe for this long is degraded, or has failed and is rebuilt.
    pub probe_degraded: Duration,
    pub probe_failed: Duration,
    /// Better looks in a row after which a component counts as better.
    pub good_looks_min: u32,
    /// A read of the store that takes longer.
    pub store_read_degraded: Duration,
    /// An applied write that is not in the store's engine yet. Longer than the second after which all of them are
    /// written out.
    pub store_write_degraded: Duration,
    /// Either of them.
    pub store_failed: Duration,
    /// A log that writes nothing though something waits; the first is the limit of the recent fsyncs, too.
    pub fsync_degraded: Duration,
    pub fsync_failed: Duration,
    /// What recent means.
    pub fsync_window: Duration,
    /// A cluster without a leader for longer is degraded.
    pub leaderless_degraded: Duration,
    /// A peer that is not heard of for longer is named.
    pub peer_silent_degraded: Duration,
    /// A peer that lacks more log entries than this, as its leader sees it, is named.
    pub peer_lag_entries_degraded: u64,
    /// Committed entries that are not applied here.
    pub apply_lag_entries_degraded: u64,
    /// How long a lag lasts, or applying stands still, before it is told.
    pub lag_degraded: Duration,
    /// Open files, in percent of the limit.
    pub open_files_percent_degraded: u64,
    /// Memory that the process may use, in bytes; 0: what its control group or the machine has.
    pub memory_bytes_max: u64,
    /// Memory in use, in percent of that; 0: not looked at.
    pub memory_percent_degraded: u64,
    /// The wall's clock goes elsewhere than the time that passed.
    pub clock_jump_degraded: Duration,
    /// The process was not run for longer.
    pub pause_degraded: Duration,
    /// For how long a jump or a pause is shown.
    pub incident_shown: Duration,
}

impl Default for HealthOptions {
    fn default() -> Self {
        Self {
            probe_interval: Duration::from_millis(100),
            probe_degraded: Duration::from_millis(250),
            probe_failed: Duration::from_millis(700),
            good_looks_min: 3,
            store_read_degraded: Duration::from_secs(1),
            store_write_degraded: Duration::from_secs(3),
            store_failed: Duration::from_secs(10),
            fsync_degraded: Duration::from_millis(250),
            fsync_failed: Duration::from_secs(2),
            fsync_window: Duration::from_secs(5),
            leaderless_degraded: Duration::from_secs(1),
            peer_silent_degraded: Duration::from_secs(1),
            peer_lag_entries_degraded: 10_000,
            apply_lag_entries_degraded: 10_000,
            lag_degraded: Duration::from_secs(1),
            open_files_percent_degraded: 80,
            memory_bytes_max: 0,
            memory_percent_degraded: 90,
            clock_jump_degraded: Duration::from_millis(500),
            pause_degraded: Duration::from_secs(1),
            incident_shown: Duration::from_secs(30),
        }
    }
}
