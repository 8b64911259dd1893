//! Whatever bit of whatever file flips: it is found as damage, or what is read is what was written.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::{append, id, small_segments, Blob};
use vaultdb_kv::{Command, Key};
use vaultdb_storage::log::LogStore;
use vaultdb_storage::{DiskLog, LogId, Op, StateMachine, StorageError, StoreOptions};

const ENTRIES: u64 = 400;
const FLUSHED: u64 = 300;
const PURGED: u64 = 200;
/// Longest wait for a compaction, for the look at how it ended, or for a verification that goes far enough.
const FOUND_LIMIT: Duration = Duration::from_secs(20);
/// Bits that are flipped in each file, one at a time, spread over its length.
const FLIPS: u64 = 9;

fn options() -> StoreOptions {
    // Every read comes from a file.
    StoreOptions {
        cache_bytes: 0,
        block_cache_bytes: 0,
        write_buffer_bytes: 64 << 10,
        ..StoreOptions::default()
    }
}

fn value(index: u64) -> String {
    format!("value {index} {}", "x".repeat(100))
}

fn key(index: u64) -> Key {
    Key::new(format!("key-{}", index % 50)).unwrap()
}

fn op(index: u64) -> Op {
    let pairs = vec![(key(index), Bytes::from(value(index)))];
    Op::Command(Arc::new(Command::Set { pairs }))
}

fn run(entries: impl Iterator<Item = u64>) -> Vec<(LogId, Op)> {
    entries.map(|index| (id(1, index), op(index))).collect()
}

/// A node's data: a log with closed segments, purged in part; a flushed state with a snapshot that is older than it.
fn fill(dir: &Path) {
    let log = DiskLog::open(&dir.join("wal"), small_segments()).unwrap();
    let store = StateMachine::open(dir, options()).unwrap();
    for index in 1..=ENTRIES {
        append(&log, vec![(id(1, index), Blob(index.to_le_bytes().repeat(20)))]);
    }
    store.apply(&run(1..=PURGED)).unwrap();
    store.build_snapshot().unwrap();
    log.purge(id(1, PURGED)).unwrap();
    append(&log, vec![(id(1, ENTRIES + 1), Blob((ENTRIES + 1).to_le_bytes().repeat(20)))]);
    store.apply(&run(PURGED + 1..=FLUSHED)).unwrap();
    store.flush().unwrap();
}

/// Opens everything, brings the state up to the end of the log, and reads all of it.
fn read_all(dir: &Path) -> Result<BTreeMap<Key, Bytes>, StorageError> {
    let log = DiskLog::<Blob>::open(&dir.join("wal"), small_segments())?;
    let store = StateMachine::open(dir, options())?;
    let bounds = log.bounds();
    if store.applied().log_id < bounds.purged {
        return Err(StorageError::Corrupt { what: "the state".into(), reason: "it ends too early".into() });
    }
    let next = store.applied().log_id.map_or(1, |id| id.index + 1);
    let entries = log.read(next..u64::MAX, usize::MAX).map_err(|source| match source.kind() {
        io::ErrorKind::InvalidData => {
            StorageError::Corrupt { what: "the log".into(), reason: source.to_string() }
        }
        _ => StorageError::Io { context: "the log".into(), source },
    })?;
    let indexes: Vec<u64> = entries.iter().map(|(id, _)| id.index).collect();
    store.apply(&run(indexes.into_iter()))?;
    let mut all = BTreeMap::new();
    for index in 0..50 {
        let key = key(index);
        let found = store.get(&key).inspect_err(|_| assert!(store.corruption().is_some()))?;
        all.extend(found.map(|found| (key, found.value)));
    }
    Ok(all)
}

/// What a background verification says of the same directory.
fn scrub(dir: &Path) -> Result<bool, StorageError> {
    let log = DiskLog::<Blob>::open(&dir.join("wal"), small_segments())?;
    let store = StateMachine::open(dir, options())?;
    let mut read = 0;
    let mut pace = |bytes| {
        read += bytes;
        true
    };
    let whole = log.scrub(&mut pace)? && store.scrub(&mut pace)?;
    assert!(read > 50 * 100, "it read {read} bytes");
    Ok(whole)
}

fn files(dir: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files(&path, into),
            false => into.push(path),
        }
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        match path.is_dir() {
            true => copy(&path, &target),
            false => drop(fs::copy(&path, &target).unwrap()),
        }
    }
}

fn is_corrupt<T: std::fmt::Debug>(what: &str, result: Result<T, StorageError>) -> bool {
    match result {
        Ok(_) => false,
        Err(StorageError::Corrupt { .. }) => true,
        Err(other) => panic!("{what}: not told as damage: {other:?}"),
    }
}

