//! A new cluster from one survivor of a cluster that lost its quorum for good.
//!
//! Invariant: from the first change on the directory says that it is under change, and no node starts on it
//! before the last one. Each step may be repeated, so a command that was killed is given again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use vaultdb_kv::{failpoint, Command, MemberAddr, NodeId};
use vaultdb_storage::log::LogStore;
use vaultdb_storage::{DiskLog, LogId, LogOptions, StateMachine, StorageError, StoreOptions, Vote};

use crate::codec::{self, LogPayload};
use crate::identity::Identity;
use crate::log_store::READ_BYTES_MAX;
use crate::offline::{durably, OfflineError};
use crate::quarantine::{self, Phase, QUARANTINED};
use crate::stores::wal_dir;
use crate::types::{PeerNode, SharedCommand, WireMembership};

/// The data directory of a survivor, opened.
#[derive(Debug)]
pub struct Survivor {
    data_dir: PathBuf,
    identity: Identity,
    node_id: NodeId,
    log: DiskLog<LogPayload>,
    store: StateMachine,
    facts: SurvivorFacts,
}

/// What the survivor knows of the cluster that was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SurvivorFacts {
    pub cluster_id: String,
    pub node_id: NodeId,
    pub name: String,
    /// Names of the members, in the order of their ids, and whether each had a vote.
    pub members: Vec<(String, bool)>,
    /// How its cluster knew it, if it did.
    pub addr: Option<MemberAddr>,
    /// The last entry of which it knew that it is committed.
    pub committed: Option<LogId>,
    pub last_log: Option<LogId>,
    /// The new cluster's id, if an earlier command was cut short after it chose one.
    pub begun: Option<String>,
}

impl Survivor {
    /// Opens the directory of a member, and changes no more of it than the start of a node would.
    ///
    /// # Errors
    /// [`OfflineError`]: also when it belongs to no cluster, holds none of its data or was replaced by
    /// another node of its name.
    pub fn open(
        data_dir: &Path,
        name: &str,
        store: StoreOptions,
        log: LogOptions,
    ) -> Result<Self, OfflineError> {
        let refused = |reason: String| OfflineError::Refused(format!("{}: {reason}", data_dir.display()));
        // Before the identity, which is another one once the data are set aside.
        match quarantine::found(data_dir).map_err(|e| refused(e.to_string()))? {
            Some((Phase::Found, reason)) => {
                return Err(refused(format!(
                    "{reason}: remove quarantine.json to take the data as they are"
                )));
            }
            Some((Phase::Moving | Phase::Joining, reason)) => {
                return Err(refused(format!(
                    "{reason}, and the data are set aside in {QUARANTINED}/: see docs/operations.md, \"Corrupt data\""
                )));
            }
            Some((Phase::Rebuilding | Phase::Over, _)) | None => {}
        }
        let identity = Identity::load(data_dir, name)?
            .ok_or_else(|| refused("there is no identity.json: it belongs to no cluster".into()))?;
        let (Some(node_id), Some(own_cluster)) = (identity.node_id, identity.cluster_id.clone()) else {
            return Err(refused("its node has never joined a cluster".into()));
        };
        check_present(data_dir)?;
        let log = DiskLog::<LogPayload>::open(&wal_dir(data_dir), log)?;
        let store = StateMachine::open(data_dir, store)?;
        let applied = store.applied().log_id;
        if applied < log.bounds().purged {
            let reason = format!("it ends at {applied:?}, before the log begins");
            return Err(damaged(data_dir.join("rocksdb"), reason));
        }
        if let Some((latest, ..)) = store.registered(name).filter(|(latest, ..)| *latest != node_id) {
            return Err(refused(format!(
                "its node {node_id} was replaced by node {latest} of the same name: recover from that one"
            )));
        }
        let membership = membership(&log, &store)
            .map_err(|source| OfflineError::Io { path: wal_dir(data_dir), source })?
            .ok_or_else(|| refused("it holds nothing of its cluster yet".into()))?;
        let has_vote = |id: &NodeId| membership.voters.iter().any(|voters| voters.contains(id));
        let members = membership.nodes.iter().map(|(id, node)| (node.name.clone(), has_vote(id)));
        let (cluster_id, begun) = match identity.recovering_from.clone() {
            Some(old) => (old, Some(own_cluster)),
            None => (own_cluster, None),
        };
        let known = membership.nodes.get(&node_id).map(|node| node.addr.clone());
        let facts = SurvivorFacts {
            addr: known.or_else(|| store.registered(name).map(|(_, _, addr)| addr)),
            cluster_id,
            node_id,
            name: name.to_owned(),
            members: members.collect(),
            committed: log.committed().max(applied),
            last_log: log.bounds().last.max(applied),
            begun,
        };
        Ok(Self { data_dir: data_dir.into(), identity, node_id, log, store, facts })
    }

