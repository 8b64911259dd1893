//! From a data directory to running consensus: identity, joining, opening the stores.
//!
//! Invariant: an identity is complete on disk before the node answers anyone under it, and a directory
//! that once belonged to a cluster is never made the first of a new one.

use std::fmt;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use vaultdb_consensus::api::JoinRequest;
use vaultdb_consensus::identity::{Identity, IdentityError};
use vaultdb_consensus::offline::OfflineError;
use vaultdb_consensus::transport::{Tcp, TcpAccept};
use vaultdb_consensus::{create_log, ConsensusConfig, StartError, Stores};
use vaultdb_kv::{Faults, MemberAddr};

pub use vaultdb_consensus::{Autopilot, Consensus, RaftOptions, Timing};
use vaultdb_storage::StorageError;
pub use vaultdb_storage::{LogOptions, StoreOptions};

use crate::form::{form, tell_begun, Formed};
use crate::join::join_cluster;
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
    /// What is to go wrong, for tests and demonstrations; the log has the same.
    pub faults: Arc<Faults>,
}

/// Why a node did not start.
#[derive(Debug)]
pub enum BootError {
    /// The data cannot be trusted: exit code 70.
    Unfit(String),
    /// Anything else: exit code 1.
    Failed(String),
}

impl fmt::Display for BootError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BootError::Unfit(reason) | BootError::Failed(reason) => f.write_str(reason),
        }
    }
}

impl From<IdentityError> for BootError {
    fn from(e: IdentityError) -> Self {
        match e {
            IdentityError::Damaged { .. } => BootError::Unfit(e.to_string()),
            IdentityError::Io { .. } | IdentityError::OtherName { .. } => BootError::Failed(e.to_string()),
        }
    }
}

impl From<StartError> for BootError {
    fn from(e: StartError) -> Self {
        match e {
            StartError::Storage(_) | StartError::LogMissing(_) => BootError::Unfit(e.to_string()),
            StartError::Raft(_) | StartError::Thread(_) => BootError::Failed(e.to_string()),
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
    let Origin { identity, founding, stores } = identity(&options).await?;
    let incomplete = || BootError::Unfit("the identity is incomplete".into());
    let me = identity.member(options.addr).ok_or_else(incomplete)?;
    log::info!("node {} \"{}\" of cluster {}", me.id, me.name, me.cluster_id);
    let config = ConsensusConfig {
        data_dir: options.data_dir,
        me,
        bootstrap: identity.bootstrap,
        founders: identity.founders,
        founding,
        listener: Box::new(TcpAccept::new(options.raft_listener)),
        dialler: Arc::new(Tcp),
        raft: options.raft,
        store: options.store,
        log: options.log,
        stores,
        share_reads: options.share_reads,
        faults: options.faults,
    };
    // Opening the stores reads the disk and replays the log's files.
    let started = tokio::task::spawn_blocking(move || Consensus::start(config)).await;
    let consensus = started.map_err(|e| BootError::Failed(e.to_string()))??;
    let mut known = options.join;
    known.extend(options.form.into_iter().flat_map(|form| form.peers));
    if !known.is_empty() {
        tokio::spawn(find_peers(consensus.clone(), known));
    }
    Ok(consensus)
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
    // From here on a missing log is a loss, not a new directory: so it comes before the identity.
    if let Some(dir) = dir {
        let empty = create_log(dir, options.log.clone()).map_err(|e| BootError::Unfit(e.to_string()))?;
        if !empty {
            return Err(orphaned(dir, "wal"));
        }
    }
    if let Some(to_form) = &options.form {
        save(&identity, dir)?;
        return form_cluster(options, to_form, identity).await;
    }
    if options.join.is_empty() {
        identity.bootstrap();
    } else {
        save(&identity, dir)?;
        join(&mut identity, &options.join, options).await;
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
            join(&mut identity, &to_form.peers, options).await;
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

async fn join(identity: &mut Identity, members: &[String], options: &BootOptions) {
    let request = JoinRequest {
        name: identity.name.clone(),
        addr: options.addr.clone(),
        instance: Some(identity.instance.clone()),
        stays_learner: options.learner,
    };
    let reply = join_cluster(members, &request).await;
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
    match std::fs::read_dir(dir.join("rocksdb")).is_ok_and(|mut files| files.next().is_some()) {
        true => Err(orphaned(dir, "rocksdb")),
        false => Ok(()),
    }
}

fn orphaned(dir: &Path, name: &str) -> BootError {
    BootError::Unfit(format!(
        "{} holds {name}/ but no identity.json: restore the file, or empty the directory to join anew",
        dir.display()
    ))
}
