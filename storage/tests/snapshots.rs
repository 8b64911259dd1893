//! Snapshots: what is refused, what is removed, what survives.
#![allow(clippy::unwrap_used)]

#[path = "common/store.rs"]
mod store;

use std::fs;
use std::path::Path;

use store::{at, key, open, register, set, tiny, transfer};
use vaultdb_storage::{Op, Snapshot, SnapshotFile, SnapshotReceiver, StateMachine, StorageError};

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn value(store: &StateMachine, number: u64) -> Option<String> {
    store.get(&key(number)).unwrap().map(|found| String::from_utf8(found.value.to_vec()).unwrap())
}

fn refused<T: std::fmt::Debug>(result: Result<T, StorageError>) -> bool {
    match result {
        Err(StorageError::Refused { .. }) => true,
        other => panic!("not refused: {other:?}"),
    }
}

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

/// Sends what is missing, in pieces; tells how many bytes that were.
fn send(snapshot: &Snapshot, receiver: &mut SnapshotReceiver) -> Result<u64, StorageError> {
    let mut sent = 0;
    for (file, described) in snapshot.meta().files.iter().enumerate() {
        let mut offset = receiver.received()[file];
        while offset < described.bytes {
            let chunk = snapshot.read_chunk(file, offset, 4096).unwrap();
            receiver.write_chunk(file, offset, &chunk, crc32fast::hash(&chunk))?;
            offset += chunk.len() as u64;
            sent += chunk.len() as u64;
        }
    }
    Ok(sent)
}

/// Takes all of a snapshot but a part of its last file, and the end of that part; the data files come first.
fn receive_most(snapshot: &Snapshot, to: &StateMachine) -> (SnapshotReceiver, u64) {
    let mut receiver = to.receive_snapshot(snapshot.meta().clone()).unwrap();
    let last = snapshot.meta().files.len() - 1;
    let mut received = 0;
    for (file, described) in snapshot.meta().files.iter().enumerate() {
        let bytes = if file == last { described.bytes / 2 } else { described.bytes };
        let chunk = snapshot.read_chunk(file, 0, bytes as usize).unwrap();
        receiver.write_chunk(file, 0, &chunk, crc32fast::hash(&chunk)).unwrap();
        received += bytes;
    }
    (receiver, received)
}

/// A store with some files of data, the first of which later snapshots have as well.
fn filled(dir: &Path) -> StateMachine {
    let store = open(dir);
    for index in 1..=40 {
        let pairs = (0..8).map(|i| (key(index * 8 + i), format!("{index}/{i}").repeat(200).into())).collect();
        let op = Op::Command(vaultdb_kv::Command::Set { pairs }.into());
        store.apply(&[(at(index), op)]).unwrap();
    }
    store
}

/// A reception that was interrupted goes on where it stopped, in the same process and in the next one.
#[test]
fn interrupted_reception_goes_on() {
    for restarts in [false, true] {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (from, mut to) = (filled(a.path()), open(b.path()));
        let snapshot = from.build_snapshot().unwrap();
        let (receiver, received) = receive_most(&snapshot, &to);
        drop(receiver);
        if restarts {
            drop(to);
            to = open(b.path());
            assert_eq!(to.applied().log_id, None);
        }
        let mut receiver = to.receive_snapshot(snapshot.meta().clone()).unwrap();
        assert_eq!(receiver.received().iter().sum::<u64>(), received);
        assert_eq!(send(&snapshot, &mut receiver).unwrap(), snapshot.bytes() - received, "only the rest");
        to.install_snapshot(&receiver.finish().unwrap()).unwrap();
        assert_eq!(to.applied(), snapshot.meta().applied);
        assert_eq!(value(&to, 9), value(&from, 9));
        assert_eq!(names(&b.path().join("snapshots")), [snapshot.meta().id.clone()]);
    }
}

