//! Whether the data of this node are what was written: what is verified in the background, and what was found.
//!
//! Verifying is slow on purpose and runs on the blocking pool. What is found corrupt condemns the store at once; the
//! rest is [`crate::quarantine`]'s.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use tokio::sync::watch;
use vaultdb_kv::Role;
use vaultdb_storage::log::LogStore;
use vaultdb_storage::{StateMachine, StorageError};

use crate::codec::LogPayload;
use crate::core::Core;
use crate::identity::{Identity, IdentityError};
use crate::quarantine::{self, Phase};

/// Wait before the first verification, if the interval is not shorter.
const FIRST_SCRUB_MS: u64 = 60_000;
/// Longest pause within a verification before it looks whether the node stops.
const PAUSE_MAX: Duration = Duration::from_millis(50);
/// Time without reading that may be made up for by reading faster.
const CREDIT_MAX: Duration = Duration::from_secs(1);
/// Time between two looks whether a node that is being rebuilt is a full member again.
const REBUILT_LOOK: Duration = Duration::from_millis(200);

/// How everything at rest is verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScrubOptions {
    /// Between two verifications, in milliseconds; 0: none.
    pub interval_ms: u64,
    pub bytes_per_second_max: u64,
}

/// What is known of this node's data.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct IntegrityStatus {
    /// Bytes verified since the process started.
    pub scrubbed_bytes: u64,
    /// Unix time in milliseconds at which a verification last came to its end.
    pub last_scrub_ms: Option<u64>,
    /// Things found corrupt, the cause of a rebuild that goes on among them, and verifications that failed.
    pub errors: u64,
    /// What was found corrupt: the node is about to end.
    pub corruption: Option<String>,
    /// What an earlier process found corrupt, while the node is not a full member again.
    pub rebuilding: Option<String>,
}

/// The same, as it changes.
#[derive(Debug, Default)]
pub struct Integrity {
    scrubbed_bytes: AtomicU64,
    last_scrub_ms: AtomicU64,
    failed_scrubs: AtomicU64,
    /// Rebuilds that this process saw.
    rebuilds: AtomicU64,
    rebuilding: Mutex<Option<String>>,
}

impl Integrity {
    pub fn status(&self, store: &StateMachine) -> IntegrityStatus {
        let corruption = store.corruption();
        let last_scrub_ms = self.last_scrub_ms.load(Ordering::Relaxed);
        let counted = self.failed_scrubs.load(Ordering::Relaxed) + self.rebuilds.load(Ordering::Relaxed);
        IntegrityStatus {
            scrubbed_bytes: self.scrubbed_bytes.load(Ordering::Relaxed),
            last_scrub_ms: (last_scrub_ms > 0).then_some(last_scrub_ms),
            errors: counted + u64::from(corruption.is_some()),
            corruption,
            rebuilding: self.rebuilding.lock().clone(),
        }
    }
}

/// Verifies everything at rest again and again, for as long as consensus runs.
pub(crate) async fn scrub(core: Arc<Core>, log: Arc<dyn LogStore<LogPayload>>, options: ScrubOptions) {
    let mut fatal = core.fatal.subscribe();
    let mut wait_ms = options.interval_ms.min(FIRST_SCRUB_MS);
    while wait_ms > 0 {
        let over = fatal.wait_for(Option::is_some);
        if tokio::time::timeout(Duration::from_millis(wait_ms), over).await.is_ok() {
            return;
        }
        let (of, log) = (core.clone(), log.clone());
        let mut pace = Pace {
            integrity: core.integrity.clone(),
            stopped: core.fatal.subscribe(),
            rate: Rate { bytes_per_second_max: options.bytes_per_second_max, due: Instant::now() },
        };
        let scrubbed = tokio::task::spawn_blocking(move || all(&of, &*log, &mut pace)).await;
        match scrubbed {
            Ok(Ok(true)) => core.integrity.last_scrub_ms.store(unix_ms(), Ordering::Relaxed),
            Ok(Ok(false)) => return,
            // What is corrupt is told by the store.
            Ok(Err(StorageError::Corrupt { .. } | StorageError::Poisoned { .. })) => return,
            Ok(Err(e)) => {
                log::warn!("not everything could be verified: {e}");
                core.integrity.failed_scrubs.fetch_add(1, Ordering::Relaxed);
            }
            Err(e) => log::warn!("verifying ended: {e}"),
        }
        wait_ms = options.interval_ms;
    }
}

/// Tells whether it came to the end.
fn all(core: &Core, log: &dyn LogStore<LogPayload>, pace: &mut Pace) -> Result<bool, StorageError> {
    let scrubbed = check_identity(core).and_then(|()| log.scrub(&mut |bytes| pace.read(bytes)));
    if let Err(corrupt @ StorageError::Corrupt { .. }) = &scrubbed {
        core.quarantine(&corrupt.to_string());
    }
    Ok(scrubbed? && core.store.scrub(&mut |bytes| pace.read(bytes))?)
}

