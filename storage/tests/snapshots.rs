//! Snapshots: what is refused, what is removed, what survives.
#![allow(clippy::unwrap_used)]

#[path = "common/store.rs"]
mod store;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use store::{at, key, names, open, refused, register, set, tiny, transfer, value};
use vaultdb_storage::{Op, SnapshotFile, StateMachine, StorageError};

/// Longest wait for a replaced state to go away.
const REMOVED_LIMIT: Duration = Duration::from_secs(10);

/// The state travels whole: data, applied id, membership, registrations and the counter of ids.
#[test]
fn everything_travels() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (from, to) = (open(a.path()), open(b.path()));
    let membership = Op::Membership(b"members".as_ref().into());
    from.apply(&[(at(0), membership), (at(1), register("n0", "x")), (at(2), set(&[(1, "one")]))]).unwrap();
    to.apply(&[(at(0), Op::Blank), (at(1), set(&[(1, "old"), (2, "gone")]))]).unwrap();
    assert_eq!(value(&to, 2).as_deref(), Some("gone"));
    let snapshot = from.build_snapshot().unwrap();
    to.install_snapshot(&transfer(&snapshot, &to, 1000)).unwrap();
    drop(from);
    let check = |store: &StateMachine| {
        assert_eq!(store.applied(), snapshot.meta().applied);
        assert_eq!(store.applied().membership.unwrap().1.as_ref(), b"members");
        assert_eq!((value(store, 1).as_deref(), value(store, 2)), (Some("one"), None));
        assert_eq!(store.registered("n0").unwrap().0, 1);
    };
    check(&to);
    drop(to);
    let to = open(b.path());
    check(&to);
    assert_eq!(to.current_snapshot().unwrap().meta(), snapshot.meta());
    let answers = to.apply(&[(at(3), register("n1", "y"))]).unwrap();
    assert_eq!(answers[0].result, vaultdb_kv::ApplyResult::NodeRegistered { id: 2 });
    // Data and snapshot of the first generation are gone.
    assert_eq!(names(&b.path().join("rocksdb")), ["000002", "CURRENT-GENERATION"]);
    assert_eq!(names(&b.path().join("snapshots")).len(), 1);
}

/// A piece whose checksum does not match is not taken, and the right one still is.
#[test]
fn bad_checksum_is_refused() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (from, to) = (open(a.path()), open(b.path()));
    from.apply(&[(at(1), set(&[(1, "one")]))]).unwrap();
    let snapshot = from.build_snapshot().unwrap();
    let file = snapshot.meta().files.iter().position(|file| file.name.ends_with(".sst")).unwrap();
    let mut receiver = to.receive_snapshot(snapshot.meta().clone()).unwrap();
    let chunk = snapshot.read_chunk(file, 0, 100).unwrap();
    let crc = crc32fast::hash(&chunk);
    assert!(refused(receiver.write_chunk(file, 0, &chunk, crc ^ 1)));
    let mut damaged = chunk.to_vec();
    damaged[7] ^= 1;
    assert!(refused(receiver.write_chunk(file, 0, &damaged, crc)));
    assert!(refused(receiver.write_chunk(file, 1, &chunk, crc)), "not the next piece");
    assert!(refused(receiver.write_chunk(99, 0, &chunk, crc)), "no such file");
    receiver.write_chunk(file, 0, &chunk, crc).unwrap();
    let all = vec![0; 1 << 20];
    assert!(refused(receiver.write_chunk(file, 100, &all, crc32fast::hash(&all))), "longer than announced");
    assert!(refused(receiver.finish()), "not whole");
    let receiver = to.receive_snapshot(snapshot.meta().clone()).unwrap();
    assert_eq!(receiver.received()[file], 100, "what came is kept");
    assert_eq!(to.applied().log_id, None);
}

/// Content that is not what was announced is never installed.
#[test]
fn foreign_content_is_refused() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (from, to) = (open(a.path()), open(b.path()));
    from.apply(&[(at(1), set(&[(1, "one")]))]).unwrap();
    let snapshot = from.build_snapshot().unwrap();
    let mut meta = snapshot.meta().clone();
    meta.applied.log_id = Some(at(2));
    let mut receiver = to.receive_snapshot(meta).unwrap();
    for (file, described) in snapshot.meta().files.iter().enumerate() {
        let chunk = snapshot.read_chunk(file, 0, described.bytes as usize).unwrap();
        receiver.write_chunk(file, 0, &chunk, crc32fast::hash(&chunk)).unwrap();
    }
    assert!(refused(receiver.finish()));
    for bad in ["../etc", ".", "a/b", "", "META", "OFFER.tmp", "making-1"] {
        let mut meta = snapshot.meta().clone();
        if bad == "making-1" {
            meta.id = bad.into();
        } else {
            meta.files.push(SnapshotFile { name: bad.into(), bytes: 1, crc32: 0 });
        }
        assert!(refused(to.receive_snapshot(meta)), "{bad:?}");
    }
    let memory = StateMachine::in_memory(tiny());
    assert!(refused(memory.receive_snapshot(snapshot.meta().clone())));
    memory.apply(&[(at(5), Op::Blank)]).unwrap();
    assert!(refused(to.receive_snapshot(memory.build_snapshot().unwrap().meta().clone())));
    to.apply(&[(at(1), set(&[(1, "mine")]))]).unwrap();
    assert_eq!(value(&to, 1).as_deref(), Some("mine"), "the store goes on");
}

