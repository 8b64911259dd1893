//! From a data directory to running consensus: identity, joining, opening the stores.
//!
//! Invariant: an identity is complete on disk before the node answers anyone under it, and a directory
//! that once belonged to a cluster is never made the first of a new one: also not one whose data were found corrupt
//! and set aside, see [`vaultdb_consensus::quarantine`].

use std::fmt;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use vaultdb_consensus::api::JoinRequest;
use vaultdb_consensus::identity::{Identity, IdentityError};
use vaultdb_consensus::offline::OfflineError;
use vaultdb_consensus::quarantine::{self, Phase, QuarantineError, Rebuild};
use vaultdb_consensus::transport::{Tcp, TcpAccept};
use vaultdb_consensus::{create_log, ConsensusConfig, StartError, Stores};
use vaultdb_kv::{Faults, MemberAddr, Room};

pub use vaultdb_consensus::{Autopilot, Consensus, RaftOptions, ScrubOptions, Timing};
use vaultdb_storage::StorageError;
pub use vaultdb_storage::{LogOptions, StoreOptions};

use crate::form::{form, tell_begun, Formed};
use crate::join::{join_cluster, Target};
use crate::peers::find_peers;

pub use crate::form::FormOptions;

/// What it takes to start a node.
#[derive(Debug)]
pub struct BootOptions {
    /// Exists and is locked; `None` keeps everything in memory.
    pub data_dir: Option<PathBuf>,
    pub name: String,
    /// Where others are told to find this node.
    pub addr: MemberAddr,
    /// HTTP addresses of members; empty lets a new data directory make a cluster of its own, unless it is to
    /// form one with others. A node that is a member already looks there for peers that it has lost.
    pub join: Vec<String>,
    /// A new data directory forms a cluster with these; a member looks there, too.
    pub form: Option<FormOptions>,
    /// A node that joins is to stay a learner.
    pub learner: bool,
    /// The Raft port, bound already.
    pub raft_listener: TcpListener,
    pub raft: RaftOptions,
    pub store: StoreOptions,
    pub log: LogOptions,
    pub share_reads: bool,
    /// As [`crate::Options::room`].
    pub room: Arc<Room>,
    /// What is to go wrong, for tests and demonstrations; the log has the same.
    pub faults: Arc<Faults>,
    /// Data found corrupt are set aside, and the node is made anew from its peers. Off, it refuses to start.
    pub rebuild_after_corruption: bool,
}

/// Why a node did not start.
#[derive(Debug)]
pub enum BootError {
    /// The data cannot be trusted: exit code 70.
    Unfit(String),
    /// The same, and what was found corrupt may be set aside at once.
    Corrupt(String),
    /// Anything else: exit code 1.
    Failed(String),
}

impl fmt::Display for BootError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BootError::Unfit(reason) | BootError::Corrupt(reason) | BootError::Failed(reason) => {
                f.write_str(reason)
            }
        }
    }
}

impl From<IdentityError> for BootError {
    fn from(e: IdentityError) -> Self {
        match e {
            IdentityError::Damaged { .. } => BootError::Corrupt(e.to_string()),
            IdentityError::Io { .. } | IdentityError::NotSaved(_) | IdentityError::OtherName { .. } => {
                BootError::Failed(e.to_string())
            }
        }
    }
}

impl From<StartError> for BootError {
    fn from(e: StartError) -> Self {
        match e {
            StartError::Storage(StorageError::Corrupt { .. }) | StartError::LogMissing(_) => {
                BootError::Corrupt(e.to_string())
            }
            // Of the last one the stores may be open still: what runs the process starts it again.
            StartError::Storage(_) | StartError::Corrupt(_) => BootError::Unfit(e.to_string()),
            StartError::Raft(_) | StartError::Thread(_) => BootError::Failed(e.to_string()),
        }
    }
}

impl From<QuarantineError> for BootError {
    fn from(e: QuarantineError) -> Self {
        match e {
            QuarantineError::Refused(_) => BootError::Unfit(e.to_string()),
            QuarantineError::Storage(_) => BootError::Failed(e.to_string()),
        }
    }
}

impl From<OfflineError> for BootError {
    fn from(e: OfflineError) -> Self {
        match e {
            OfflineError::Identity(e) => e.into(),
            OfflineError::Storage(StorageError::Corrupt { .. }) => BootError::Unfit(e.to_string()),
            OfflineError::Storage(_)
            | OfflineError::Backup(_)
            | OfflineError::Io { .. }
            | OfflineError::Refused(_) => BootError::Failed(e.to_string()),
        }
    }
}

