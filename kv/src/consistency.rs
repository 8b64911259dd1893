//! Read consistency levels and what else a read may ask for.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::BadInput;
use crate::Revision;

/// What a read promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Consistency {
    /// Sees every write that was acknowledged before the read began, on any node: a read index from
    /// the leader, confirmed by a quorum (Ongaro 2014, §6.4).
    #[default]
    Linearizable,
    /// The same while clocks run at nearly the same speed: the leader answers from its lease, without a
    /// round trip to a quorum (Ongaro 2014, §6.4.1).
    Lease,
    /// Eventual consistency from the local store; no network, works without a quorum.
    Stale,
}

impl Consistency {
    pub fn as_str(self) -> &'static str {
        match self {
            Consistency::Linearizable => "linearizable",
            Consistency::Lease => "lease",
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
            "lease" => Ok(Consistency::Lease),
            "stale" => Ok(Consistency::Stale),
            other => Err(BadInput::Parameter {
                name: "consistency",
                reason: format!("\"{}\" is not one of linearizable, lease, stale", other.escape_debug()),
            }),
        }
    }
}

/// How fresh the state must be that a read sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Freshness {
    pub consistency: Consistency,
    /// With [`Consistency::Stale`]: the state holds every write that was acknowledged longer ago than this.
    pub max_staleness: Option<Duration>,
    /// The state is at this revision or a later one.
    pub min_revision: Option<Revision>,
}

impl From<Consistency> for Freshness {
    fn from(consistency: Consistency) -> Self {
        Self { consistency, ..Self::default() }
    }
}
