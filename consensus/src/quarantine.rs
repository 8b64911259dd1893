//! Data found corrupt is set aside, never repaired and never served; the node is then made anew from its peers.
//!
//! ```text
//! quarantine.json     how far that has come, why, and where the peers are
//! quarantined/        wal/, rocksdb/, snapshots/ and identity.json as they were found; one generation is kept
//! quarantined-first/  of several rebuilds of which none ended, what was set aside before the first
//! ```
//! Invariant: from the mark on, nobody acts under the id that the data belonged to: the identity goes with them, and
//! the node joins the same cluster under a new id ([ADR 11](../../../docs/adr/0011-corruption.md)). Each step is one
//! change of the directory that a kill leaves done or not done; the next start goes on with the one that comes next.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use vaultdb_kv::{failpoint, NodeId};
use vaultdb_storage::{create_dir, sync, StorageError};

use crate::identity::{Identity, IdentityError};
use crate::members::Members;
use crate::sealed::{self, SealedError};

/// Where the data are set aside.
pub const QUARANTINED: &str = "quarantined";
/// Where they go when what came of them is set aside before it is whole.
pub const FIRST: &str = "quarantined-first";
const FILE: &str = "quarantine.json";
/// What is set aside. The identity goes last: until then it is known whose the data are.
const PARTS: [&str; 4] = ["wal", "rocksdb", "snapshots", "identity.json"];

/// Quarantines within an hour after which the node gives up: the disk or the memory is not fit for use.
pub const QUARANTINES_MAX: usize = 3;
const WINDOW: Duration = Duration::from_secs(60 * 60);

/// Held from reading the record until it is replaced: a running node marks its data on one thread while it notes
/// the end of a rebuild on another, and the mark must not get lost.
static CHANGING: Mutex<()> = Mutex::new(());

/// How far a quarantine has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Something is corrupt. Nothing was moved.
    Found,
    /// Parts are being moved into a new generation.
    Moving,
    /// All is set aside; the node has no identity until it has joined.
    Joining,
    /// It has joined under a new id, and is not a voter yet.
    Rebuilding,
    /// It is a voter again, or was never one.
    Over,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    phase: Phase,
    reason: String,
    /// The only cluster that the node may join. With the first phase it is known only when the phase before was
    /// [`Phase::Joining`], and what follows likewise.
    cluster_id: Option<String>,
    /// The id that is never used again.
    former_id: Option<NodeId>,
    /// HTTP addresses of the other members.
    peers: Vec<String>,
    /// When data were set aside, in Unix milliseconds, oldest first.
    at_ms: Vec<u64>,
    /// The node was not rebuilt, as far as is known, from what was last set aside.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    again: bool,
}

impl Record {
    fn found(reason: &str, at_ms: Vec<u64>, again: bool) -> Self {
        let (phase, reason) = (Phase::Found, reason.to_owned());
        Record { phase, reason, cluster_id: None, former_id: None, peers: Vec::new(), at_ms, again }
    }

    /// What is noted when something is found corrupt after this; `None` while an earlier mark goes on.
    fn after(known: Option<Record>, reason: &str) -> Option<Self> {
        // A record that is lost could have been anything.
        let Some(known) = known else { return Some(Record::found(reason, Vec::new(), true)) };
        let found = |again| Record::found(reason, known.at_ms.clone(), again);
        match known.phase {
            Phase::Found | Phase::Moving => None,
            // Nobody acted on what was begun anew. Only the record says for certain which cluster that was for.
            Phase::Joining => {
                let Record { cluster_id, former_id, peers, .. } = known.clone();
                Some(Record { cluster_id, former_id, peers, ..found(true) })
            }
            Phase::Rebuilding => Some(found(true)),
            Phase::Over => Some(found(false)),
        }
    }
}

