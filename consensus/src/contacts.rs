//! When each peer was last heard of: by an answer to a call, or by a frame it sent.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::RwLock;
use vaultdb_kv::NodeId;

#[derive(Default)]
pub struct Contacts {
    last: RwLock<HashMap<NodeId, Instant>>,
}

impl Contacts {
    pub fn heard(&self, peer: NodeId) {
        self.last.write().insert(peer, Instant::now());
    }

    /// Whether nobody was ever heard of.
    pub fn is_empty(&self) -> bool {
        self.last.read().is_empty()
    }

    /// Time since the peer was last heard of; `None` when it never was.
    pub fn since(&self, peer: NodeId) -> Option<Duration> {
        self.last.read().get(&peer).map(Instant::elapsed)
    }
}
