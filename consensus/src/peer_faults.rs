//! The faults that were asked for between this node and its peers, as its connections ask for them: by id.
//!
//! Users name peers, connections know ids: the membership tells which is which. While nothing is injected a question
//! costs one relaxed load.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use vaultdb_kv::{Faults, NodeId};

/// How often a message that is held back looks whether it still is to be.
const HOLD_SLICE: Duration = Duration::from_millis(10);

type NameOf = Box<dyn Fn(NodeId) -> Option<String> + Send + Sync>;

#[derive(Default)]
pub struct PeerFaults {
    faults: Arc<Faults>,
    /// Set once the membership is known.
    name_of: OnceLock<NameOf>,
}

impl std::fmt::Debug for PeerFaults {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PeerFaults").field("faults", &self.faults).finish_non_exhaustive()
    }
}

impl PeerFaults {
    pub fn new(faults: Arc<Faults>) -> Self {
        Self { faults, name_of: OnceLock::new() }
    }

    /// Names are looked up here from now on; only the first call counts.
    pub fn names(&self, name_of: impl Fn(NodeId) -> Option<String> + Send + Sync + 'static) {
        // A second one would know the same members.
        drop(self.name_of.set(Box::new(name_of)));
    }

    /// The name of a node that is no member is empty, which no member's is: only faults of all peers concern it.
    fn name(&self, peer: NodeId) -> String {
        self.name_of.get().and_then(|name_of| name_of(peer)).unwrap_or_default()
    }

    /// Whether nothing goes to or comes from the peer now.
    pub fn drops(&self, peer: NodeId) -> bool {
        self.faults.may_be_on() && self.faults.drops(&self.name(peer))
    }

    /// # Errors
    /// `ConnectionAborted` while nothing goes to or comes from the peer.
    pub fn check(&self, peer: NodeId) -> std::io::Result<()> {
        match self.drops(peer) {
            true => {
                Err(std::io::Error::new(std::io::ErrorKind::ConnectionAborted, "cut by an injected fault"))
            }
            false => Ok(()),
        }
    }

    fn delay(&self, peer: NodeId) -> Duration {
        if !self.faults.may_be_on() {
            return Duration::ZERO;
        }
        self.faults.delay_to(&self.name(peer))
    }

    /// When a message to the peer may leave that is ready now; `None` is at once.
    pub fn due(&self, peer: NodeId) -> Option<Instant> {
        let delay = self.delay(peer);
        (!delay.is_zero()).then(|| Instant::now() + delay)
    }

    /// Whether such a message is to be held back still: not once the fault is over.
    pub fn holds(&self, peer: NodeId, due: Option<Instant>) -> bool {
        due.is_some_and(|due| due > Instant::now()) && !self.delay(peer).is_zero()
    }

    /// Waits until it may leave.
    pub async fn release(&self, peer: NodeId, due: Option<Instant>) {
        while self.holds(peer, due) {
            let left = due.map_or(Duration::ZERO, |due| due.saturating_duration_since(Instant::now()));
            tokio::time::sleep(left.min(HOLD_SLICE)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use vaultdb_kv::FaultKind;

    use super::*;

    const LONG: Duration = Duration::from_secs(600);

    /// A fault of a named peer concerns the member of that name alone; one of all peers also those that are no members.
    #[test]
    fn peers_are_told_apart_by_name() {
        let faults = Arc::new(Faults::default());
        let peers = PeerFaults::new(faults.clone());
        peers.names(|id| (id < 9).then(|| format!("node{id}")));
        assert!(!peers.drops(1));
        let one = faults.inject(FaultKind::PeerDrop { peer: Some("node1".into()) }, LONG);
        assert_eq!([1, 2, 9].map(|id| peers.drops(id)), [true, false, false]);
        faults.clear(one);
        faults.inject(FaultKind::PeerDrop { peer: None }, LONG);
        assert_eq!([1, 2, 9].map(|id| peers.drops(id)), [true, true, true]);
        assert!(peers.check(1).is_err());
        faults.clear(None);
        assert!(peers.check(1).is_ok());
    }

    /// A message that is held back leaves once its fault is cleared.
    #[tokio::test]
    async fn cleared_delay_holds_nothing_back() {
        let faults = Arc::new(Faults::default());
        let peers = Arc::new(PeerFaults::new(faults.clone()));
        assert_eq!(peers.due(1), None);
        faults.inject(FaultKind::PeerDelay { peer: None, delay: LONG }, LONG);
        let due = peers.due(1);
        assert!(peers.holds(1, due));
        let held = tokio::spawn({
            let peers = peers.clone();
            async move { peers.release(1, due).await }
        });
        tokio::task::yield_now().await;
        assert!(!held.is_finished());
        faults.clear(None);
        tokio::time::timeout(Duration::from_secs(60), held).await.expect("released").expect("no panic");
    }
}
