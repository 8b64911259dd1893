//! Snapshots on their way between nodes: sending, receiving, the limit of their bandwidth, and what is told of
//! them.
//!
//! Invariant: a few pieces of a snapshot are in memory at a time, however large it is; and nothing is installed
//! of which not every file is what was announced.

pub mod receive;
pub mod send;
pub mod throttle;
pub mod transfers;

/// Pieces of a snapshot that its sender has under way: enough that neither end waits for the other's disk.
pub const PIECES_IN_FLIGHT_MAX: usize = 4;
