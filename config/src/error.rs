//! What can be wrong with a configuration, told in one line that names the place and the value.

use std::fmt;

use thiserror::Error;

/// Where a value was set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    Default { key: &'static str },
    File { path: String, key: String },
    Variable { name: String },
    Flag { name: String },
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Default { key } => write!(f, "{key} (default)"),
            Place::File { path, key } => write!(f, "key {key} in {path}"),
            Place::Variable { name } => write!(f, "variable {name}"),
            Place::Flag { name } => write!(f, "{name}"),
        }
    }
}

/// A configuration that cannot be used. Nothing was started.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// The file is not TOML.
    #[error("{path} line {line}: {reason}")]
    Syntax { path: String, line: usize, reason: String },
    #[error("unknown key {key} in {path}")]
    UnknownKey { path: String, key: String },
    #[error("unknown variable {name}")]
    UnknownVariable { name: String },
    /// One value breaks its own rule; the reason quotes the value.
    #[error("{place}: {reason}")]
    Value { place: Place, reason: String },
    /// A setting without a default was not given.
    #[error("{what} is missing: give {flag}, the variable {variable} or the key {key}")]
    Missing { what: &'static str, flag: &'static str, variable: &'static str, key: &'static str },
    /// A few lost heartbeats would start an election.
    #[error(
        "{place}: {election_timeout_ms_min} is less than {factor} times heartbeat_interval_ms, which is \
         {heartbeat_interval_ms}"
    )]
    ElectionTimeoutTooShort {
        place: Place,
        election_timeout_ms_min: u64,
        heartbeat_interval_ms: u64,
        factor: u64,
    },
    /// Without a range to draw from, candidates split the vote again and again.
    #[error(
        "{place}: {election_timeout_ms_max} is not greater than election_timeout_ms_min, which is \
         {election_timeout_ms_min}"
    )]
    ElectionTimeoutRange { place: Place, election_timeout_ms_min: u64, election_timeout_ms_max: u64 },
    /// An election or a restart would count as a death.
    #[error(
        "{place}: {dead_member_timeout_ms} is less than {factor} times election_timeout_ms_max, which is \
         {election_timeout_ms_max}; 0 never removes anybody"
    )]
    DeadMemberTimeoutTooShort {
        place: Place,
        dead_member_timeout_ms: u64,
        election_timeout_ms_max: u64,
        factor: u64,
    },
    /// Who forms a cluster must know of all others, or there could be two.
    #[error(
        "{place}: {expect} nodes are to form a cluster, so peers must be the HTTP addresses of all of them or \
         of the {} others, not {peers} addresses", expect.saturating_sub(1)
    )]
    Peers { place: Place, expect: u64, peers: usize },
    /// A node either joins a cluster or forms one.
    #[error("{place}: join and bootstrap_expect exclude each other: a node joins a cluster or forms one")]
    JoinAndForm { place: Place },
    /// What has failed was degraded before.
    #[error("{place}: {failed_ms} is not greater than {degraded}, which is {degraded_ms}")]
    Thresholds { place: Place, failed_ms: u64, degraded: &'static str, degraded_ms: u64 },
    /// Both servers cannot bind one address.
    #[error("{place}: \"{address}\" is the address of the HTTP server already")]
    SameAddress { place: Place, address: String },
}