/// What a node whose data were set aside needs to be made anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rebuild {
    pub reason: String,
    pub cluster_id: String,
    pub former_id: Option<NodeId>,
    /// HTTP addresses.
    pub peers: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum QuarantineError {
    /// The node cannot be rebuilt; nothing was moved by this call.
    #[error("{0}")]
    Refused(String),
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// Notes durably that something in `data_dir` is corrupt. The next start sets the data aside; an earlier mark stays.
///
/// # Errors
/// [`StorageError::Io`].
pub fn mark(data_dir: &Path, reason: &str) -> Result<(), StorageError> {
    let _one_at_a_time = CHANGING.lock();
    failpoint::delay("quarantine-marking");
    // A damaged record is replaced: it has nothing that the mark does not say.
    let known: Option<Record> = sealed::load(data_dir, FILE).ok().flatten();
    if let Some(marked) = Record::after(known, reason) {
        sealed::save(data_dir, FILE, &marked)?;
        failpoint::reach("quarantine-marked");
    }
    Ok(())
}

/// Why the data must not be used, if it was found that they must not, and how far the quarantine has come.
///
/// # Errors
/// [`QuarantineError::Refused`] when the record is damaged and there is no identity: then it cannot be told.
pub fn found(data_dir: &Path) -> Result<Option<(Phase, String)>, QuarantineError> {
    Ok(load(data_dir)?.map(|record| (record.phase, record.reason)))
}

fn load(data_dir: &Path) -> Result<Option<Record>, QuarantineError> {
    let path = data_dir.join(FILE);
    match sealed::load(data_dir, FILE) {
        Ok(record) => Ok(record),
        Err(SealedError::Io(e)) => {
            Err(QuarantineError::Refused(format!("cannot read {}: {e}", path.display())))
        }
        // Mostly the record of a quarantine that is over. With an identity the data speak for themselves.
        Err(SealedError::Damaged(_)) if data_dir.join("identity.json").exists() => Ok(None),
        Err(SealedError::Damaged(reason)) => Err(QuarantineError::Refused(format!(
            "{} is damaged ({reason}), and there is no identity.json: empty the data directory to join anew",
            path.display()
        ))),
    }
}

/// Whether data that are found corrupt now can be set aside; changes nothing.
///
/// # Errors
/// As [`set_aside`].
pub fn check(data_dir: &Path, name: &str, reason: &str, others: &[String]) -> Result<(), QuarantineError> {
    match Record::after(load(data_dir)?, reason) {
        Some(marked) => begin(data_dir, name, others, &marked, unix_ms()).map(drop),
        None => Ok(()),
    }
}

/// Sets the data aside that were marked, or goes on with it. `others` are addresses of members besides those on disk.
///
/// # Errors
/// [`QuarantineError::Refused`] when the cluster or its members are not known, or it happens too often.
pub fn set_aside(data_dir: &Path, name: &str, others: &[String]) -> Result<Rebuild, QuarantineError> {
    let nothing = || QuarantineError::Refused("nothing was found corrupt".into());
    let mut record = load(data_dir)?.ok_or_else(nothing)?;
    while step(data_dir, name, others, &mut record)? {
        failpoint::reach("quarantine-step");
    }
    let mut peers = record.peers;
    peers.extend(others.iter().filter(|other| !peers.contains(other)).cloned().collect::<Vec<_>>());
    let cluster_id = record.cluster_id.ok_or_else(nothing)?;
    Ok(Rebuild { reason: record.reason, cluster_id, former_id: record.former_id, peers })
}

/// One change of the directory; tells whether another has to follow.
fn step(
    data_dir: &Path,
    name: &str,
    others: &[String],
    record: &mut Record,
) -> Result<bool, QuarantineError> {
    match record.phase {
        Phase::Found => {
            let begun = begin(data_dir, name, others, record, unix_ms())?;
            make_room(data_dir, record.again)?;
            sealed::save(data_dir, FILE, &begun)?;
            log::error!("{}: setting the data aside to rebuild this node from its peers", begun.reason);
            *record = begun;
            Ok(true)
        }
        Phase::Moving => {
            let aside = data_dir.join(QUARANTINED);
            create_dir(&aside)?;
            if let Some(part) = PARTS.iter().find(|part| data_dir.join(part).exists()) {
                let (from, to) = (data_dir.join(part), aside.join(part));
                rename(&from, &to)?;
                sync(&aside)?;
                sync(data_dir)?;
            } else {
                record.phase = Phase::Joining;
                sealed::save(data_dir, FILE, record)?;
            }
            Ok(true)
        }
        Phase::Joining | Phase::Rebuilding | Phase::Over => Ok(false),
    }
}

/// The record with which moving begins: it must hold all that is needed once the identity is gone.
fn begin(
    data_dir: &Path,
    name: &str,
    others: &[String],
    marked: &Record,
    now_ms: u64,
) -> Result<Record, QuarantineError> {
    let refused = |what: &str| {
        QuarantineError::Refused(format!(
            "{}; {what}, so nothing was moved: see docs/operations.md, \"Corrupt data\"",
            marked.reason
        ))
    };
    let identity = match Identity::load(data_dir, name) {
        Ok(identity) => identity,
        Err(IdentityError::Damaged { .. }) => None,
        Err(
            e @ (IdentityError::Io { .. } | IdentityError::NotSaved(_) | IdentityError::OtherName { .. }),
        ) => {
            return Err(refused(&e.to_string()));
        }
    };
    let members = Members::load(data_dir).filter(|members| members.name == name);
    let known_id = identity.as_ref().and_then(|identity| identity.cluster_id.clone());
    let cluster_id = marked.cluster_id.clone().or(known_id);
    let cluster_id = cluster_id.or_else(|| members.as_ref().map(|members| members.cluster_id.clone()));
    let Some(cluster_id) = cluster_id else {
        return Err(refused("it is not known of which cluster this node is a member"));
    };
    let members = members.filter(|members| members.cluster_id == cluster_id);
    let former_id = marked.former_id.or(identity.and_then(|identity| identity.node_id));
    let former_id = former_id.or(members.as_ref().map(|members| members.node_id));
    let peers = members.map_or_else(|| marked.peers.clone(), |members| members.peers());
    if peers.is_empty() && others.is_empty() {
        return Err(refused("no other member is known"));
    }
    let window_ms = u64::try_from(WINDOW.as_millis()).unwrap_or(u64::MAX);
    let mut at_ms: Vec<u64> =
        marked.at_ms.iter().copied().filter(|at| now_ms.saturating_sub(*at) < window_ms).collect();
    if at_ms.len() >= QUARANTINES_MAX {
        return Err(refused(&format!("it is the {}th time within an hour", at_ms.len() + 1)));
    }
    at_ms.push(now_ms);
    let (phase, reason) = (Phase::Moving, marked.reason.clone());
    Ok(Record { phase, reason, cluster_id: Some(cluster_id), former_id, peers, at_ms, again: false })
}

/// Removes what earlier quarantines left. But until the node is rebuilt, what was set aside first is worth more than what
/// it has got since: its peers may have lost theirs meanwhile.
fn make_room(data_dir: &Path, again: bool) -> Result<(), StorageError> {
    let (aside, first) = (data_dir.join(QUARANTINED), data_dir.join(FIRST));
    match again {
        true if aside.exists() && !first.exists() => rename(&aside, &first)?,
        true => remove(&aside)?,
        false => {
            remove(&first)?;
            remove(&aside)?;
        }
    }
    sync(data_dir)
}

/// The new identity is complete on disk.
///
/// # Errors
/// [`QuarantineError`].
pub fn joined(data_dir: &Path) -> Result<(), QuarantineError> {
    advance(data_dir, Phase::Joining, Phase::Rebuilding)
}

/// The node is a full member again.
///
/// # Errors
/// [`QuarantineError`].
pub fn over(data_dir: &Path) -> Result<(), QuarantineError> {
    advance(data_dir, Phase::Rebuilding, Phase::Over)
}

fn advance(data_dir: &Path, from: Phase, to: Phase) -> Result<(), QuarantineError> {
    let _one_at_a_time = CHANGING.lock();
    match load(data_dir)? {
        Some(record) if record.phase == from => {
            sealed::save(data_dir, FILE, &Record { phase: to, ..record })?;
            failpoint::reach("quarantine-step");
            Ok(())
        }
        Some(_) | None => Ok(()),
    }
}

fn rename(from: &Path, to: &Path) -> Result<(), StorageError> {
    fs::rename(from, to).map_err(|source| StorageError::Io {
        context: format!("cannot move {} to {}", from.display(), to.display()),
        source,
    })
}

fn remove(dir: &Path) -> Result<(), StorageError> {
    match fs::remove_dir_all(dir) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(StorageError::Io { context: format!("cannot remove {}", dir.display()), source })
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[path = "quarantine_tests.rs"]
mod tests;