/// Of a later snapshot only those files are sent that the earlier one did not have, and nothing that came of
/// the earlier one is taken for a file that only shares its name.
#[test]
fn later_snapshot_takes_over_what_is_the_same() {
    let (a, b, c) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (from, to) = (filled(a.path()), open(b.path()));
    let first = from.build_snapshot().unwrap();
    drop(receive_most(&first, &to));
    from.apply(&[(at(41), set(&[(9, "new")]))]).unwrap();
    let second = from.build_snapshot().unwrap();
    let same: u64 = second
        .meta()
        .files
        .iter()
        .filter(|file| first.meta().files[..first.meta().files.len() - 1].contains(file))
        .map(|file| file.bytes)
        .sum();
    assert!(same > 0, "no file is in both");
    let mut receiver = to.receive_snapshot(second.meta().clone()).unwrap();
    let received = receiver.received().iter().sum::<u64>();
    assert!(
        received >= same && received < second.bytes(),
        "{received} of {}, {same} the same",
        second.bytes()
    );
    send(&second, &mut receiver).unwrap();
    to.install_snapshot(&receiver.finish().unwrap()).unwrap();
    assert_eq!(value(&to, 9).as_deref(), Some("new"));

    // Another database, whose files have the same names.
    let to = open(c.path());
    drop(receive_most(&first, &to));
    let other = tempfile::tempdir().unwrap();
    let other = open(other.path());
    other.apply(&[(at(50), set(&[(9, "other")]))]).unwrap();
    let other = other.build_snapshot().unwrap();
    let mut receiver = to.receive_snapshot(other.meta().clone()).unwrap();
    send(&other, &mut receiver).unwrap();
    to.install_snapshot(&receiver.finish().unwrap()).unwrap();
    assert_eq!((value(&to, 9).as_deref(), value(&to, 10)), (Some("other"), None));
}

/// What was damaged on disk before the reception went on is found out, sent again, and never installed.
#[test]
fn damage_between_receptions_is_found() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (from, to) = (filled(a.path()), open(b.path()));
    let snapshot = from.build_snapshot().unwrap();
    let (receiver, received) = receive_most(&snapshot, &to);
    drop((receiver, to));
    let files = &snapshot.meta().files;
    let whole = files.iter().position(|file| file.name.ends_with(".sst")).unwrap();
    let dir = b.path().join("snapshots/incoming-1");
    for name in [&files[whole].name, &files[files.len() - 1].name] {
        let mut content = fs::read(dir.join(name)).unwrap();
        content[7] ^= 1;
        fs::write(dir.join(name), content).unwrap();
    }
    let to = open(b.path());
    let mut receiver = to.receive_snapshot(snapshot.meta().clone()).unwrap();
    assert_eq!(receiver.received()[whole], 0, "a whole file is checked at once");
    assert_eq!(receiver.received().iter().sum::<u64>(), received - files[whole].bytes);
    assert!(refused(send(&snapshot, &mut receiver)), "a part of a file once it is all there");
    send(&snapshot, &mut receiver).unwrap();
    to.install_snapshot(&receiver.finish().unwrap()).unwrap();
    assert_eq!(value(&to, 9), value(&from, 9));
}

/// A file that is not what its checksum says is not taken, although each of its pieces is.
#[test]
fn file_that_is_not_what_was_announced_is_refused() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (from, to) = (filled(a.path()), open(b.path()));
    let snapshot = from.build_snapshot().unwrap();
    let mut meta = snapshot.meta().clone();
    let file = meta.files.iter().position(|file| file.name.ends_with(".sst")).unwrap();
    meta.files[file].crc32 ^= 1;
    let mut receiver = to.receive_snapshot(meta).unwrap();
    assert!(refused(send(&snapshot, &mut receiver)));
    assert_eq!(receiver.received()[file], 0);
    assert!(refused(receiver.finish()));
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

/// Of what a process received and did not install one reception is kept, and no longer than it is of use.
#[test]
fn one_reception_is_kept_at_reopen() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (from, to) = (open(a.path()), open(b.path()));
    from.apply(&[(at(1), set(&[(1, "one")]))]).unwrap();
    let snapshot = from.build_snapshot().unwrap();
    let mut receiver = to.receive_snapshot(snapshot.meta().clone()).unwrap();
    let chunk = snapshot.read_chunk(0, 0, 10).unwrap();
    receiver.write_chunk(0, 0, &chunk, crc32fast::hash(&chunk)).unwrap();
    // Whole, but never installed.
    let whole = transfer(&snapshot, &to, 1000);
    std::mem::forget((receiver, whole));
    drop(to);
    let snapshots = b.path().join("snapshots");
    assert_eq!(names(&snapshots).len(), 2);
    let to = open(b.path());
    assert_eq!(names(&snapshots).len(), 1);
    assert!(to.current_snapshot().is_none());
    assert_eq!(to.applied().log_id, None);
    let receiver = to.receive_snapshot(snapshot.meta().clone()).unwrap();
    drop(receiver);
    to.apply(&[(at(1), set(&[(1, "one")]))]).unwrap();
    let own = to.build_snapshot().unwrap();
    assert_eq!(names(&snapshots), [own.meta().id.clone()], "the node has come as far by itself");
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
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while store.stats().keys_estimate != 3 {
        assert!(std::time::Instant::now() < deadline, "{:?}", store.stats());
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert!(store.stats().disk_bytes > 0);
}
