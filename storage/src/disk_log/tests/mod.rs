//! What crashes, damage and failing disks do to the log, on a disk in memory.
#![allow(clippy::unwrap_used)]

mod crash;
mod damage;
mod faults;
mod reading;

use std::io;
use std::sync::mpsc;
use std::sync::Arc;

use super::sim_disk::{Image, SimDisk};
use super::{recover, DiskLog};
use crate::error::StorageError;
use crate::log::{LogStore, OnDurable, Payload};
use crate::log_options::LogOptions;
use crate::mem_log::MemLog;
use crate::types::{LogId, Vote};

/// Bytes of the smallest segment.
const SEGMENT_BYTES: usize = 4096;

/// A payload that is only bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Blob(Vec<u8>);

impl Payload for Blob {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0);
    }

    fn decode(bytes: &[u8]) -> io::Result<Self> {
        Ok(Self(bytes.to_vec()))
    }

    fn weight(&self) -> usize {
        self.0.len() + 24
    }
}

fn options() -> LogOptions {
    LogOptions { segment_bytes: SEGMENT_BYTES, cache_bytes: 0, ..LogOptions::default() }
}

fn open(disk: &SimDisk) -> Result<DiskLog<Blob>, StorageError> {
    DiskLog::open_on(Arc::new(disk.clone()), options())
}

/// The log that a crash left: its entries, or that it is refused as corrupt. Anything else is a failure.
fn recovered(image: &Image) -> Option<Vec<(LogId, Blob)>> {
    let disk = SimDisk::with(image);
    let options = LogOptions { cache_bytes: usize::MAX, ..options() };
    match recover::recover::<Blob>(&disk, &options) {
        Ok(found) => {
            let mut entries = Vec::new();
            found.tail.copy(0..u64::MAX, usize::MAX, &mut entries);
            // What was repaired is whole.
            let again = recover::recover::<Blob>(&SimDisk::with(&disk.crash(|_, _| false)), &options);
            let again = again.unwrap_or_else(|error| panic!("opened once, then: {error}"));
            assert_eq!(again.tail.facts, found.tail.facts);
            assert_eq!((again.next_batch, again.next_sector), (found.next_batch, found.next_sector));
            Some(entries)
        }
        Err(StorageError::Corrupt { .. }) => None,
        Err(other) => panic!("refused, but as {other:?}"),
    }
}

fn id(term: u64, index: u64) -> LogId {
    LogId { term, index }
}

fn entry(term: u64, index: u64) -> (LogId, Blob) {
    (id(term, index), Blob(format!("entry {index} of term {term}").into_bytes()))
}

fn entries(term: u64, indexes: std::ops::RangeInclusive<u64>) -> Vec<(LogId, Blob)> {
    indexes.map(|index| entry(term, index)).collect()
}

fn vote(term: u64) -> Vote {
    Vote { term, node_id: 1, committed: false }
}

/// A callback, and where its result arrives.
fn waiter() -> (OnDurable, mpsc::Receiver<io::Result<()>>) {
    let (sender, receiver) = mpsc::channel();
    // The test may have stopped waiting.
    (Box::new(move |result| drop(sender.send(result))), receiver)
}

/// Appends, and waits until it is durable.
fn append(log: &DiskLog<Blob>, entries: Vec<(LogId, Blob)>) {
    let (done, durable) = waiter();
    log.append(entries, done).expect("append");
    durable.recv().expect("an answer").expect("durable");
}

fn all(log: &impl LogStore<Blob>) -> Vec<(LogId, Blob)> {
    log.read(0..u64::MAX, usize::MAX).expect("read")
}
