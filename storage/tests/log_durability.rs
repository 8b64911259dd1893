//! What the Raft log on disk promises about crashes, damage and the order of its answers.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use common::{all, append, chunk_files, copy_dir, entry, id, open, waiter, Blob};
use vaultdb_storage::log::{LogBounds, LogStore};
use vaultdb_storage::{DiskLog, LogOptions, StorageError, Vote};

fn small_chunks() -> LogOptions {
    LogOptions { chunk_bytes: 512, cache_bytes: 0, ..LogOptions::default() }
}

fn refuses_as_corrupt(dir: &Path) -> bool {
    match DiskLog::<Blob>::open(dir, LogOptions::default()) {
        Err(StorageError::Corrupt { .. }) => true,
        Err(other) => panic!("refused, but as {other:?}"),
        Ok(_) => false,
    }
}

/// Each kind of operation is found again after the log was closed and opened.
#[test]
fn reopen_after_each_operation() {
    for options in [LogOptions::default(), small_chunks()] {
        let dir = tempfile::tempdir().unwrap();
        let reopen = || DiskLog::<Blob>::open(dir.path(), options.clone()).unwrap();

        assert_eq!(reopen().bounds(), LogBounds::default());

        let vote = Vote { term: 2, node_id: 7, committed: false };
        let (done, durable) = waiter();
        let log = reopen();
        log.save_vote(vote, done).unwrap();
        durable.recv().unwrap().unwrap();
        drop(log);
        let log = reopen();
        assert_eq!((log.vote(), log.bounds().last), (Some(vote), None));

        append(&log, (0..20).map(|index| entry(2, index)).collect());
        drop(log);
        let log = reopen();
        assert_eq!(all(&log), (0..20).map(|index| entry(2, index)).collect::<Vec<_>>());

        log.save_committed(Some(id(2, 5))).unwrap();
        drop(log);
        let log = reopen();
        assert_eq!(log.committed(), Some(id(2, 5)));

        log.truncate_after(Some(id(2, 9))).unwrap();
        drop(log);
        let log = reopen();
        assert_eq!(log.bounds().last, Some(id(2, 9)));

        append(&log, vec![entry(3, 10)]);
        drop(log);
        let log = reopen();
        assert_eq!(all(&log).last(), Some(&entry(3, 10)));

        log.purge(id(2, 4)).unwrap();
        drop(log);
        let log = reopen();
        assert_eq!(log.bounds(), LogBounds { purged: Some(id(2, 4)), last: Some(id(3, 10)) });
        assert_eq!(all(&log).first(), Some(&entry(2, 5)));

        // Beyond the end, as after the installation of a snapshot; its term may be below that of
        // entries that were never committed.
        log.purge(id(2, 50)).unwrap();
        drop(log);
        let log = reopen();
        assert_eq!(log.bounds(), LogBounds { purged: Some(id(2, 50)), last: Some(id(2, 50)) });
        assert_eq!(all(&log), []);

        append(&log, vec![entry(4, 51)]);
        drop(log);
        let log = reopen();
        assert_eq!(all(&log), [entry(4, 51)]);
        assert_eq!(log.vote(), Some(vote));
        log.truncate_after(Some(id(2, 50))).unwrap();
        drop(log);
        assert_eq!(reopen().bounds().last, Some(id(2, 50)));
    }
}

/// A crash in the middle of a write loses at most that write: what is left is a prefix that holds
/// everything that was durable before, and the log goes on from there.
#[test]
fn tail_cut_at_every_byte_of_the_last_batch() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    append(&log, (1..=5).map(|index| entry(1, index)).collect());
    log.save_committed(Some(id(1, 3))).unwrap();
    append(&log, vec![entry(1, 6)]);
    let file = chunk_files(dir.path()).pop().unwrap();
    let before = fs::metadata(&file).unwrap().len();
    append(&log, (7..=9).map(|index| entry(2, index)).collect());
    drop(log);
    let after = fs::metadata(&file).unwrap().len();
    let whole: Vec<_> = (1..=6).map(|i| entry(1, i)).chain((7..=9).map(|i| entry(2, i))).collect();

    for length in before..=after {
        let copy = tempfile::tempdir().unwrap();
        copy_dir(dir.path(), copy.path());
        let cut = copy.path().join(file.file_name().unwrap());
        fs::OpenOptions::new().write(true).open(&cut).unwrap().set_len(length).unwrap();

        let log = open(copy.path());
        let found = all(&log);
        assert!((6..=9).contains(&found.len()), "{length}: {found:?}");
        assert_eq!(found, whole[..found.len()], "cut at {length}");
        if length == after {
            assert_eq!(found.len(), 9);
        }
        assert_eq!(log.committed(), Some(id(1, 3)));
        let next = found.len() as u64 + 1;
        append(&log, vec![entry(3, next)]);
        drop(log);
        assert_eq!(all(&open(copy.path())).last(), Some(&entry(3, next)), "cut at {length}");
    }
}

