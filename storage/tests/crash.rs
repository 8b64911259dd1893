//! A process that dies between flushes loses nothing that its log was told to be durable.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/store.rs"]
mod store;

use std::fs;
use std::path::Path;
use std::process::Command;

use common::{append, Blob};
use store::{at, mix, op, Model};
use vaultdb_storage::log::LogStore;
use vaultdb_storage::{DiskLog, LogOptions, StateMachine};

const CHILD: &str = "VAULTDB_TEST_CRASH_CHILD";
const ROUNDS: u64 = 8;

fn open_both(dir: &Path) -> (DiskLog<Blob>, StateMachine) {
    let options = LogOptions { segment_bytes: 4096, ..LogOptions::default() };
    (DiskLog::open(&dir.join("wal"), options).unwrap(), store::open(dir))
}

/// Brings the store up to the end of the log, as a node does when it starts.
fn replay(log: &DiskLog<Blob>, store: &StateMachine) {
    let bounds = log.bounds();
    assert!(store.applied().log_id >= bounds.purged, "an entry that is needed was purged");
    let next = store.applied().log_id.map_or(1, |id| id.index + 1);
    let entries = log.read(next..u64::MAX, usize::MAX).unwrap();
    assert_eq!(entries.len() as u64, bounds.last.map_or(0, |last| last.index) + 1 - next);
    for (id, payload) in entries {
        store.apply(&[(id, decode(&payload))]).unwrap();
    }
}

/// The log carries the seed of the entry.
fn decode(payload: &Blob) -> vaultdb_storage::Op {
    let (seed, index) = payload.0.split_at(8);
    op(u64::from_le_bytes(seed.try_into().unwrap()), u64::from_le_bytes(index.try_into().unwrap()))
}

fn child(dir: &Path, round: u64) {
    let (log, store) = open_both(dir);
    replay(&log, &store);
    for step in 0..mix(round) % 200 {
        let random = mix(round << 32 | step);
        let next = log.bounds().last.map_or(1, |last| last.index + 1);
        let upto = next + random % 20;
        let payload = |index: u64| Blob([7u64.to_le_bytes(), index.to_le_bytes()].concat());
        append(&log, (next..upto).map(|index| (at(index), payload(index))).collect());
        fs::write(dir.join("durable"), (upto - 1).to_string()).unwrap();
        let run: Vec<_> = (next..upto).map(|index| (at(index), op(7, index))).collect();
        store.apply(&run).unwrap();
        match random >> 32 & 63 {
            0 => store.flush().unwrap(),
            1 | 2 => {
                let snapshot = store.build_snapshot().unwrap();
                log.purge(snapshot.meta().applied.log_id.unwrap()).unwrap();
            }
            _ => {}
        }
    }
    std::process::abort();
}

/// Re-runs itself as the process that dies; nothing to do in the outer run.
#[test]
fn dying_process() {
    if let Ok(at) = std::env::var(CHILD) {
        let (round, dir) = at.split_once(':').unwrap();
        child(Path::new(dir), round.parse().unwrap());
    }
}

/// After each of many aborts the log holds everything that was durable, the store is at some applied id
/// at or after what was purged, and applying the rest gives the state of a process that never died.
#[test]
fn replay_after_abort_gives_the_same_state() {
    let dir = tempfile::tempdir().unwrap();
    let mut replayed = 0;
    for round in 0..ROUNDS {
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["dying_process", "--exact", "--test-threads=1"])
            .env(CHILD, format!("{round}:{}", dir.path().display()))
            .output()
            .unwrap();
        assert!(!status.status.success());
        let complaint = String::from_utf8_lossy(&status.stderr).into_owned();
        assert!(!complaint.contains("panicked"), "{complaint}");

        let (log, store) = open_both(dir.path());
        let durable: u64 = fs::read_to_string(dir.path().join("durable")).map_or(0, |n| n.parse().unwrap());
        let last = log.bounds().last.map_or(0, |last| last.index);
        assert!(last >= durable, "{last} < {durable}");
        let mut model = Model::default();
        let recovered = store.applied().log_id.map_or(0, |id| id.index);
        for index in 1..=recovered {
            model.apply(at(index), &op(7, index));
        }
        model.check(&store);
        replay(&log, &store);
        for index in recovered + 1..=last {
            model.apply(at(index), &op(7, index));
        }
        model.check(&store);
        replayed += last - recovered;
        if let Some(snapshot) = store.current_snapshot() {
            assert!(snapshot.meta().applied.log_id.unwrap().index <= recovered);
        }
    }
    assert!(replayed > 0, "no abort lost a memtable: this proves nothing");
}
