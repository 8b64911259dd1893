//! One write on its way, and who may say what about it.
//!
//! The caller and the dispatcher share a state word, so that whatever happens to the dispatcher (it
//! panics, hangs, its thread is left behind) the caller can tell a write that was never handed to
//! consensus from one that was. Invariant: a write is handed to consensus only by whoever moved its
//! state to `SENT`, and never after its caller gave it up.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::Arc;
use std::time::Instant;

use vaultdb_kv::Command;

/// Waits here; never handed to consensus.
const QUEUED: u8 = 0;
/// Handed to consensus; the outcome is open.
const SENT: u8 = 1;
/// Handed over and definitely refused; waits for a leader that takes it.
const REFUSED: u8 = 2;
/// The caller went away or was answered.
const ABANDONED: u8 = 3;

/// What a queued write weighs beside its keys and values, in bytes.
const OVERHEAD_BYTES: usize = 128;

/// When a write is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ack {
    /// Once it is committed and applied.
    Majority,
    /// Once it is durable in the leader's own log.
    Leader,
}

#[derive(Debug)]
pub(crate) struct Pending {
    state: AtomicU8,
    pub ack: Ack,
    pub bytes: usize,
    pub arrived: Instant,
    pub deadline: Instant,
    pub command: Arc<Command>,
}

/// How far a write had come when its caller gave it up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Certainly not applied: never handed to consensus, and never will be.
    NeverSent,
    /// Certainly not applied: refused by those asked so far, and will not be sent again.
    Refused,
    /// May take effect, now or later.
    Open,
}

impl Pending {
    pub fn new(command: Command, ack: Ack, deadline: Instant) -> Arc<Self> {
        let bytes = command.payload_bytes() + OVERHEAD_BYTES;
        let command = Arc::new(command);
        let (state, arrived) = (AtomicU8::new(QUEUED), Instant::now());
        Arc::new(Self { state, ack, bytes, arrived, deadline, command })
    }

    /// To be called right before the write is handed over; `false` when nobody waits for it any more.
    pub fn claim(&self) -> bool {
        self.state
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |state| {
                matches!(state, QUEUED | REFUSED).then_some(SENT)
            })
            .is_ok()
    }

    /// Notes a definite refusal; `false` when nobody waits for the write any more.
    pub fn refuse(&self) -> bool {
        self.state.compare_exchange(SENT, REFUSED, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    pub fn was_refused(&self) -> bool {
        self.state.load(Ordering::Acquire) == REFUSED
    }

    pub fn is_abandoned(&self) -> bool {
        self.state.load(Ordering::Acquire) == ABANDONED
    }
}

/// The caller's hold on its write: dropping it gives the write up, unless it was handed over already.
#[derive(Debug)]
pub(crate) struct Ticket(Arc<Pending>);

impl Ticket {
    pub fn new(pending: Arc<Pending>) -> Self {
        Self(pending)
    }

    /// Gives the write up and says what may be concluded. To be asked once.
    pub fn give_up(self) -> Fate {
        self.abandon()
    }

    fn abandon(&self) -> Fate {
        match self.0.state.swap(ABANDONED, Ordering::AcqRel) {
            QUEUED => Fate::NeverSent,
            REFUSED => Fate::Refused,
            _ => Fate::Open,
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.abandon();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pending() -> (Arc<Pending>, Ticket) {
        let pending = Pending::new(Command::Set { pairs: vec![] }, Ack::Majority, Instant::now());
        (pending.clone(), Ticket::new(pending))
    }

    /// A write that was given up is never handed over; one that was handed over is never called
    /// unapplied.
    #[test]
    fn either_the_caller_or_the_dispatcher_wins() {
        let (write, ticket) = pending();
        assert_eq!(ticket.give_up(), Fate::NeverSent);
        assert!(!write.claim());

        let (write, ticket) = pending();
        assert!(write.claim());
        assert!(!write.claim(), "handed over once only");
        assert_eq!(ticket.give_up(), Fate::Open);
        assert!(!write.refuse(), "a late refusal must not bring it back");

        let (write, ticket) = pending();
        assert!(write.claim() && write.refuse() && write.was_refused());
        assert!(write.claim() && write.refuse(), "a refused write may be sent again");
        assert_eq!(ticket.give_up(), Fate::Refused);
        assert!(write.is_abandoned() && !write.claim());

        let (write, ticket) = pending();
        drop(ticket);
        assert!(!write.claim(), "a caller that went away is not served");
    }
}
