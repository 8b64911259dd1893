//! Leader, peers, and how far this node is behind what is committed.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use vaultdb_consensus::api::{ClusterStatus, MemberStatus};
use vaultdb_kv::NodeId;

use super::{Holding, Seen, Watch};
use crate::judge::Finding;

#[derive(Default)]
pub(super) struct Cluster {
    leaderless: Holding,
    alone: Holding,
    silent: HashMap<NodeId, Holding>,
    lagging: HashMap<NodeId, Holding>,
    /// Index of the last entry seen applied, and since when it has not moved though more was committed.
    applied: u64,
    stalled: Holding,
    behind: Holding,
}

impl Watch for Cluster {
    fn look(&mut self, seen: &Seen<'_>) -> Option<Finding> {
        let (_, status) = seen.node?;
        if let Some(reason) = &status.fatal {
            return Some(Finding::failed(format!("consensus stopped: {reason}")));
        }
        let mut reasons = Vec::new();
        let unled = status.leadership.leader.is_none();
        if self.leaderless.look(unled, seen.now) > seen.options.leaderless_degraded {
            reasons.push("there is no leader".to_owned());
        }
        if self.alone.look(status.leads_alone, seen.now) > seen.options.leaderless_degraded {
            reasons.push("it leads without a quorum".to_owned());
        }
        reasons.extend(self.silent_peers(status, seen));
        reasons.extend(self.lagging_peers(status, seen));
        reasons.extend(self.applying(status, seen));
        Some(match reasons.is_empty() {
            true => Finding::healthy(),
            false => Finding::degraded(reasons.join("; ")),
        })
    }
}

impl Cluster {
    fn silent_peers(&mut self, status: &ClusterStatus, seen: &Seen<'_>) -> Option<String> {
        let patience = seen.options.peer_silent_degraded;
        let patience_ms = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
        // A leader hears of each peer with each heartbeat.
        let unheard = |peer: &MemberStatus| {
            status.leadership.is_local && peer.last_contact_ms.is_some_and(|ms| ms > patience_ms)
        };
        let names =
            trouble(&mut self.silent, status, seen.now, patience, |peer| !peer.reachable || unheard(peer));
        (!names.is_empty()).then(|| format!("unreachable: {names}"))
    }

    fn lagging_peers(&mut self, status: &ClusterStatus, seen: &Seen<'_>) -> Option<String> {
        let entries_max = seen.options.peer_lag_entries_degraded;
        let lags = |peer: &MemberStatus| peer.lag_entries.is_some_and(|lag| lag > entries_max);
        let names = trouble(&mut self.lagging, status, seen.now, seen.options.lag_degraded, lags);
        (!names.is_empty()).then(|| format!("more than {entries_max} log entries behind: {names}"))
    }

    fn applying(&mut self, status: &ClusterStatus, seen: &Seen<'_>) -> Option<String> {
        let behind = status.committed.saturating_sub(status.applied);
        let stands_still = behind > 0 && status.applied == self.applied;
        self.applied = status.applied;
        let patience = seen.options.lag_degraded;
        if self.stalled.look(stands_still, seen.now) > patience {
            return Some("committed entries are not being applied".into());
        }
        let entries_max = seen.options.apply_lag_entries_degraded;
        let is_behind = self.behind.look(behind > entries_max, seen.now) > patience;
        is_behind.then(|| format!("applying is more than {entries_max} entries behind what is committed"))
    }
}

/// The names of those peers with whom something has been wrong for longer than that.
fn trouble(
    since: &mut HashMap<NodeId, Holding>,
    status: &ClusterStatus,
    now: Duration,
    patience: Duration,
    wrong: impl Fn(&MemberStatus) -> bool,
) -> String {
    since.retain(|id, _| status.members.iter().any(|peer| peer.member.id == *id));
    let peers = status.members.iter().filter(|peer| peer.member.id != status.node.id);
    // A name may stand for two members while one takes the other's place.
    let names: BTreeSet<&str> = peers
        .filter(|peer| since.entry(peer.member.id).or_default().look(wrong(peer), now) > patience)
        .map(|peer| peer.member.name.as_str())
        .collect();
    Vec::from_iter(names).join(", ")
}
