//! Named places at which a test may have the process die or stand still, to try every stage of a write, or do
//! the wrong thing, to see that the tests notice.
//!
//! Exists in builds with debug assertions only; in a release build [`reach`], [`stall`] and [`delay`] are empty and
//! [`is_on`] false.

/// `VAULT_FAILPOINT=name:N`: the process aborts when the place is reached for the N-th time; with 0 it never
/// does. At a place of [`delay`] N is a time.
#[cfg(debug_assertions)]
const VARIABLE: &str = "VAULT_FAILPOINT";

#[cfg(debug_assertions)]
struct Failpoint {
    name: String,
    /// Passes until the process dies, or milliseconds.
    left: std::sync::atomic::AtomicU64,
}

/// The one that the process was started with, if it has this name.
#[cfg(debug_assertions)]
fn find(name: &str) -> Option<&'static Failpoint> {
    use std::sync::atomic::AtomicU64;
    use std::sync::OnceLock;

    static FAILPOINT: OnceLock<Option<Failpoint>> = OnceLock::new();
    let failpoint = FAILPOINT.get_or_init(|| {
        let text = std::env::var(VARIABLE).ok()?;
        let (name, passes) = text.split_once(':')?;
        Some(Failpoint { name: name.to_owned(), left: AtomicU64::new(passes.parse().ok()?) })
    });
    failpoint.as_ref().filter(|failpoint| failpoint.name == name)
}

/// Dies here when it is this place's turn.
#[cfg(debug_assertions)]
pub fn reach(name: &str) {
    let Some(failpoint) = find(name) else { return };
    if failpoint.left.fetch_sub(1, std::sync::atomic::Ordering::Relaxed) == 1 {
        // As kill -9 would: nothing is flushed, nobody is told.
        std::process::abort();
    }
}

/// Stands still here for ever when it is this place's turn, as a disk that hangs.
#[cfg(debug_assertions)]
pub fn stall(name: &str) {
    let Some(failpoint) = find(name) else { return };
    if failpoint.left.fetch_sub(1, std::sync::atomic::Ordering::Relaxed) == 1 {
        loop {
            std::thread::park();
        }
    }
}

/// Stands still here for that many milliseconds, as a slow disk. Blocks the thread.
#[cfg(debug_assertions)]
pub fn delay(name: &str) {
    let Some(failpoint) = find(name) else { return };
    let ms = failpoint.left.load(std::sync::atomic::Ordering::Relaxed);
    std::thread::sleep(std::time::Duration::from_millis(ms));
}

/// Whether the process was started to do the wrong thing here.
#[cfg(debug_assertions)]
pub fn is_on(name: &str) -> bool {
    find(name).is_some()
}

/// Nothing.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn reach(_name: &str) {}

/// Nothing.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn stall(_name: &str) {}

/// Nothing.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn delay(_name: &str) {}

/// Never.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn is_on(_name: &str) -> bool {
    false
}
