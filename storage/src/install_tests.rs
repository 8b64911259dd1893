//! A process that is killed while it installs or builds a snapshot: the old state or the new, never half.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::process::Command;

use bytes::Bytes;
use vaultdb_kv::{Command as KvCommand, Key};

use crate::{LogId, Op, Snapshot, StateMachine, StoreOptions};

const CHILD_DIR: &str = "VAULTDB_TEST_INSTALL_DIR";
const CRASH_AT: &str = "VAULTDB_TEST_CRASH_AT";

fn entry(index: u64, value: &'static str) -> (LogId, Op) {
    let pairs = vec![(Key::new("k").unwrap(), Bytes::from_static(value.as_bytes()))];
    (LogId { term: 1, index }, Op::Command(KvCommand::Set { pairs }.into()))
}

fn value(store: &StateMachine) -> Option<Bytes> {
    store.get(&Key::new("k").unwrap()).unwrap().map(|found| found.value)
}

fn open(dir: &Path) -> StateMachine {
    StateMachine::open(dir, StoreOptions::default()).unwrap()
}

fn transfer(snapshot: &Snapshot, to: &StateMachine) -> Snapshot {
    let mut receiver = to.receive_snapshot(snapshot.meta().clone()).unwrap();
    for (file, described) in snapshot.meta().files.iter().enumerate() {
        // A reception before the kill may have left some of it.
        let received = receiver.received()[file];
        let chunk = snapshot.read_chunk(file, received, described.bytes as usize).unwrap();
        receiver.write_chunk(file, received, &chunk, crc32fast::hash(&chunk)).unwrap();
    }
    receiver.finish().unwrap()
}

/// Re-runs itself as the process that dies; nothing to do in the outer run.
#[test]
fn dying_installation() {
    let Ok(dir) = std::env::var(CHILD_DIR) else { return };
    let (dir, crash_at) = dir.split_once('@').unwrap();
    let dir = Path::new(dir);
    let peer = open(&dir.join("peer"));
    peer.apply(&[entry(1, "old"), entry(2, "new")]).unwrap();
    let snapshot = peer.build_snapshot().unwrap();
    let store = open(&dir.join("store"));
    store.apply(&[entry(1, "old")]).unwrap();
    store.flush().unwrap();
    if crash_at.starts_with("build") {
        std::env::set_var(CRASH_AT, crash_at);
        store.build_snapshot().unwrap();
    } else {
        let received = transfer(&snapshot, &store);
        std::env::set_var(CRASH_AT, crash_at);
        store.install_snapshot(&received).unwrap();
    }
    // At none of the points: right after the call.
    std::process::abort();
}

fn kill_at(crash_at: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["install_tests::dying_installation", "--exact", "--test-threads=1"])
        .env(CHILD_DIR, format!("{}@{crash_at}", dir.path().display()))
        .output()
        .unwrap();
    assert!(!output.status.success());
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!complaint.contains("panicked"), "{complaint}");
    dir
}

/// Wherever it dies, the state is the old one before the switch and the new one after it; the leftovers
/// are removed, and the node can take the snapshot again.
#[test]
fn killed_installation_leaves_old_or_new() {
    let points = [
        ("install-half-filled", "old"),
        ("install-filled", "old"),
        ("install-opened", "old"),
        ("pointer-before-rename", "old"),
        ("install-switched", "new"),
        ("never", "new"),
    ];
    for (point, expected) in points {
        let dir = kill_at(point);
        let store = open(&dir.path().join("store"));
        assert_eq!(value(&store).as_deref(), Some(expected.as_bytes()), "{point}");
        let applied = store.applied().log_id.unwrap().index;
        assert_eq!(applied, if expected == "old" { 1 } else { 2 }, "{point}");
        let generations = fs::read_dir(dir.path().join("store/rocksdb"))
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().path().is_dir())
            .count();
        assert_eq!(generations, 1, "{point}");
        if let Some(current) = store.current_snapshot() {
            assert!(current.meta().applied.log_id <= store.applied().log_id, "{point}");
        }
        assert_eq!(store.current_snapshot().is_some(), point == "never", "{point}");
        let peer = open(&dir.path().join("peer"));
        let received = transfer(&peer.build_snapshot().unwrap(), &store);
        store.install_snapshot(&received).unwrap();
        assert_eq!(value(&store).as_deref(), Some(b"new".as_ref()), "{point}");
    }
}

/// A snapshot whose building was cut off is never offered.
#[test]
fn killed_building_leaves_none() {
    let dir = kill_at("build-checkpointed");
    let store = open(&dir.path().join("store"));
    assert!(store.current_snapshot().is_none());
    assert_eq!(fs::read_dir(dir.path().join("store/snapshots")).unwrap().count(), 0);
    assert!(store.build_snapshot().is_ok());
}
