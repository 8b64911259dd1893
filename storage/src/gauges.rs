//! Figures that cost a look at the disk, taken once a second off every request's way, and a watch on
//! failures of RocksDB's own threads.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::engine::EngineHandle;
use crate::error::StorageError;
use crate::state_machine::Core;

const REFRESH_INTERVAL: Duration = Duration::from_secs(1);

pub(crate) struct Gauges {
    shared: Arc<Shared>,
    /// None when the engine is in memory, whose figures cost nothing.
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    keys_estimate: AtomicU64,
    disk_bytes: AtomicU64,
    stopping: Mutex<bool>,
    stop: Condvar,
}

impl Gauges {
    pub(crate) fn start(core: &Arc<Core>) -> Result<Self, StorageError> {
        let shared = Arc::new(Shared::default());
        if matches!(core.engine(), EngineHandle::Memory(_)) {
            return Ok(Self { shared, thread: None });
        }
        shared.refresh(core)?;
        let (for_thread, core) = (shared.clone(), Arc::downgrade(core));
        let thread = std::thread::Builder::new()
            .name("store-gauges".into())
            .spawn(move || for_thread.run(&core))
            .map_err(StorageError::io("cannot start a thread"))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Keys and bytes on disk.
    pub(crate) fn read(&self, core: &Core) -> (u64, u64) {
        if self.thread.is_none() {
            // A failure is told by the reads themselves.
            let gauge = core.engine().gauge().unwrap_or_default();
            return (gauge.keys_estimate, gauge.disk_bytes);
        }
        (self.shared.keys_estimate.load(Ordering::Relaxed), self.shared.disk_bytes.load(Ordering::Relaxed))
    }
}

impl Shared {
    fn run(&self, core: &Weak<Core>) {
        let mut stopping = self.stopping.lock();
        while !*stopping {
            if self.stop.wait_for(&mut stopping, REFRESH_INTERVAL).timed_out() {
                let Some(core) = core.upgrade() else { return };
                // A listing that fails once shows as old figures; a disk that is gone fails the writes.
                if let Err(error) = self.refresh(&core) {
                    log::warn!("cannot take the figures of the store: {error}");
                }
            }
        }
    }

    fn refresh(&self, core: &Core) -> Result<(), StorageError> {
        let gauge = core.engine().gauge().map_err(|error| match error {
            // A listing that failed.
            StorageError::Io { .. } => error,
            // The stage could not be written out: an idle store must not wait for the next write to say so.
            other => core.fail(other),
        })?;
        self.keys_estimate.store(gauge.keys_estimate, Ordering::Relaxed);
        self.disk_bytes.store(gauge.disk_bytes, Ordering::Relaxed);
        if gauge.background_errors > 0 {
            core.fail(StorageError::Poisoned { reason: "a flush or compaction of RocksDB failed".into() });
        }
        Ok(())
    }
}

impl Drop for Gauges {
    fn drop(&mut self) {
        *self.shared.stopping.lock() = true;
        self.shared.stop.notify_all();
        // Joined, so that the database is closed when the state machine is gone.
        if let Some(thread) = self.thread.take() {
            if thread.join().is_err() {
                log::error!("the thread that takes the figures of the store panicked");
            }
        }
    }
}
