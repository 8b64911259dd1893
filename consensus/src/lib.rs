//! openraft and what it needs to run a VaultDB cluster: log and state machine adapters, peer transport,
//! read barrier, membership and identity.
//!
//! Knows nothing of actix. Invariant: a write is answered only once it is applied here or on the
//! leader; a failure is told as definite only where no log can hold the command.

mod acceptance;
mod agreement;
mod announce;
pub mod api;
mod barrier;
mod book;
mod campaign;
mod codec;
mod comparison;
mod contacts;
mod core;
pub mod formation;
mod founding;
pub mod identity;
mod integrity;
mod link;
mod log_store;
mod members;
mod membership;
mod network;
mod node;
pub mod offline;
mod orders;
mod pace;
mod peer_faults;
pub mod quarantine;
pub mod recover;
pub mod restore;
mod room;
mod sealed;
mod server;
mod snapshot;
pub mod stages;
mod standing;
mod state_machine;
mod status;
mod stores;
#[cfg(test)]
mod suite_tests;
mod tending;
pub mod transport;
mod types;
mod upkeep;
mod watchdog;
mod wire;

pub use integrity::{IntegrityStatus, ScrubOptions};
pub use node::{Consensus, ConsensusConfig, RaftOptions, StartError, Timing};
pub use stores::{create_log, wal_dir, Stores};
pub use tending::Autopilot;
