//! Receptions of snapshots that are interrupted and gone on with.
#![allow(clippy::unwrap_used)]

#[path = "common/store.rs"]
mod store;

use std::fs;
use std::path::Path;

use store::{at, key, names, open, refused, set, transfer, value};
use vaultdb_storage::{Op, Snapshot, SnapshotReceiver, StateMachine, StorageError};

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