/// Damage that comes while the log is open is found in every segment, the one that is written to included; and a
/// verification that is told to stop does.
#[test]
fn the_log_is_verified_while_it_is_open() {
    let dir = tempfile::tempdir().unwrap();
    let log = DiskLog::<Blob>::open(dir.path(), small_segments()).unwrap();
    for index in 1..=40 {
        append(&log, vec![(id(1, index), Blob(index.to_le_bytes().repeat(20)))]);
    }
    assert!(log.scrub(&mut |_| true).unwrap());
    assert!(!log.scrub(&mut |_| false).unwrap());
    let mut damaged = 0;
    for path in common::segment_files(dir.path()) {
        let content = fs::read(&path).unwrap();
        let Some(used) = content.iter().rposition(|byte| *byte != 0) else { continue };
        let mut flipped = content.clone();
        flipped[used / 2] ^= 1;
        fs::write(&path, &flipped).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap();
        // The log answers a batch before it tells a verification that it goes as far.
        let begun = Instant::now();
        let found = loop {
            match log.scrub(&mut |_| true) {
                Err(found) => break found,
                Ok(_) => assert!(begun.elapsed() < FOUND_LIMIT, "{name}: nothing was found"),
            }
        };
        assert!(
            matches!(&found, StorageError::Corrupt { what, .. } if what.contains(name)),
            "{name}: {found:?}"
        );
        fs::write(&path, &content).unwrap();
        damaged += 1;
    }
    assert!(damaged > 2, "{damaged} segments");
    assert!(log.scrub(&mut |_| true).unwrap());
    // More is written to the newest one, which is verified up to there.
    append(&log, vec![(id(1, 41), Blob(vec![7; 100]))]);
    assert!(log.scrub(&mut |_| true).unwrap());
}

/// Sectors of 512 bytes in which two images of a file differ.
fn sectors_that_differ(before: &[u8], after: &[u8]) -> std::ops::Range<usize> {
    let differs = |at: &usize| before.get(*at) != after.get(*at);
    let first = (0..after.len()).find(differs).unwrap() / 512;
    first..(0..after.len()).rfind(differs).unwrap() / 512 + 1
}

/// How a crash may leave the last batch, whose sectors are these: cut at any byte, by zeros or by the end of the file,
/// or with any of its sectors not written.
fn torn(whole: &[u8], sectors: std::ops::Range<usize>) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for at in (sectors.start * 512..sectors.end * 512).step_by(61) {
        let mut zeroed = whole.to_vec();
        zeroed[at..].fill(0);
        found.push((format!("zeros from byte {at}"), zeroed));
        found.push((format!("ends at byte {at}"), whole[..at].to_vec()));
    }
    for kept in 0..(1_u32 << sectors.len()) - 1 {
        let mut holed = whole.to_vec();
        for (bit, sector) in sectors.clone().enumerate() {
            if kept & 1 << bit == 0 {
                holed[sector * 512..(sector + 1) * 512].fill(0);
            }
        }
        found.push((format!("sectors {kept:b}"), holed));
    }
    found
}

/// What a crash left of the last batch is no damage to a verification once the log was opened, nor is what is written
/// over it, in the segment that is written to and in a closed one; a bit that flips there later is.
#[test]
fn a_torn_tail_and_what_is_written_over_it() {
    let pristine = tempfile::tempdir().unwrap();
    fill(pristine.path());
    let wal = |dir: &Path| dir.join("wal");
    let open = |dir: &Path| DiskLog::<Blob>::open(&wal(dir), small_segments()).unwrap();
    let log = open(pristine.path());
    // One fills a segment, so that the torn batch comes second in its own.
    append(&log, vec![(id(1, ENTRIES + 2), Blob(vec![1; 3_500]))]);
    append(&log, vec![(id(1, ENTRIES + 3), Blob(vec![1; 30]))]);
    let last = common::segment_files(&wal(pristine.path()))
        .into_iter()
        .rfind(|path| fs::read(path).unwrap().iter().any(|byte| *byte != 0))
        .unwrap();
    let before = fs::read(&last).unwrap();
    append(&log, vec![(id(1, ENTRIES + 4), Blob(vec![2; 1_700]))]);
    drop(log);
    let after = fs::read(&last).unwrap();
    let sectors = sectors_that_differ(&before, &after);
    assert_eq!((sectors.start > 0, sectors.len(), after.len()), (true, 4, 4096), "{sectors:?}");

    let name = last.file_name().unwrap();
    for (what, content) in torn(&after, sectors.clone()) {
        let dir = tempfile::tempdir().unwrap();
        copy(pristine.path(), dir.path());
        let file = wal(dir.path()).join(name);
        fs::write(&file, content).unwrap();
        assert!(scrub(dir.path()).unwrap(), "{what}: scrubbed");
        let log = open(dir.path());
        assert_eq!(log.bounds().last, Some(id(1, ENTRIES + 3)), "{what}");
        // Shorter than what was torn: nothing of that may show behind. Two, since a batch is answered just before a
        // verification knows of it.
        append(&log, vec![(id(2, ENTRIES + 4), Blob(vec![3; 30]))]);
        append(&log, vec![(id(2, ENTRIES + 5), Blob(vec![3; 30]))]);
        for closed in [false, true] {
            let verify = || log.scrub(&mut |_| true);
            if closed {
                append(&log, vec![(id(2, ENTRIES + 6), Blob(vec![4; 3_500]))]);
            }
            assert!(verify().unwrap(), "{what}, written over, closed: {closed}");
            let content = fs::read(&file).unwrap();
            for at in [0, 40, 511] {
                let mut flipped = content.clone();
                flipped[sectors.start * 512 + at] ^= 1;
                fs::write(&file, &flipped).unwrap();
                assert!(is_corrupt(&what, verify()), "{what}, closed: {closed}, byte {at}");
            }
            fs::write(&file, &content).unwrap();
        }
        drop(log);
        assert!(scrub(dir.path()).unwrap(), "{what}: opened once more");
        assert_eq!(common::all(&open(dir.path())).last().unwrap().0, id(2, ENTRIES + 6), "{what}");
    }
}

