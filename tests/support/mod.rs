//! Whole nodes as processes: the harness under every test of this folder.
//!
//! Starts the real binary on real loopback ports, speaks HTTP to it over plain sockets, and kills only
//! what it started. Every wait is on a condition with a named limit.

// Each test binary compiles this module and uses a part of it.
#![allow(dead_code, unused_imports, clippy::unwrap_used)]

pub mod browser;
pub mod cluster;
pub mod contention;
pub mod contract;
pub mod dice;
pub mod exposition;
pub mod http;
pub mod linearizability;
pub mod links;
pub mod load;
pub mod node;
pub mod operations;
pub mod ports;
pub mod small_disk;
pub mod snapshots;
pub mod status;
pub mod violation;
pub mod wait;
pub mod walk;

pub use cluster::{Cluster, Plan};
pub use contention::{Contention, ContentionPlan};
pub use dice::Dice;
pub use http::{Client, Failure, Request, Response};
pub use links::Links;
pub use load::{History, Load, LoadPlan, Outcome};
pub use node::{vaultdb, Node, Stopped};
pub use small_disk::SmallDisk;
pub use status::Status;
pub use wait::{eventually, eventually_ok, skip};
