//! Notices who leads and which peers come and go, and says so in events.
//!
//! Shared by the health monitors that follow each other, so that a rebuilt one repeats nothing. Must never
//! wait: it compares two looks at a status that is in memory.

use std::collections::BTreeMap;
use std::time::Instant;

use parking_lot::Mutex;
use vaultdb_consensus::api::{ClusterStatus, Leadership};
use vaultdb_kv::NodeId;

use crate::events::EventRing;
use crate::slot::ComponentId;
use crate::status::EventKind;

#[derive(Debug, Default)]
pub(crate) struct Witness {
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    /// The last leader and its term; an election between two leaders does not erase it.
    leader: Option<(String, u64)>,
    /// Members, in contact or since when not. One that was never heard of is none of them: a node that starts
    /// has not lost anybody.
    peers: BTreeMap<NodeId, Option<Instant>>,
}

impl Witness {
    pub fn look(&self, status: &ClusterStatus, now: Instant, events: &EventRing) {
        let mut seen = self.seen.lock();
        if let Some(detail) = seen.leader_changed(&status.leadership) {
            events.push(ComponentId::Cluster, EventKind::LeaderChanged, detail);
        }
        let mut peers = BTreeMap::new();
        for peer in status.members.iter().filter(|other| other.member.id != status.node.id) {
            let (id, name) = (peer.member.id, &peer.member.name);
            match (seen.peers.get(&id), peer.reachable) {
                (None, false) => continue,
                (None | Some(None), true) => peers.insert(id, None),
                (Some(Some(since)), false) => peers.insert(id, Some(*since)),
                (Some(None), false) => {
                    let detail = format!("{name} is not heard of any more");
                    events.push(ComponentId::Cluster, EventKind::PeerUnreachable, detail);
                    peers.insert(id, Some(now))
                }
                (Some(Some(since)), true) => {
                    let away_ms = now.duration_since(*since).as_millis();
                    let detail = format!("{name} is heard of again after {away_ms} ms");
                    events.push(ComponentId::Cluster, EventKind::PeerBack, detail);
                    peers.insert(id, None)
                }
            };
        }
        seen.peers = peers;
    }
}

impl Seen {
    fn leader_changed(&mut self, leadership: &Leadership) -> Option<String> {
        // A node that has just joined hears of a leader before it knows the members' names.
        let name = leadership.leader.as_ref().map(|leader| &leader.name).filter(|name| !name.is_empty())?;
        let term = leadership.term;
        let before = self.leader.replace((name.clone(), term));
        match before {
            None => Some(format!("{name} leads in term {term}")),
            Some((old, old_term)) if old == *name && old_term == term => None,
            Some((old, _)) if old == *name => Some(format!("{name} leads again, now in term {term}")),
            Some((old, _)) => Some(format!("leadership went from {old} to {name} in term {term}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use vaultdb_consensus::api::Leader;
    use vaultdb_kv::MemberAddr;

    use super::*;

    fn led_by(name: &str, term: u64) -> Leadership {
        let addr = MemberAddr { raft: String::new(), http: String::new() };
        Leadership { term, leader: Some(Leader { id: 1, name: name.into(), addr }), is_local: false }
    }

    /// A leader counts from when its name is known.
    #[test]
    fn nameless_leaders_wait() {
        let mut seen = Seen::default();
        assert_eq!(seen.leader_changed(&led_by("", 3)), None);
        assert_eq!(seen.leader_changed(&led_by("node3", 3)), Some("node3 leads in term 3".into()));
        assert_eq!(seen.leader_changed(&led_by("", 4)), None);
        let moved = seen.leader_changed(&led_by("node1", 4));
        assert_eq!(moved, Some("leadership went from node3 to node1 in term 4".into()));
    }
}