/// Whether the file still says who this node is.
fn check_identity(core: &Core) -> Result<(), StorageError> {
    let Some(dir) = &core.data_dir else { return Ok(()) };
    let found = match Identity::load(dir, &core.me.name) {
        Ok(Some(found)) => found.member(core.me.addr.clone()),
        Ok(None) => None,
        Err(IdentityError::Io { path, source }) => {
            return Err(StorageError::Io { context: path.display().to_string(), source });
        }
        Err(e) => return Err(StorageError::Corrupt { what: "identity.json".into(), reason: e.to_string() }),
    };
    match found.as_ref() == Some(&core.me) {
        true => Ok(()),
        false => {
            let reason = format!("it says {found:?}");
            Err(StorageError::Corrupt { what: "identity.json".into(), reason })
        }
    }
}

/// Keeps the reading slow, and counts it.
struct Pace {
    integrity: Arc<Integrity>,
    stopped: watch::Receiver<Option<String>>,
    rate: Rate,
}

impl Pace {
    /// So much was read: waits until that is allowed. `false` once the node stops.
    fn read(&mut self, bytes: u64) -> bool {
        self.integrity.scrubbed_bytes.fetch_add(bytes, Ordering::Relaxed);
        let due = self.rate.take(bytes, Instant::now());
        loop {
            if self.stopped.borrow().is_some() || self.stopped.has_changed().is_err() {
                return false;
            }
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            std::thread::sleep(left.min(PAUSE_MAX));
        }
    }
}

/// When reading may go on.
struct Rate {
    bytes_per_second_max: u64,
    due: Instant,
}

impl Rate {
    /// When more may be read after `bytes` that were read up to `now`. Of the time in which less was read than allowed,
    /// as of a wait for a lock or a pause of the process, [`CREDIT_MAX`] counts.
    fn take(&mut self, bytes: u64, now: Instant) -> Instant {
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_second_max.max(1));
        let took = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        // A clock that began less ago than that has nothing before.
        let from = now.checked_sub(CREDIT_MAX).map_or(self.due, |earliest| self.due.max(earliest));
        self.due = from + took;
        self.due
    }
}

/// Notes when a node whose data were set aside is a full member again.
pub(crate) async fn watch_rebuild(core: Arc<Core>, data_dir: PathBuf) {
    let reason = match quarantine::found(&data_dir) {
        Ok(Some((Phase::Rebuilding, reason))) => reason,
        Ok(_) | Err(_) => return,
    };
    core.integrity.rebuilds.fetch_add(1, Ordering::Relaxed);
    *core.integrity.rebuilding.lock() = Some(reason);
    while !is_full_member(&core) {
        tokio::time::sleep(REBUILT_LOOK).await;
        if core.fatal.borrow().is_some() {
            return;
        }
    }
    // Condemned meanwhile, it is about to be set aside again, before its rebuild was over.
    if core.store.corruption().is_some() {
        return;
    }
    let ended = tokio::task::spawn_blocking(move || quarantine::over(&data_dir)).await;
    if let Ok(Err(e)) = ended {
        log::warn!("the end of the rebuild was not noted: {e}");
    }
    log::info!("this node is rebuilt");
    *core.integrity.rebuilding.lock() = None;
}

/// A voter, or a learner that is to stay one and has the state.
fn is_full_member(core: &Core) -> bool {
    let status = core.status();
    let me = status.members.iter().find(|member| member.member.id == core.me.id);
    me.is_some_and(|me| match me.role {
        Role::Voter => true,
        Role::Learner => me.stays_learner && status.leadership.leader.is_some() && status.applied > 0,
    })
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reading keeps the rate, makes up for a short wait, and not for a long one.
    #[test]
    fn no_burst_after_a_pause() {
        const RATE: u64 = 1_000_000;
        let ms = Duration::from_millis;
        let begun = Instant::now() + ms(10_000);
        let mut rate = Rate { bytes_per_second_max: RATE, due: begun };
        let mut now = begun;
        for piece in 1..=100 {
            now = rate.take(10_000, now);
            assert_eq!(now - begun, ms(10 * piece));
        }
        let due = now;
        now += ms(100);
        assert_eq!(rate.take(10_000, now), due + ms(10), "a short wait is made up for");
        now += ms(60_000);
        let mut burst = 0;
        while rate.take(10_000, now) <= now {
            burst += 10_000;
        }
        assert_eq!(burst, RATE, "so much at once, and then the rate again");
    }
}
