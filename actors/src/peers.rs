//! Looking for peers that moved: a member asks the HTTP addresses that it was started with who is there now.
//!
//! What it learns is a hint for dialling; the Raft port verifies who answers.

use std::time::{Duration, SystemTime};

use serde::Deserialize;
use tokio::time::{sleep, timeout};
use vaultdb_consensus::api::Claim;
use vaultdb_consensus::Consensus;
use vaultdb_kv::{MemberAddr, NodeId};

use crate::join::{exchange, parse};

/// Pause between two rounds over all addresses, and between two looks whether one is needed.
const PAUSE: Duration = Duration::from_millis(500);
/// Longest time for one answer: the status comes from memory.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// What a node says of itself in `GET /status`, as far as it is needed here.
#[derive(Debug, Deserialize)]
struct Status {
    node: NodeView,
    cluster: ClusterView,
}

#[derive(Debug, Deserialize)]
struct NodeView {
    id: Option<NodeId>,
    haddr: String,
    raddr: String,
    uptime_ms: u64,
}

#[derive(Debug, Deserialize)]
struct ClusterView {
    id: String,
}

/// Asks the addresses whenever the node has lost its peers, for as long as consensus runs.
pub(crate) async fn find_peers(consensus: Consensus, addresses: Vec<String>) {
    while consensus.runs() {
        if consensus.seeks_peers() {
            for address in &addresses {
                if let Ok(status) = look(address).await {
                    tell(&consensus, address, status);
                }
            }
        }
        sleep(PAUSE).await;
    }
}

async fn look(address: &str) -> Result<Status, String> {
    let asked = timeout(ANSWER_MAX, exchange(address, "GET /status", b"")).await;
    parse(&asked.map_err(|_| "no answer in time".to_owned())??)
}

/// A node that has not joined yet has nothing to tell.
fn tell(consensus: &Consensus, address: &str, status: Status) {
    let Some(id) = status.node.id else { return };
    let addr = MemberAddr { raft: status.node.raddr, http: status.node.haddr };
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let now_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
    let claim = Claim { id, addr, since_ms: now_ms.saturating_sub(status.node.uptime_ms) };
    consensus.hint(&status.cluster.id, address, claim);
}
