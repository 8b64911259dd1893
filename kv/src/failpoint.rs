//! Named places at which a test may have the process die, to try every stage of a write.
//!
//! Exists in builds with debug assertions only; in a release build [`reach`] is empty.

/// `VAULT_FAILPOINT=name:N`: the process aborts when the place is reached for the N-th time.
#[cfg(debug_assertions)]
const VARIABLE: &str = "VAULT_FAILPOINT";

#[cfg(debug_assertions)]
struct Failpoint {
    name: String,
    /// Passes until the process dies.
    left: std::sync::atomic::AtomicU64,
}

/// Dies here when it is this place's turn.
#[cfg(debug_assertions)]
pub fn reach(name: &str) {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::OnceLock;

    static FAILPOINT: OnceLock<Option<Failpoint>> = OnceLock::new();
    let failpoint = FAILPOINT.get_or_init(|| {
        let text = std::env::var(VARIABLE).ok()?;
        let (name, passes) = text.split_once(':')?;
        Some(Failpoint { name: name.to_owned(), left: AtomicU64::new(passes.parse().ok()?) })
    });
    let Some(failpoint) = failpoint.as_ref().filter(|failpoint| failpoint.name == name) else { return };
    if failpoint.left.fetch_sub(1, Ordering::Relaxed) == 1 {
        // As kill -9 would: nothing is flushed, nobody is told.
        std::process::abort();
    }
}

/// Nothing.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn reach(_name: &str) {}
