//! From a backup to the data directory of the first node of a new cluster.
//!
//! Invariant: the identity comes last, so a directory that was filled only in part is refused by a node.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use vaultdb_kv::backup::{BackupHeader, BackupSummary, Piece};
use vaultdb_kv::{MemberAddr, Revision};
use vaultdb_storage::log::LogStore;
use vaultdb_storage::{
    verify_backup, AppliedState, BackupFile, DiskLog, LogId, LogOptions, StateMachine, StorageError,
    StoreOptions, Vote,
};

use crate::codec::{self, LogPayload};
use crate::identity::{Identity, FIRST_NODE_ID};
use crate::offline::{durably, OfflineError};
use crate::stores::wal_dir;
use crate::types::{PeerNode, WireMembership};

/// What an empty data directory may hold: the lock of whoever restores, and what a file system puts there.
const NOT_DATA: [&str; 2] = ["LOCK", "lost+found"];

/// Highest revision that a cluster may begin with: no number of writes reaches the end of the numbers from it.
const REVISION_MAX: Revision = 1 << 62;

/// What is to be restored where.
#[derive(Debug)]
pub struct RestorePlan {
    pub backup: PathBuf,
    /// Exists and is locked.
    pub data_dir: PathBuf,
    pub name: String,
    /// Where others are told to find the node.
    pub addr: MemberAddr,
    /// How far past the backup's revision the new cluster begins.
    pub bump_revision: u64,
    pub store: StoreOptions,
    pub log: LogOptions,
}

/// What was restored.
#[derive(Debug)]
pub struct Restored {
    pub header: BackupHeader,
    pub summary: BackupSummary,
    /// The new cluster.
    pub cluster_id: String,
    /// Where its revisions go on from.
    pub revision: Revision,
}

/// Makes the data directory of the only member of a new cluster, which holds the keys of the backup with their
/// revisions. The backup is read to its end before anything is written.
///
/// # Errors
/// [`OfflineError::Backup`], [`OfflineError::Refused`]: nothing was written. After another one the directory
/// may hold a part, which no node starts on: it has to be emptied.
pub fn restore(plan: &RestorePlan) -> Result<Restored, OfflineError> {
    let (header, summary) = verify_backup(&plan.backup)?;
    check_empty(&plan.data_dir)?;
    let revision = header.revision.saturating_add(plan.bump_revision);
    if revision > REVISION_MAX {
        return Err(OfflineError::Refused(format!("revision {revision} leaves too little room for others")));
    }
    // Past all entries of the old cluster that the backup knows of, so that what became of one of these is
    // never told of one of the new.
    let log_id = LogId { term: header.term.saturating_add(1), index: header.log_index.saturating_add(1) };
    let target =
        AppliedState { log_id: Some(log_id), membership: Some((log_id, only_member(plan))), revision };
    fill_store(plan, &header, &target)?;
    begin_log(plan, log_id).map_err(|source| OfflineError::Io { path: wal_dir(&plan.data_dir), source })?;
    let mut identity = Identity::new(&plan.name);
    identity.bootstrap();
    // Its first log entry lies behind it.
    identity.bootstrap = false;
    identity.save(&plan.data_dir)?;
    let cluster_id = identity.cluster_id.unwrap_or_default();
    Ok(Restored { header, summary, cluster_id, revision })
}

fn check_empty(data_dir: &Path) -> Result<(), OfflineError> {
    let failed = |source| OfflineError::Io { path: data_dir.into(), source };
    for entry in fs::read_dir(data_dir).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        if !NOT_DATA.iter().any(|harmless| name == *harmless) {
            return Err(OfflineError::Refused(format!(
                "the data directory \"{}\" is not empty: it holds {}",
                data_dir.display(),
                name.to_string_lossy().escape_debug()
            )));
        }
    }
    Ok(())
}

fn only_member(plan: &RestorePlan) -> bytes::Bytes {
    let node = PeerNode { name: plan.name.clone(), addr: plan.addr.clone(), stays_learner: false };
    let membership = WireMembership {
        voters: vec![BTreeSet::from([FIRST_NODE_ID])],
        nodes: BTreeMap::from([(FIRST_NODE_ID, node)]),
    };
    codec::encode(&membership).into()
}

fn fill_store(plan: &RestorePlan, header: &BackupHeader, target: &AppliedState) -> Result<(), OfflineError> {
    let store = StateMachine::open(&plan.data_dir, plan.store.clone())?;
    let mut backup = BackupFile::open(&plan.backup)?;
    while let Some(piece) = backup.next_piece()? {
        match piece {
            Piece::Header(found) if found == *header => {}
            Piece::Header(_) => {
                return Err(OfflineError::Refused("the backup was replaced while it was read".into()))
            }
            Piece::Block(records) => store.restore(target, &records)?,
            Piece::End(_) => {}
        }
    }
    Ok(store.finish_restore(target)?)
}

/// A log as it is after a snapshot of everything: empty, and purged up to the restored state.
fn begin_log(plan: &RestorePlan, log_id: LogId) -> std::io::Result<()> {
    let log = DiskLog::<LogPayload>::open(&wal_dir(&plan.data_dir), plan.log.clone());
    let log = log.map_err(|error: StorageError| std::io::Error::from(error))?;
    log.purge(log_id)?;
    let vote = Vote { term: log_id.term, node_id: FIRST_NODE_ID, committed: true };
    durably(|done| log.save_vote(vote, done))
}
