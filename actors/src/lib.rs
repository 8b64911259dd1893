//! VaultDB's actors: they own lifecycles and decisions, while shared handles carry bytes.
//!
//! Knows nothing of HTTP, openraft or RocksDB. Invariant: every caller gets an answer by its deadline,
//! and "not applied" is said only of a write that no log can hold.

mod adapter;
mod ask;
pub mod boot;
mod component;
mod damage;
mod dispatcher;
mod events;
mod faults;
pub mod figures;
mod form;
mod gate;
mod handles;
mod health;
mod join;
mod judge;
mod lane;
mod listings;
mod messages;
pub mod offline;
mod options;
mod peers;
mod pending;
pub mod port;
mod queue;
mod raft_node;
mod rounds;
mod sentinel;
mod shared;
mod slot;
mod space;
mod status;
mod store;
mod supervisor;
mod system;
mod totals;
mod watches;
mod witness;

pub use ask::{ask_member, PeerAnswer, PEER_ANSWER_BYTES_MAX};
pub use damage::DataFile;
pub use events::{EventCount, EventPage, EventRing, EVENTS_MAX};
pub use faults::{FaultOrder, FaultRefusal};
pub use handles::{Handles, WorkerHandles};
pub use listings::{Listing, ListingId, Listings, LISTING_LEASE, PAGED_LISTINGS_MAX, STREAMED_LISTINGS_MAX};
pub use messages::{Fault, ReadAnswer, ScanFrom};
pub use options::{HealthOptions, Options};
pub use slot::component_names;
pub use space::SpaceOptions;
pub use status::{
    CheckResult, ComponentHealth, Event, EventKind, HealthReport, NodeInfo, NodeStatus, ReplicationStatus,
    ReplicationTotals, UnreachablePeer, LINEARIZABLE_READ,
};
pub use system::System;

// What the edges of the node need of the rooms behind this one.
pub use vaultdb_consensus::api::{
    AgreementStatus, ClusterStatus, Committed, Divergence, JoinReply, JoinRequest, Leader, Leadership,
    Member, MemberOrder, MemberReply, MemberStatus, ProposeError, RaftState, TransferDirection,
    TransferStatus, TransferTotals,
};
pub use vaultdb_consensus::stages::{Stage, Stages, WriteTimes};
pub use vaultdb_consensus::IntegrityStatus;
pub use vaultdb_storage::{CacheStats, EntryFate, LogId, StoreStats};