/// The length of a file can become durable before its content: zeros at the end are an unfinished
/// write, too, wherever a sector begins.
#[test]
fn unwritten_sectors_are_an_unfinished_write() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    append(&log, vec![entry(1, 1)]);
    let file = chunk_files(dir.path()).pop().unwrap();
    let before = fs::metadata(&file).unwrap().len() as usize;
    append(&log, vec![(id(1, 2), Blob(vec![0xab; 3000]))]);
    drop(log);
    let content = fs::read(&file).unwrap();
    let sectors = (before..content.len()).filter(|at| *at == before || at % 512 == 0);
    for unwritten_from in sectors {
        let copy = tempfile::tempdir().unwrap();
        let mut content = content.clone();
        content[unwritten_from..].fill(0);
        fs::write(copy.path().join(file.file_name().unwrap()), &content).unwrap();
        let log = open(copy.path());
        assert_eq!(all(&log), [entry(1, 1)], "zeros from {unwritten_from}");
        append(&log, vec![entry(1, 2)]);
    }
}

/// Damage that no crash leaves behind is reported, never cut off: every bit of every record.
#[test]
fn every_flipped_bit_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let (done, durable) = waiter();
    log.save_vote(Vote { term: 1, node_id: 1, committed: true }, done).unwrap();
    durable.recv().unwrap().unwrap();
    append(&log, (1..=3).map(|index| entry(1, index)).collect());
    log.save_committed(Some(id(1, 2))).unwrap();
    log.truncate_after(Some(id(1, 2))).unwrap();
    log.purge(id(1, 1)).unwrap();
    append(&log, vec![entry(2, 3), entry(2, 4)]);
    drop(log);
    let file = chunk_files(dir.path()).pop().unwrap();
    let content = fs::read(&file).unwrap();
    for at in 0..content.len() {
        for bit in 0..8 {
            let mut damaged = content.clone();
            damaged[at] ^= 1 << bit;
            fs::write(&file, &damaged).unwrap();
            assert!(refuses_as_corrupt(dir.path()), "bit {bit} of byte {at}");
        }
    }
    fs::write(&file, &content).unwrap();
    assert_eq!(all(&open(dir.path())), [entry(1, 2), entry(2, 3), entry(2, 4)]);
}

/// The same in files before the last one; and a file that is missing is noticed.
#[test]
fn damage_in_earlier_files_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let log = DiskLog::<Blob>::open(dir.path(), small_chunks()).unwrap();
    for index in 1..=30 {
        append(&log, vec![entry(1, index)]);
    }
    drop(log);
    let files = chunk_files(dir.path());
    assert!(files.len() >= 3);
    for file in &files[..files.len() - 1] {
        let content = fs::read(file).unwrap();
        for at in (0..content.len()).step_by(7) {
            let mut damaged = content.clone();
            damaged[at] ^= 0x10;
            fs::write(file, &damaged).unwrap();
            assert!(refuses_as_corrupt(dir.path()), "byte {at} of {}", file.display());
        }
        fs::write(file, &content[..content.len() - 1]).unwrap();
        assert!(refuses_as_corrupt(dir.path()), "{} cut short", file.display());
        fs::remove_file(file).unwrap();
        assert!(refuses_as_corrupt(dir.path()), "{} missing", file.display());
        fs::write(file, &content).unwrap();
    }
    assert_eq!(all(&open(dir.path())).len(), 30);
}

/// A missing file is noticed after a purge, too.
#[test]
fn missing_first_file_after_purge_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let log = DiskLog::<Blob>::open(dir.path(), small_chunks()).unwrap();
    for index in 1..=60 {
        append(&log, vec![entry(1, index)]);
    }
    let count = chunk_files(dir.path()).len();
    log.purge(id(1, 30)).unwrap();
    drop(log);
    let files = chunk_files(dir.path());
    assert!(files.len() < count, "purged files are removed");
    assert_eq!(all(&open(dir.path())).first(), Some(&entry(1, 31)));
    // The first file may hold nothing but purged entries besides; the second surely holds others.
    fs::remove_file(&files[0]).unwrap();
    fs::remove_file(&files[1]).unwrap();
    assert!(refuses_as_corrupt(dir.path()));
}

/// A process killed while it began a file leaves one without a whole first record.
#[test]
fn file_that_was_only_begun_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let log = DiskLog::<Blob>::open(dir.path(), small_chunks()).unwrap();
    append(&log, (1..=30).map(|index| entry(1, index)).collect());
    drop(log);
    let files = chunk_files(dir.path());
    let last = files.last().unwrap();
    let first_record = 34;
    for length in 0..first_record {
        let copy = tempfile::tempdir().unwrap();
        copy_dir(dir.path(), copy.path());
        let begun = copy.path().join(last.file_name().unwrap());
        fs::OpenOptions::new().write(true).open(&begun).unwrap().set_len(length).unwrap();
        let log = open(copy.path());
        let found = all(&log);
        assert!(!begun.exists());
        assert_eq!(found[..], (1..=found.len() as u64).map(|i| entry(1, i)).collect::<Vec<_>>()[..]);
        append(&log, vec![entry(2, found.len() as u64 + 1)]);
    }
}