/// Waits as long as it takes to join; everything else is quick or fails.
///
/// # Errors
/// See [`BootError`].
pub async fn boot(options: BootOptions) -> Result<Consensus, BootError> {
    let marked = marked(&options)?;
    let consensus = match start(&options, marked).await {
        Err(BootError::Corrupt(reason)) => {
            let Some(dir) = options.data_dir.as_deref().filter(|_| options.rebuild_after_corruption) else {
                return Err(BootError::Unfit(reason));
            };
            quarantine::check(dir, &options.name, &reason, &known_members(&options))?;
            quarantine::mark(dir, &reason).map_err(QuarantineError::from)?;
            let rebuild = set_aside(&options, dir)?;
            start(&options, Some(rebuild)).await?
        }
        started => started?,
    };
    let known = known_members(&options);
    if !known.is_empty() {
        tokio::spawn(find_peers(consensus.clone(), known));
    }
    Ok(consensus)
}

/// Sets the data aside if an earlier process found that they must not be used, or was doing so.
fn marked(options: &BootOptions) -> Result<Option<Rebuild>, BootError> {
    let Some(dir) = options.data_dir.as_deref() else { return Ok(None) };
    match quarantine::found(dir)? {
        None | Some((Phase::Rebuilding | Phase::Over, _)) => Ok(None),
        Some((Phase::Found, reason)) if !options.rebuild_after_corruption => Err(BootError::Unfit(format!(
            "{reason}; rebuild_after_corruption is off: see docs/operations.md, \"Corrupt data\""
        ))),
        Some((Phase::Found | Phase::Moving | Phase::Joining, _)) => set_aside(options, dir).map(Some),
    }
}

fn set_aside(options: &BootOptions, dir: &Path) -> Result<Rebuild, BootError> {
    Ok(quarantine::set_aside(dir, &options.name, &known_members(options))?)
}

/// HTTP addresses of members that the node was started with.
fn known_members(options: &BootOptions) -> Vec<String> {
    let mut known = options.join.clone();
    known.extend(options.form.iter().flat_map(|form| form.peers.clone()));
    known.retain(|address| *address != options.addr.http);
    known
}

async fn start(options: &BootOptions, rebuild: Option<Rebuild>) -> Result<Consensus, BootError> {
    let origin = match rebuild {
        Some(rebuild) => rejoin(options, rebuild).await,
        None => identity(options).await,
    };
    let Origin { identity, founding, stores } = origin?;
    let listener = options.raft_listener.try_clone();
    let listener = listener.map_err(|e| BootError::Failed(format!("the Raft port: {e}")))?;
    let incomplete = || BootError::Unfit("the identity is incomplete".into());
    let me = identity.member(options.addr.clone()).ok_or_else(incomplete)?;
    log::info!("node {} \"{}\" of cluster {}", me.id, me.name, me.cluster_id);
    let config = ConsensusConfig {
        data_dir: options.data_dir.clone(),
        me,
        bootstrap: identity.bootstrap,
        founders: identity.founders,
        founding,
        listener: Box::new(TcpAccept::new(listener)),
        dialler: Arc::new(Tcp),
        raft: options.raft,
        store: options.store.clone(),
        log: options.log.clone(),
        stores,
        share_reads: options.share_reads,
        room: options.room.clone(),
        faults: options.faults.clone(),
    };
    // Opening the stores reads the disk and replays the log's files.
    let started = tokio::task::spawn_blocking(move || Consensus::start(config)).await;
    Ok(started.map_err(|e| BootError::Failed(e.to_string()))??)
}

/// A new identity under the old name, in the same cluster, for a node whose data were set aside.
async fn rejoin(options: &BootOptions, rebuild: Rebuild) -> Result<Origin, BootError> {
    let Some(dir) = options.data_dir.as_deref() else {
        return Err(BootError::Failed("a node in memory has no data to set aside".into()));
    };
    let mut identity = match Identity::load(dir, &options.name)? {
        Some(known) => known,
        None => {
            make_log(dir, options)?;
            Identity::new(&options.name)
        }
    };
    if identity.node_id.is_none() {
        identity.save(dir)?;
        log::warn!(
            "rebuilding this node from {:?}; it was node {:?} of cluster {}, and what it had is in {}/. It waits for a \
             leader: if more than half of the nodes are corrupt, see docs/operations.md, \"Corrupt data\"",
            rebuild.peers,
            rebuild.former_id,
            rebuild.cluster_id,
            quarantine::QUARANTINED
        );
        join(&mut identity, &Target::cluster(rebuild.peers, rebuild.cluster_id), options).await;
        identity.save(dir)?;
    }
    quarantine::joined(dir)?;
    Ok(identity.into())
}

