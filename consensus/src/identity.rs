//! Who a node is: `<data-dir>/identity.json`.
//!
//! A node id is allotted by the cluster and never reused. A data directory draws an `instance` when it
//! is made; a node that lost its disk comes with a new one, and so gets a new id under its old name.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use vaultdb_kv::{MemberAddr, NodeId};
use vaultdb_storage::StorageError;

use crate::formation::{Founder, Plan};
use crate::sealed::{self, SealedError};

const FILE: &str = "identity.json";

/// This node, once it belongs to a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub cluster_id: String,
    pub id: NodeId,
    pub name: String,
    pub instance: String,
    pub addr: MemberAddr,
}

/// What is on disk. The cluster and the id are absent until the node has joined.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    pub cluster_id: Option<String>,
    pub node_id: Option<NodeId>,
    pub name: String,
    pub instance: String,
    /// This node made the cluster, and forms it alone until others join, or with the `founders`.
    pub bootstrap: bool,
    /// The cluster that it was a member of, while it is made the first of a new one: see
    /// [`crate::recover`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovering_from: Option<String>,
    /// The first voters of a cluster that several nodes formed together, this one among them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub founders: Vec<Founder>,
}

#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error(transparent)]
    NotSaved(#[from] StorageError),
    #[error("{path} is damaged: {reason}")]
    Damaged { path: PathBuf, reason: String },
    #[error("the data directory belongs to node \"{found}\", not to \"{asked}\"")]
    OtherName { found: String, asked: String },
}

impl Identity {
    pub fn new(name: &str) -> Self {
        Identity {
            cluster_id: None,
            node_id: None,
            name: name.to_owned(),
            instance: uuid::Uuid::new_v4().to_string(),
            bootstrap: false,
            recovering_from: None,
            founders: Vec::new(),
        }
    }

    /// Makes this node the first of a new cluster.
    pub fn bootstrap(&mut self) {
        self.cluster_id = Some(uuid::Uuid::new_v4().to_string());
        self.node_id = Some(FIRST_NODE_ID);
        self.bootstrap = true;
    }

    /// Gives this member a cluster id of its own, and notes that its data still have to follow.
    pub fn renew_cluster(&mut self) {
        self.recovering_from = self.cluster_id.replace(uuid::Uuid::new_v4().to_string());
        self.founders.clear();
    }

    /// Makes this node one of the first of a cluster that it formed with others. Tells whether the plan
    /// names this node.
    pub fn found(&mut self, plan: Plan) -> bool {
        self.node_id = plan.id_of(&self.instance);
        self.bootstrap = self.node_id.is_some();
        if self.bootstrap {
            self.cluster_id = Some(plan.cluster_id);
            self.founders = plan.founders;
        }
        self.bootstrap
    }

    /// This node as a member; `None` until it has joined.
    pub fn member(&self, addr: MemberAddr) -> Option<Member> {
        Some(Member {
            cluster_id: self.cluster_id.clone()?,
            id: self.node_id?,
            name: self.name.clone(),
            instance: self.instance.clone(),
            addr,
        })
    }

    /// Reads the identity of a data directory; `None` when it has none yet.
    ///
    /// # Errors
    /// When the file cannot be read, is damaged, or names another node.
    pub fn load(data_dir: &Path, name: &str) -> Result<Option<Self>, IdentityError> {
        let path = data_dir.join(FILE);
        let identity: Identity = match sealed::load(data_dir, FILE) {
            Ok(Some(identity)) => identity,
            Ok(None) => return Ok(None),
            Err(SealedError::Io(source)) => return Err(IdentityError::Io { path, source }),
            Err(SealedError::Damaged(reason)) => return Err(IdentityError::Damaged { path, reason }),
        };
        if identity.cluster_id.is_some() != identity.node_id.is_some() {
            let reason = "it has only one of cluster_id and node_id".to_owned();
            return Err(IdentityError::Damaged { path, reason });
        }
        if identity.name != name {
            return Err(IdentityError::OtherName { found: identity.name, asked: name.to_owned() });
        }
        Ok(Some(identity))
    }

    /// Replaces the file atomically; durable when this returns.
    ///
    /// # Errors
    /// When any step of it fails.
    pub fn save(&self, data_dir: &Path) -> Result<(), IdentityError> {
        Ok(sealed::save(data_dir, FILE, self)?)
    }
}

/// Id of the node that makes a cluster.
pub const FIRST_NODE_ID: NodeId = 1;

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// An identity survives a restart, and a damaged or foreign one is refused, never replaced.
    #[test]
    fn saved_loaded_and_refused() {
        let dir = tempfile::tempdir().expect("tempdir");
        assert_eq!(Identity::load(dir.path(), "n").expect("load"), None);
        let mut identity = Identity::new("n");
        identity.bootstrap();
        identity.save(dir.path()).expect("save");
        assert_eq!(Identity::load(dir.path(), "n").expect("load"), Some(identity));
        assert!(matches!(Identity::load(dir.path(), "m"), Err(IdentityError::OtherName { .. })));
        let path = dir.path().join(FILE);
        let bytes = fs::read(&path).expect("read");
        for cut in 0..bytes.len() - 2 {
            fs::write(&path, &bytes[..cut]).expect("write");
            assert!(matches!(Identity::load(dir.path(), "n"), Err(IdentityError::Damaged { .. })), "{cut}");
        }
    }
}