/// Every operation is answered once, in the order of the calls, and with success.
#[test]
fn answers_come_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let log =
        DiskLog::<Blob>::open(dir.path(), LogOptions { chunk_bytes: 4096, ..LogOptions::default() }).unwrap();
    let answers = Arc::new(Mutex::new(Vec::new()));
    let mut expected = Vec::new();
    let mut next = 0;
    let record = |number: u64| {
        let answers = answers.clone();
        Box::new(move |result: std::io::Result<()>| answers.lock().unwrap().push((number, result.is_ok())))
    };
    for number in 0..2_000u64 {
        expected.push((number, true));
        match number % 5 {
            0 => log.save_vote(Vote { term: number, node_id: 1, committed: false }, record(number)).unwrap(),
            1 => log.append(Vec::new(), record(number)).unwrap(),
            _ => {
                let entries = (next..next + number % 4).map(|index| entry(1, index)).collect();
                next += number % 4;
                log.append(entries, record(number)).unwrap();
            }
        }
        if number % 50 == 0 && next > 0 {
            log.save_committed(Some(id(1, next - 1))).unwrap();
        }
    }
    drop(log);
    assert_eq!(*answers.lock().unwrap(), expected);
}

/// What is refused changes nothing, is answered, and the log goes on.
#[test]
fn refusals_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    append(&log, vec![entry(2, 1), entry(2, 2), entry(2, 3)]);
    log.save_committed(Some(id(2, 2))).unwrap();
    let holes = [vec![entry(2, 5)], vec![entry(2, 3)], vec![entry(1, 4)], vec![entry(2, 4), entry(2, 6)]];
    for bad in holes {
        let (done, answer) = waiter();
        assert!(log.append(bad, done).is_err());
        assert!(answer.recv().unwrap().is_err());
    }
    let (done, answer) = waiter();
    log.save_vote(Vote { term: 3, node_id: 1, committed: false }, done).unwrap();
    answer.recv().unwrap().unwrap();
    let (done, answer) = waiter();
    assert!(log.save_vote(Vote { term: 3, node_id: 2, committed: false }, done).is_err());
    assert!(answer.recv().unwrap().is_err());
    assert!(log.truncate_after(Some(id(2, 1))).is_err(), "committed entries stay");
    assert!(log.truncate_after(None).is_err(), "committed entries stay");
    assert!(log.truncate_after(Some(id(1, 2))).is_err(), "another entry is there");
    log.save_committed(Some(id(2, 9))).unwrap();
    assert_eq!(log.committed(), Some(id(2, 2)), "never beyond the end");
    append(&log, vec![entry(3, 4)]);
    drop(log);
    let log = open(dir.path());
    assert_eq!(all(&log), [entry(2, 1), entry(2, 2), entry(2, 3), entry(3, 4)]);
    assert_eq!(log.vote(), Some(Vote { term: 3, node_id: 1, committed: false }));
}

/// Entries of a term below that of truncated ones stay readable, although nothing caches them.
#[test]
fn entries_of_a_lower_term_stay_readable() {
    let dir = tempfile::tempdir().unwrap();
    let log = DiskLog::<Blob>::open(
        dir.path(),
        LogOptions { chunk_bytes: 2048, cache_bytes: 0, ..LogOptions::default() },
    )
    .unwrap();
    append(&log, vec![entry(1, 1)]);
    append(&log, (2..=60).map(|index| entry(3, index)).collect());
    log.truncate_after(Some(id(1, 1))).unwrap();
    let expected: Vec<_> = [entry(1, 1)].into_iter().chain((2..=9).map(|index| entry(2, index))).collect();
    append(&log, expected[1..].to_vec());
    assert_eq!(all(&log), expected);
    assert_eq!(log.read(3..5, usize::MAX).unwrap(), expected[2..4]);
    assert_eq!(log.read(3..9, 1).unwrap(), expected[2..3]);
    log.truncate_after(Some(id(2, 5))).unwrap();
    drop(log);
    let log =
        DiskLog::<Blob>::open(dir.path(), LogOptions { cache_bytes: 0, ..LogOptions::default() }).unwrap();
    assert_eq!(all(&log), expected[..5]);
}

/// One process at a time.
#[test]
fn second_opening_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let second = DiskLog::<Blob>::open(dir.path(), LogOptions::default());
    assert!(matches!(second, Err(StorageError::Io { .. })), "{second:?}");
    drop(log);
    open(dir.path());
}