    pub fn facts(&self) -> &SurvivorFacts {
        &self.facts
    }

    /// Makes the node the only member of a new cluster that goes on from everything in its store and its log:
    /// also from entries of which it does not know whether they were committed, since some of them may have
    /// been acknowledged. `addr` is where others are told to find it. Answers with the id of the new cluster.
    ///
    /// # Errors
    /// [`OfflineError`]. The command may be given again.
    pub fn force_new_cluster(
        mut self,
        addr: &MemberAddr,
        bump_revision: u64,
    ) -> Result<String, OfflineError> {
        if self.facts.begun.is_none() {
            self.identity.renew_cluster();
            self.identity.save(&self.data_dir)?;
        }
        failpoint::reach("recover-renamed");
        let path = wal_dir(&self.data_dir);
        self.append(addr, bump_revision).map_err(|source| OfflineError::Io { path, source })?;
        failpoint::reach("recover-appended");
        self.identity.recovering_from = None;
        self.identity.bootstrap = false;
        self.identity.save(&self.data_dir)?;
        Ok(self.identity.cluster_id.unwrap_or_default())
    }

    /// Ends the log as the leader of a new term would that is its only member.
    fn append(&self, addr: &MemberAddr, bump_revision: u64) -> std::io::Result<()> {
        let applied = self.store.applied().log_id;
        // A snapshot was installed and the log not purged behind it.
        if let Some(applied) = applied.filter(|_| applied > self.log.bounds().last) {
            self.log.purge(applied)?;
        }
        let last = self.log.bounds().last.unwrap_or_default();
        let voted = self.log.vote().map_or(0, |vote| vote.term);
        let term = voted.max(last.term) + 1;
        let vote = Vote { term, node_id: self.node_id, committed: true };
        durably(|done| self.log.save_vote(vote, done))?;
        let node = PeerNode { name: self.facts.name.clone(), addr: addr.clone(), stays_learner: false };
        let alone = WireMembership {
            voters: vec![BTreeSet::from([self.node_id])],
            nodes: BTreeMap::from([(self.node_id, node)]),
        };
        let advance = Command::AdvanceRevision { by: bump_revision };
        let entries = vec![
            (LogId { term, index: last.index + 1 }, LogPayload::Membership(alone)),
            (
                LogId { term, index: last.index + 2 },
                LogPayload::Command(SharedCommand::new(Arc::new(advance))),
            ),
        ];
        durably(|done| self.log.append(entries, done))
    }
}

/// A member has a log and a store.
fn check_present(data_dir: &Path) -> Result<(), OfflineError> {
    for part in ["wal", "rocksdb"].map(|name| data_dir.join(name)) {
        if !std::fs::read_dir(&part).is_ok_and(|mut files| files.next().is_some()) {
            return Err(damaged(part, "it is missing or empty".into()));
        }
    }
    Ok(())
}

fn damaged(part: PathBuf, reason: String) -> OfflineError {
    StorageError::Corrupt { what: part.display().to_string(), reason }.into()
}

/// The last membership in the log, else that of the store.
fn membership(log: &DiskLog<LogPayload>, store: &StateMachine) -> std::io::Result<Option<WireMembership>> {
    let applied = store.applied();
    let mut found = match &applied.membership {
        Some((_, bytes)) => Some(codec::decode::<WireMembership>(bytes)?),
        None => None,
    };
    let mut next = applied.log_id.map_or(0, |id| id.index + 1);
    loop {
        let entries = log.read(next..u64::MAX, READ_BYTES_MAX)?;
        let Some((last, _)) = entries.last() else { return Ok(found) };
        next = last.index + 1;
        for (_, payload) in entries {
            if let LogPayload::Membership(membership) = payload {
                found = Some(membership);
            }
        }
    }
}
