//! A disk that takes no more: nothing is retried, nothing is silent, and what was durable stays.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/store.rs"]
mod store;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use common::{all, entry, open, Blob};
use store::{at, set};
use vaultdb_storage::log::LogStore;
use vaultdb_storage::{DiskLog, LogOptions, StorageError, Vote};

const CHILD: &str = "VAULTDB_TEST_FULL_DISK_DIR";
/// Largest file that the child may write, in blocks of 512 bytes, which is also what a file of its log measures.
const FILE_BLOCKS_MAX: u32 = 64;
/// An entry so large that its file would have to be larger.
const LARGE_BYTES: usize = 64 * 1024;
const IN_FLIGHT_MAX: u64 = 100;

/// Appends until the log fails. Every operation is answered once and in order, successes before
/// failures, and from then on everything fails.
fn fill(dir: &Path) {
    let options = LogOptions { segment_bytes: FILE_BLOCKS_MAX as usize * 512, ..LogOptions::default() };
    let log = DiskLog::<Blob>::open(dir, options).unwrap();
    let answers = Arc::new(Mutex::new(Vec::new()));
    let record = |index: u64| {
        let answers = answers.clone();
        Box::new(move |result: std::io::Result<()>| answers.lock().unwrap().push((index, result.is_ok())))
    };
    let mut index = 0;
    let mut failures = 0;
    while failures < 3 {
        index += 1;
        assert!(index < 100_000, "the limit on files has no effect");
        let (id, mut payload) = entry(1, index);
        // Few at a time, so that no batch needs a larger file but the one of the large entry.
        while failures == 0 && (answers.lock().unwrap().len() as u64) + IN_FLIGHT_MAX < index {
            std::thread::yield_now();
        }
        if index == 1_000 {
            payload = Blob(vec![1; LARGE_BYTES]);
        }
        failures += u32::from(log.append(vec![(id, payload)], record(index)).is_err());
        if failures > 0 {
            assert!(log.read(1..2, 1).is_err());
            assert!(log.truncate_after(None).is_err());
            assert!(log.purge(common::id(1, 1)).is_err());
            assert!(log.save_committed(Some(common::id(1, 1))).is_err());
            index += 1;
            assert!(log.save_vote(Vote::default(), record(index)).is_err());
        }
    }
    drop(log);
    let answers = answers.lock().unwrap();
    assert_eq!(answers.iter().map(|(index, _)| *index).collect::<Vec<_>>(), (1..=index).collect::<Vec<_>>());
    let durable = answers.iter().take_while(|(_, durable)| *durable).count();
    assert!(answers[durable..].iter().all(|(_, durable)| !durable));
    fs::write(dir.with_extension("durable"), durable.to_string()).unwrap();
}

/// Re-runs itself as the process whose disk is full; nothing to do in the outer run.
#[test]
fn full_disk() {
    if let Ok(dir) = std::env::var(CHILD) {
        fill(Path::new(&dir));
    }
}

#[test]
fn failed_write_ends_the_log_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let wal = dir.path().join("wal");
    // A write beyond the limit fails like one on a full disk, once the signal is ignored.
    let script = format!("trap '' XFSZ; ulimit -f {FILE_BLOCKS_MAX}; exec \"$0\" full_disk --exact");
    let output = Command::new("sh")
        .args(["-c", &script])
        .arg(std::env::current_exe().unwrap())
        .env(CHILD, &wal)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let durable: usize = fs::read_to_string(wal.with_extension("durable")).unwrap().parse().unwrap();
    assert!(durable as u64 >= 999 - IN_FLIGHT_MAX, "{durable}");
    let log = open(&wal);
    let found = all(&log);
    assert!(found.len() >= durable && found.len() < 1_000, "{} < {durable}", found.len());
    assert_eq!(found[..], (1..=found.len() as u64).map(|index| entry(1, index)).collect::<Vec<_>>()[..]);
}

/// Once the engine could not write, the state machine answers nothing any more.
#[test]
fn failed_flush_poisons_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let store = store::open(dir.path());
    store.apply(&[(at(1), set(&[(1, "one")]))]).unwrap();
    fs::rename(dir.path().join("rocksdb/000001"), dir.path().join("rocksdb/elsewhere")).unwrap();
    assert!(matches!(store.flush(), Err(StorageError::Rocks(_))));
    let poisoned = |error: StorageError| assert!(matches!(error, StorageError::Poisoned { .. }), "{error:?}");
    poisoned(store.apply(&[(at(2), set(&[(1, "two")]))]).unwrap_err());
    poisoned(store.get(&store::key(1)).unwrap_err());
    poisoned(store.try_get(&store::key(1)).unwrap_err());
    poisoned(store.flush().unwrap_err());
    poisoned(store.build_snapshot().unwrap_err());
    assert_eq!(store.applied().log_id, Some(at(1)), "status is still answered");
}