/// What a compaction finds is told as damage, also of a store that nobody writes to.
#[test]
fn damage_that_a_compaction_finds() {
    let dir = tempfile::tempdir().unwrap();
    let store = StateMachine::open(dir.path(), options()).unwrap();
    for round in 0..8 {
        let run = run(round * 50 + 1..=round * 50 + 50);
        if store.apply(&run).and_then(|_| store.flush()).is_err() {
            break;
        }
        if round == 0 {
            let mut paths = Vec::new();
            files(dir.path(), &mut paths);
            let sst =
                paths.into_iter().find(|path| path.extension().is_some_and(|end| end == "sst")).unwrap();
            let mut content = fs::read(&sst).unwrap();
            content[100] ^= 1;
            fs::write(&sst, content).unwrap();
        }
    }
    let end = Instant::now() + FOUND_LIMIT;
    while store.corruption().is_none() {
        assert!(Instant::now() < end, "not found");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(matches!(store.get(&key(1)), Err(StorageError::Poisoned { .. })));
}

/// No flip is served, none is taken for anything but damage, and those that nobody would read are found by the
/// verification, but in files that say nothing about the data.
#[test]
fn a_flipped_bit_in_any_file() {
    let pristine = tempfile::tempdir().unwrap();
    fill(pristine.path());
    let expected = read_all(&{
        let whole = tempfile::tempdir().unwrap().keep();
        copy(pristine.path(), &whole);
        whole
    });
    let expected = expected.unwrap();
    assert_eq!(expected.len(), 50);
    let mut paths = Vec::new();
    files(pristine.path(), &mut paths);
    paths.sort();
    let (mut at_use, mut by_scrub, mut never) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    for path in &paths {
        let name = path.strip_prefix(pristine.path()).unwrap().to_str().unwrap().to_owned();
        let bytes = fs::metadata(path).unwrap().len();
        for flip in 0..FLIPS.min(bytes) {
            let place = (bytes - 1) * flip / (FLIPS - 1).max(1);
            let what = format!("{name} at byte {place} of {bytes}");
            let damaged = tempfile::tempdir().unwrap();
            copy(pristine.path(), damaged.path());
            let mut content = fs::read(path).unwrap();
            content[place as usize] ^= 1 << (flip % 8);
            fs::write(damaged.path().join(&name), &content).unwrap();
            let scrubbed = tempfile::tempdir().unwrap();
            copy(damaged.path(), scrubbed.path());

            let read = read_all(damaged.path());
            if let Ok(read) = &read {
                assert!(*read == expected, "{what}: other data is served");
            }
            let count = match is_corrupt(&what, read) {
                true => &mut at_use,
                false if is_corrupt(&what, scrub(scrubbed.path())) => &mut by_scrub,
                false => &mut never,
            };
            count.entry(name.clone()).or_insert_with(Vec::new).push(place);
        }
    }
    for (name, places) in &never {
        // RocksDB's own diary and copies of its settings; what is made anew from the data when it is opened; and a
        // Bloom filter, which is passed over when it is damaged.
        let says_nothing = ["/LOG", "rocksdb/000001/OPTIONS", "rocksdb/000001/IDENTITY", "/META"];
        let is_filter = name.ends_with(".sst") && places.len() == 1;
        assert!(is_filter || says_nothing.iter().any(|part| name.contains(part)), "{name} at {places:?}");
    }
    println!("at use: {at_use:?}\nby the scrubber: {by_scrub:?}\nnever: {never:?}");
    let found = |part: &str| at_use.keys().chain(by_scrub.keys()).any(|name| name.contains(part));
    for part in ["wal/", ".sst", "MANIFEST", "/CURRENT", "CURRENT-GENERATION", "snapshots/"] {
        assert!(found(part), "nothing is found in {part}");
    }
}
