//! Where each peer may be reached: what the membership says, what the peer itself said, what worked last.
//!
//! Only hints: whoever is dialled must prove by the hello that it is the node that is meant, so a wrong
//! address costs an attempt and nothing else. Nothing of it is replicated or kept over a restart.

use std::collections::HashMap;

use parking_lot::RwLock;
use vaultdb_kv::NodeId;

use crate::api::Claim;

/// Most nodes of which something is kept.
const ENTRIES_MAX: usize = 64;

#[derive(Debug, Default)]
pub struct Book {
    entries: RwLock<HashMap<NodeId, Entry>>,
    /// The last address at which another cluster answered, and which one.
    other_cluster: RwLock<Option<(String, String)>>,
}

#[derive(Debug, Default)]
struct Entry {
    member: Option<String>,
    claim: Option<Claim>,
    worked: Option<String>,
}

impl Book {
    /// Addresses to dial a node at, the most promising one first. Never empty: `fallback` is among them.
    pub fn candidates(&self, id: NodeId, fallback: &str) -> Vec<String> {
        let entries = self.entries.read();
        let entry = entries.get(&id);
        let known = entry.into_iter().flat_map(|entry| {
            [&entry.worked, &entry.claim.as_ref().map(|c| c.addr.raft.clone()), &entry.member]
                .map(|addr| addr.clone())
        });
        let mut candidates: Vec<String> = Vec::with_capacity(4);
        for addr in known.flatten().chain([fallback.to_owned()]) {
            if !candidates.contains(&addr) {
                candidates.push(addr);
            }
        }
        candidates
    }

    /// The node was reached there.
    pub fn worked(&self, id: NodeId, addr: &str) {
        self.change(id, |entry| entry.worked = Some(addr.to_owned()));
    }

    /// What the membership says now.
    pub fn set_members<'a>(&self, members: impl Iterator<Item = (NodeId, &'a str)>) {
        let mut entries = self.entries.write();
        entries.values_mut().for_each(|entry| entry.member = None);
        for (id, addr) in members {
            entries.entry(id).or_default().member = Some(addr.to_owned());
        }
    }

    /// What a node says of itself holds. What others say of it holds if its process began later than that
    /// of the claim that is known.
    pub fn learn(&self, claim: Claim, from_itself: bool) {
        self.change(claim.id, |entry| {
            let newer = entry.claim.as_ref().is_none_or(|known| known.since_ms < claim.since_ms);
            if from_itself || newer {
                if entry.claim.as_ref().is_none_or(|known| known.addr != claim.addr) {
                    log::info!("node {} says that it is at {}", claim.id, claim.addr.raft);
                }
                entry.claim = Some(claim);
            }
        });
    }

    pub fn claims(&self) -> Vec<Claim> {
        self.entries.read().values().filter_map(|entry| entry.claim.clone()).collect()
    }

    /// Whether the node told, or was told of, by a claim.
    pub fn has_claim(&self, id: NodeId) -> bool {
        self.entries.read().get(&id).is_some_and(|entry| entry.claim.is_some())
    }

    pub fn note_other_cluster(&self, addr: &str, cluster_id: &str) {
        *self.other_cluster.write() = Some((addr.to_owned(), cluster_id.to_owned()));
    }

    /// Where another cluster answered, and which one.
    pub fn other_cluster(&self) -> Option<(String, String)> {
        self.other_cluster.read().clone()
    }

    fn change(&self, id: NodeId, change: impl FnOnce(&mut Entry)) {
        let mut entries = self.entries.write();
        if entries.len() < ENTRIES_MAX || entries.contains_key(&id) {
            change(entries.entry(id).or_default());
        }
    }
}

#[cfg(test)]
mod tests {
    use vaultdb_kv::MemberAddr;

    use super::*;

    fn claim(raft: &str, since_ms: u64) -> Claim {
        Claim { id: 1, addr: MemberAddr { raft: raft.into(), http: String::new() }, since_ms }
    }

    /// Whatever is known of a node is tried, once each, and hearsay never hides what it said itself.
    #[test]
    fn every_address_is_tried_once() {
        let book = Book::default();
        assert_eq!(book.candidates(1, "old:1"), ["old:1"]);
        book.set_members([(1, "old:1")].into_iter());
        book.learn(claim("new:1", 5), true);
        assert_eq!(book.candidates(1, "old:1"), ["new:1", "old:1"]);
        book.learn(claim("hearsay:1", 4), false);
        assert_eq!(book.candidates(1, "old:1"), ["new:1", "old:1"]);
        book.worked(1, "old:1");
        assert_eq!(book.candidates(1, "older:1"), ["old:1", "new:1", "older:1"]);
        book.learn(claim("newest:1", 6), false);
        book.set_members(std::iter::empty());
        assert_eq!(book.candidates(1, "old:1"), ["old:1", "newest:1"]);
    }
}