/// Only the newest is kept; one that is still being read stays until its last reader is done.
#[test]
fn old_snapshots_go_with_their_last_reader() {
    let dir = tempfile::tempdir().unwrap();
    let snapshots = dir.path().join("snapshots");
    let store = open(dir.path());
    assert!(store.current_snapshot().is_none());
    store.apply(&[(at(1), set(&[(1, "one")]))]).unwrap();
    let first = store.build_snapshot().unwrap();
    assert_eq!(store.build_snapshot().unwrap().meta(), first.meta(), "nothing new: the same one");
    store.apply(&[(at(2), set(&[(1, "two")]))]).unwrap();
    let second = store.build_snapshot().unwrap();
    assert_eq!(names(&snapshots).len(), 2);
    assert!(first.read_chunk(0, 0, 10).is_ok());
    drop(first);
    assert_eq!(names(&snapshots), [second.meta().id.clone()]);
    drop(store);
    assert_eq!(names(&snapshots), [second.meta().id.clone()]);
    let store = open(dir.path());
    assert_eq!(store.current_snapshot().unwrap().meta(), second.meta());
    drop((store, second));
    // One that is damaged is not offered.
    let file = names(&snapshots).pop().unwrap();
    fs::remove_file(snapshots.join(file).join("CURRENT")).unwrap();
    let store = open(dir.path());
    assert!(store.current_snapshot().is_none());
    assert_eq!(value(&store, 1).as_deref(), Some("two"));
}

/// A description that cannot be read tells nothing about its snapshot: no damage is told, and nothing is removed.
#[test]
fn unreadable_is_not_damaged() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (store, peer) = (open(a.path()), open(b.path()));
    store.apply(&[(at(1), set(&[(1, "one")]))]).unwrap();
    let snapshot = store.build_snapshot().unwrap();
    // A reception that is interrupted leaves what came.
    drop(peer.receive_snapshot(snapshot.meta().clone()).unwrap());
    drop(peer);
    let is_io = |result| matches!(result, Err(StorageError::Io { .. }));

    let path = a.path().join("snapshots").join(&snapshot.meta().id);
    let (meta, hidden) = (path.join("META"), path.join("hidden"));
    // Reading a directory fails, and not because there is nothing.
    let hide = |file: &Path, hidden: &Path| {
        fs::rename(file, hidden).unwrap();
        fs::create_dir(file).unwrap();
    };
    let show = |file: &Path, hidden: &Path| {
        fs::remove_dir(file).unwrap();
        fs::rename(hidden, file).unwrap();
    };
    hide(&meta, &hidden);
    assert!(is_io(store.scrub(&mut |_| true).map(drop)));
    assert_eq!(store.corruption(), None);
    drop((store, snapshot));
    assert!(is_io(StateMachine::open(a.path(), tiny()).map(drop)));
    show(&meta, &hidden);
    let store = open(a.path());
    assert!(store.current_snapshot().is_some());
    assert!(store.scrub(&mut |_| true).unwrap());
    fs::remove_file(&meta).unwrap();
    assert!(matches!(store.scrub(&mut |_| true), Err(StorageError::Corrupt { .. })));

    let snapshots = b.path().join("snapshots");
    let incoming = names(&snapshots);
    let (offer, hidden) = (snapshots.join(&incoming[0]).join("OFFER"), b.path().join("hidden"));
    hide(&offer, &hidden);
    assert!(is_io(StateMachine::open(b.path(), tiny()).map(drop)));
    show(&offer, &hidden);
    drop(open(b.path()));
    assert_eq!(names(&snapshots), incoming, "it can go on");
}

