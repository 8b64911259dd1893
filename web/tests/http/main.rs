//! The HTTP contract, held over real sockets against a fake node.
//!
//! Requests are written byte by byte, so that no client library tidies up a path or a header.

#![allow(clippy::unwrap_used)]

mod admin;
mod backup;
mod client;
mod dashboard;
mod early;
mod errors;
mod events;
mod fake;
mod faults;
mod guards;
mod keys;
mod limits;
mod listing;
mod openapi;
mod operations;
mod server;
mod unread;
mod values;
