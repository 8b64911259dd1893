//! Who the members are, as `<data-dir>/members.json`: what a node still knows of its cluster when all else is damaged.
//!
//! Only a hint of where to ask. Lost or damaged it is written anew, as at each change of the membership.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use openraft::async_runtime::WatchReceiver;
use serde::{Deserialize, Serialize};
use vaultdb_kv::NodeId;

use crate::core::Core;
use crate::sealed;
use crate::types::StoredMembership;

const FILE: &str = "members.json";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Members {
    pub cluster_id: String,
    pub name: String,
    pub node_id: NodeId,
    /// This node among them.
    members: Vec<Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    id: NodeId,
    name: String,
    http: String,
}

impl Members {
    /// `None` when there is nothing that can be used.
    pub fn load(data_dir: &Path) -> Option<Self> {
        sealed::load(data_dir, FILE).ok().flatten()
    }

    /// HTTP addresses of the others.
    pub fn peers(&self) -> Vec<String> {
        let others = self.members.iter().filter(|member| member.name != self.name);
        others.map(|member| member.http.clone()).filter(|http| !http.is_empty()).collect()
    }

    fn of(core: &Core, membership: &StoredMembership) -> Self {
        let members = membership
            .nodes()
            .map(|(id, node)| Entry { id: *id, name: node.name.clone(), http: node.addr.http.clone() })
            .collect();
        let me = &core.me;
        Self { cluster_id: me.cluster_id.clone(), name: me.name.clone(), node_id: me.id, members }
    }
}

/// Keeps the file up to date for as long as consensus runs.
pub(crate) async fn keep(core: Arc<Core>, data_dir: PathBuf) {
    let mut metrics = core.raft.server_metrics();
    let mut written = Members::load(&data_dir);
    loop {
        let membership = metrics.borrow_watched().membership_config.clone();
        let now = Members::of(&core, &membership);
        // A node that has just joined knows of nobody yet.
        if !now.members.is_empty() && written.as_ref() != Some(&now) {
            let (dir, content) = (data_dir.clone(), now.clone());
            match tokio::task::spawn_blocking(move || sealed::save(&dir, FILE, &content)).await {
                Ok(Ok(())) => written = Some(now),
                // Tried again with the next change: the file is of use only after another failure.
                Ok(Err(e)) => log::warn!("{FILE} was not written: {e}"),
                Err(e) => log::warn!("{FILE} was not written: {e}"),
            }
        }
        if metrics.changed().await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn write(dir: &Path, cluster_id: &str, name: &str, http: &[(&str, &str)]) {
        let entry = |(id, (name, http)): (usize, &(&str, &str))| Entry {
            id: id as NodeId + 1,
            name: (*name).to_owned(),
            http: (*http).to_owned(),
        };
        let members = http.iter().enumerate().map(entry).collect();
        let content = Members { cluster_id: cluster_id.into(), name: name.into(), node_id: 1, members };
        sealed::save(dir, FILE, &content).expect("save");
    }

    /// It tells of the others alone, and a damaged file tells nothing.
    #[test]
    fn the_others_or_nothing() {
        let dir = tempfile::tempdir().expect("tempdir");
        assert_eq!(Members::load(dir.path()), None);
        write(dir.path(), "c", "a", &[("a", "here:1"), ("b", "there:2"), ("c", "")]);
        let members = Members::load(dir.path()).expect("written");
        assert_eq!(members.peers(), ["there:2"]);
        let mut bytes = std::fs::read(dir.path().join(FILE)).expect("read");
        let place = bytes.windows(5).position(|part| part == b"there").expect("the address");
        bytes[place] ^= 1;
        std::fs::write(dir.path().join(FILE), bytes).expect("write");
        assert_eq!(Members::load(dir.path()), None);
    }
}