/// From here on a missing log is a loss, not a new directory: so it comes before the identity.
fn make_log(dir: &Path, options: &BootOptions) -> Result<(), BootError> {
    match create_log(dir, options.log.clone()) {
        Ok(true) => Ok(()),
        Ok(false) => Err(orphaned(dir, "wal")),
        Err(e @ StorageError::Corrupt { .. }) => Err(BootError::Corrupt(e.to_string())),
        Err(e) => Err(BootError::Unfit(e.to_string())),
    }
}

/// What a node starts consensus from.
struct Origin {
    identity: Identity,
    /// It has just begun a cluster with others.
    founding: bool,
    /// Opened while it waited for the others.
    stores: Option<Stores>,
}

impl From<Identity> for Origin {
    fn from(identity: Identity) -> Self {
        Origin { identity, founding: false, stores: None }
    }
}

/// The identity on disk, completed by making or joining a cluster where it is new.
async fn identity(options: &BootOptions) -> Result<Origin, BootError> {
    let dir = options.data_dir.as_deref();
    let mut identity = match dir.map(|dir| Identity::load(dir, &options.name)).transpose()?.flatten() {
        Some(known) if known.recovering_from.is_some() => {
            let reason = "making a new cluster of this data directory was begun and not finished: give the \
                          command vaultdb recover again";
            return Err(BootError::Failed(reason.into()));
        }
        Some(known) if known.node_id.is_some() => return Ok(known.into()),
        // A restart before joining succeeded: the same instance asks again.
        Some(asked_before) if !options.join.is_empty() || options.form.is_some() => asked_before,
        Some(_) => {
            let reason =
                "the data directory was made to join a cluster and has not joined yet: start it with -join or --bootstrap-expect";
            return Err(BootError::Failed(reason.into()));
        }
        None => {
            refuse_orphaned_data(dir)?;
            Identity::new(&options.name)
        }
    };
    if let Some(dir) = dir {
        make_log(dir, options)?;
    }
    if let Some(to_form) = &options.form {
        save(&identity, dir)?;
        return form_cluster(options, to_form, identity).await;
    }
    if options.join.is_empty() {
        identity.bootstrap();
    } else {
        save(&identity, dir)?;
        join(&mut identity, &Target::any(options.join.clone()), options).await;
    }
    save(&identity, dir)?;
    Ok(identity.into())
}

/// Forms a cluster with others, or joins the one that there is.
async fn form_cluster(
    options: &BootOptions,
    to_form: &FormOptions,
    mut identity: Identity,
) -> Result<Origin, BootError> {
    let (dir, store, log) = (options.data_dir.clone(), options.store.clone(), options.log.clone());
    let opening = tokio::task::spawn_blocking(move || Stores::open(dir.as_deref(), store, log));
    let formed = form(to_form, &identity, &options.addr, &options.raft_listener).await?;
    let founding = match formed {
        Formed::Join => {
            join(&mut identity, &Target::any(to_form.peers.clone()), options).await;
            save(&identity, options.data_dir.as_deref())?;
            false
        }
        Formed::Begun { plan, proposed } => {
            if !identity.found(plan.clone()) {
                return Err(BootError::Failed("the cluster was formed without this node".into()));
            }
            save(&identity, options.data_dir.as_deref())?;
            if proposed {
                tell_begun(&plan, &identity.instance);
            }
            proposed
        }
    };
    let stores = opening.await.map_err(|e| BootError::Failed(e.to_string()))??;
    Ok(Origin { identity, founding, stores: Some(stores) })
}

async fn join(identity: &mut Identity, target: &Target, options: &BootOptions) {
    let request = JoinRequest {
        name: identity.name.clone(),
        addr: options.addr.clone(),
        instance: Some(identity.instance.clone()),
        stays_learner: options.learner,
    };
    let reply = join_cluster(target, &request).await;
    identity.cluster_id = Some(reply.cluster_id);
    identity.node_id = Some(reply.id);
}

fn save(identity: &Identity, dir: Option<&Path>) -> Result<(), BootError> {
    dir.map_or(Ok(()), |dir| Ok(identity.save(dir)?))
}

/// Data without an identity is somebody's: a new cluster over it would hide what was lost.
fn refuse_orphaned_data(dir: Option<&Path>) -> Result<(), BootError> {
    let Some(dir) = dir else { return Ok(()) };
    // A log may be there: a crash right after it was made, before the identity was, leaves an empty one.
    let holds = |name: &str| std::fs::read_dir(dir.join(name)).is_ok_and(|mut files| files.next().is_some());
    match ["rocksdb", quarantine::QUARANTINED, quarantine::FIRST].into_iter().find(|name| holds(name)) {
        Some(name) => Err(orphaned(dir, name)),
        None => Ok(()),
    }
}

fn orphaned(dir: &Path, name: &str) -> BootError {
    BootError::Corrupt(format!(
        "{} holds {name}/ but no identity.json: restore the file, or empty the directory to join anew",
        dir.display()
    ))
}
