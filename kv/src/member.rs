//! Nodes as the rest of the cluster knows them.

use serde::{Deserialize, Serialize};

use crate::error::BadInput;
use crate::limits::NODE_NAME_BYTES_MAX;

/// A node's number: allotted by the cluster, never reused. People use names.
pub type NodeId = u64;

/// Where a node is reached: what others dial, not what it binds.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct MemberAddr {
    /// `host:port` of the Raft port.
    pub raft: String,
    /// `host:port` of the HTTP port; empty when it was not told.
    pub http: String,
}

impl MemberAddr {
    /// Whether both may be of one node, as far as they were told: the HTTP address may be left out of a request typed by
    /// hand.
    pub fn may_be(&self, other: &MemberAddr) -> bool {
        self.raft == other.raft && (self.http == other.http || self.http.is_empty() || other.http.is_empty())
    }
}

/// A member's part in the quorum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Voter,
    Learner,
}

/// How a component or a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    Healthy,
    Degraded,
    Failed,
}

/// Checks a node name: 1 to 64 of letters, digits, `-`, `_` and `.`.
///
/// # Errors
/// [`BadInput::NodeName`].
pub fn check_node_name(name: &str) -> Result<(), BadInput> {
    let ok = (1..=NODE_NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    if ok {
        Ok(())
    } else {
        Err(BadInput::NodeName { name: name.chars().take(NODE_NAME_BYTES_MAX).collect() })
    }
}

/// Checks `host:port`: a non-empty host and a port from 1 to 65535.
///
/// # Errors
/// [`BadInput::Address`].
pub fn check_address(address: &str) -> Result<(), BadInput> {
    let ok = address.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty()
            && !host.contains(|c: char| c.is_whitespace() || c == '/')
            && (!host.contains(':') || (host.starts_with('[') && host.ends_with(']')))
            && port.parse::<u16>().is_ok_and(|p| p > 0)
    });
    if ok {
        Ok(())
    } else {
        Err(BadInput::Address { address: address.chars().take(256).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses() {
        for good in ["node0", "a", "n-1_x.example"] {
            assert_eq!(check_node_name(good), Ok(()));
        }
        for bad in ["", "a b", "a/b", "ä", &"x".repeat(65)] {
            assert!(check_node_name(bad).is_err(), "{bad:?}");
        }
        for good in ["localhost:1", "10.0.0.1:65535", "[::1]:80", "node-1.example:12000"] {
            assert_eq!(check_address(good), Ok(()), "{good}");
        }
        for bad in ["", ":1", "h", "h:", "h:0", "h:65536", "::1:80", "a b:1", "http://h:1"] {
            assert!(check_address(bad).is_err(), "{bad:?}");
        }
    }
}
