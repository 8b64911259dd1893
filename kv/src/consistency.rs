//! Read consistency levels.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::BadInput;

/// What a read promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Consistency {
    /// Sees every write that was acknowledged before the read began, on any node: a read index from
    /// the leader, confirmed by a quorum (Ongaro 2014, §6.4).
    #[default]
    Linearizable,
    /// Eventual consistency from the local store; no network, works without a quorum.
    Stale,
}

impl Consistency {
    pub fn as_str(self) -> &'static str {
        match self {
            Consistency::Linearizable => "linearizable",
            Consistency::Stale => "stale",
        }
    }
}

impl fmt::Display for Consistency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Consistency {
    type Err = BadInput;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        match s {
            "linearizable" => Ok(Consistency::Linearizable),
            "stale" => Ok(Consistency::Stale),
            other => Err(BadInput::Parameter {
                name: "consistency",
                reason: format!("\"{}\" is not one of linearizable, stale", other.escape_debug()),
            }),
        }
    }
}