/// A verification that takes long keeps no state that a snapshot replaces meanwhile.
#[test]
fn replaced_while_it_is_verified() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (from, to) = (open(a.path()), open(b.path()));
    from.apply(&[(at(1), set(&[(1, "one")])), (at(2), set(&[(1, "two")]))]).unwrap();
    to.apply(&[(at(1), set(&[(1, "one")]))]).unwrap();
    let received = transfer(&from.build_snapshot().unwrap(), &to, 1000);
    let mut installed = false;
    let whole = to.scrub(&mut |_| {
        if !std::mem::replace(&mut installed, true) {
            to.install_snapshot(&received).unwrap();
            // What takes the figures may have it for a moment.
            let end = Instant::now() + REMOVED_LIMIT;
            while names(&b.path().join("rocksdb")) != ["000002", "CURRENT-GENERATION"] {
                assert!(Instant::now() < end, "{:?}", names(&b.path().join("rocksdb")));
                std::thread::yield_now();
            }
        }
        true
    });
    assert!(whole.unwrap() && installed);
    assert_eq!(value(&to, 1).as_deref(), Some("two"));
    assert_eq!(names(&b.path().join("snapshots")).len(), 1, "the copy is gone");
}

/// A snapshot holds the state of one applied id, also while entries are applied.
#[test]
fn snapshot_under_writes_is_of_one_moment() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = open(a.path());
    store.apply(&[(at(1), set(&[(1, "x")]))]).unwrap();
    let (store_ref, stop) = (&store, std::sync::atomic::AtomicBool::new(false));
    let snapshot = std::thread::scope(|scope| {
        let stop = &stop;
        scope.spawn(move || {
            let mut index = 2;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let pairs = (0..8).map(|number| (key(number), index.to_string().into())).collect();
                let op = Op::Command(vaultdb_kv::Command::Set { pairs }.into());
                store_ref.apply(&[(at(index), op)]).unwrap();
                index += 1;
            }
        });
        while store_ref.revision() < 50 {
            std::thread::yield_now();
        }
        let snapshot = store_ref.build_snapshot().unwrap();
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        snapshot
    });
    let index = snapshot.meta().applied.log_id.unwrap().index;
    assert_eq!(snapshot.meta().applied.revision, index);
    let peer = open(b.path());
    peer.install_snapshot(&transfer(&snapshot, &peer, 1 << 20)).unwrap();
    for number in 0..8 {
        assert_eq!(value(&peer, number), Some(index.to_string()));
    }
}

/// The state never goes backwards.
#[test]
fn older_snapshot_is_refused() {
    for store in [StateMachine::in_memory(tiny()), open(tempfile::tempdir().unwrap().path())] {
        store.apply(&[(at(1), set(&[(1, "one")]))]).unwrap();
        let snapshot = store.build_snapshot().unwrap();
        store.apply(&[(at(2), set(&[(1, "two")]))]).unwrap();
        assert!(refused(store.install_snapshot(&snapshot)));
        assert_eq!(value(&store, 1).as_deref(), Some("two"));
    }
}

/// Data whose pointer was lost is not taken for a new directory.
#[test]
fn lost_pointer_is_corruption() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.apply(&[(at(1), set(&[(1, "one")]))]).unwrap();
    drop(store);
    let pointer = dir.path().join("rocksdb/CURRENT-GENERATION");
    let content = fs::read(&pointer).unwrap();
    fs::remove_file(&pointer).unwrap();
    assert!(matches!(StateMachine::open(dir.path(), tiny()), Err(StorageError::Corrupt { .. })));
    fs::write(&pointer, b"000009\n").unwrap();
    assert!(matches!(StateMachine::open(dir.path(), tiny()), Err(StorageError::Corrupt { .. })));
    fs::write(&pointer, b"rubbish").unwrap();
    assert!(matches!(StateMachine::open(dir.path(), tiny()), Err(StorageError::Corrupt { .. })));
    fs::write(&pointer, content).unwrap();
    assert_eq!(value(&open(dir.path()), 1).as_deref(), Some("one"));
}

/// The figures of status: exact for a small store whose keys were written once.
#[test]
fn stats_tell_keys_bytes_and_cache() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for index in 1..=3 {
        store.apply(&[(at(index), set(&[(index, "value")]))]).unwrap();
    }
    // The first read finds it in the engine, the second in the cache.
    assert_eq!(value(&store, 1).as_deref(), Some("value"));
    assert_eq!(value(&store, 1).as_deref(), Some("value"));
    assert_eq!(value(&store, 20), None);
    let stats = store.stats();
    assert_eq!((stats.revision, stats.cache.hits, stats.cache.misses), (3, 1, 2));
    let deadline = Instant::now() + Duration::from_secs(10);
    while store.stats().keys_estimate != 3 {
        assert!(Instant::now() < deadline, "{:?}", store.stats());
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(store.stats().disk_bytes > 0);
}
