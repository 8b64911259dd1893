//! What the tests of the log share.
#![allow(dead_code)]

use std::fs;
use std::io;
use std::path::Path;
use std::sync::mpsc;

use vaultdb_storage::log::{LogStore, OnDurable, Payload};
use vaultdb_storage::{DiskLog, LogId, LogOptions};

/// A payload that is only bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob(pub Vec<u8>);

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

pub fn id(term: u64, index: u64) -> LogId {
    LogId { term, index }
}

pub fn entry(term: u64, index: u64) -> (LogId, Blob) {
    (id(term, index), Blob(format!("entry {index} of term {term}").into_bytes()))
}

pub fn open(dir: &Path) -> DiskLog<Blob> {
    DiskLog::open(dir, LogOptions::default()).expect("open the log")
}

/// A callback, and where its result arrives.
pub fn waiter() -> (OnDurable, mpsc::Receiver<io::Result<()>>) {
    let (sender, receiver) = mpsc::channel();
    let done = move |result| {
        // The test may have stopped waiting.
        drop(sender.send(result));
    };
    (Box::new(done), receiver)
}

/// Appends and waits until it is durable.
pub fn append<L: LogStore<Blob>>(log: &L, entries: Vec<(LogId, Blob)>) {
    let (done, durable) = waiter();
    log.append(entries, done).expect("append");
    durable.recv().expect("an answer").expect("durable");
}

pub fn all<L: LogStore<Blob>>(log: &L) -> Vec<(LogId, Blob)> {
    log.read(0..u64::MAX, usize::MAX).expect("read")
}

pub fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("create the copy");
    for file in fs::read_dir(from).expect("list") {
        let file = file.expect("list");
        fs::copy(file.path(), to.join(file.file_name())).expect("copy");
    }
}

/// Files of the log, oldest first.
pub fn segment_files(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut files: Vec<_> = fs::read_dir(dir)
        .expect("list")
        .map(|file| file.expect("list").path())
        .filter(|path| path.extension().is_some_and(|suffix| suffix == "seg"))
        .collect();
    files.sort();
    files
}

/// Files of 8 sectors, the smallest that there are, and nothing in the cache.
pub fn small_segments() -> LogOptions {
    LogOptions { segment_bytes: 4096, cache_bytes: 0, ..LogOptions::default() }
}
