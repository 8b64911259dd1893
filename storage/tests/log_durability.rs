//! What the Raft log on disk promises about crashes, damage and the order of its answers.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use common::{all, append, copy_dir, entry, id, open, segment_files, small_segments, waiter, Blob};
use vaultdb_storage::log::{LogBounds, LogStore};
use vaultdb_storage::{DiskLog, LogOptions, StorageError, Vote};

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
    for options in [LogOptions::default(), small_segments()] {
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

/// A crash in the middle of a write loses at most that write, and the log goes on from there: with real files, cut
/// at every byte of the last batch.
#[test]
fn tail_cut_at_every_byte_of_the_last_batch() {
    let dir = tempfile::tempdir().unwrap();
    let log = DiskLog::<Blob>::open(dir.path(), small_segments()).unwrap();
    append(&log, (1..=5).map(|index| entry(1, index)).collect());
    log.save_committed(Some(id(1, 3))).unwrap();
    append(&log, vec![entry(1, 6)]);
    append(&log, (7..=9).map(|index| entry(2, index)).collect());
    drop(log);
    // A second one may have been made ahead of time.
    let file = segment_files(dir.path()).swap_remove(0);
    let whole: Vec<_> = (1..=6).map(|i| entry(1, i)).chain((7..=9).map(|i| entry(2, i))).collect();

    let (before, after) = (2 * 512, 3 * 512);
    for length in before..=after {
        let copy = tempfile::tempdir().unwrap();
        copy_dir(dir.path(), copy.path());
        let cut = copy.path().join(file.file_name().unwrap());
        fs::OpenOptions::new().write(true).open(&cut).unwrap().set_len(length).unwrap();

        let log = DiskLog::<Blob>::open(copy.path(), small_segments()).unwrap();
        let found = all(&log);
        assert_eq!(found.len(), if length == after { 9 } else { 6 }, "cut at {length}");
        assert_eq!(found, whole[..found.len()], "cut at {length}");
        assert_eq!(log.committed(), Some(id(1, 3)));
        let next = found.len() as u64 + 1;
        append(&log, vec![entry(3, next)]);
        drop(log);
        let log = DiskLog::<Blob>::open(copy.path(), small_segments()).unwrap();
        assert_eq!(all(&log).last(), Some(&entry(3, next)), "cut at {length}");
        drop(log);
        assert_eq!(fs::metadata(&cut).unwrap().len(), 4096);
    }
}

/// Damage that no crash leaves behind is reported, in whatever file, and so is a file that is missing.
#[test]
fn damage_in_earlier_files_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let log = DiskLog::<Blob>::open(dir.path(), small_segments()).unwrap();
    for index in 1..=30 {
        append(&log, vec![entry(1, index)]);
    }
    drop(log);
    let files = segment_files(dir.path());
    assert!(files.len() >= 4);
    // The last may not have been used yet.
    for file in &files[..files.len() - 2] {
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

/// A purge deletes files, but not before nothing in them is needed; a missing file is noticed after it, too.
#[test]
fn missing_first_file_after_purge_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let log = DiskLog::<Blob>::open(dir.path(), small_segments()).unwrap();
    for index in 1..=60 {
        append(&log, vec![entry(1, index)]);
    }
    log.purge(id(1, 30)).unwrap();
    drop(log);
    let files = segment_files(dir.path());
    // Eight batches in each file.
    assert!(files[0].ends_with("0000000000000004.seg"), "{files:?}");
    assert_eq!(all(&open(dir.path())), (31..=60).map(|index| entry(1, index)).collect::<Vec<_>>());
    fs::remove_file(&files[0]).unwrap();
    assert!(refuses_as_corrupt(dir.path()));
}

/// Files of the log that was used before are not taken for an empty directory.
#[test]
fn former_format_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("r-00_000_000_000_000_000_000.wal"), b"records").unwrap();
    let error = DiskLog::<Blob>::open(dir.path(), LogOptions::default()).unwrap_err();
    assert!(matches!(error, StorageError::Refused { .. }), "{error:?}");
    assert!(error.to_string().contains("former format"), "{error}");
}

/// A process killed while it made a file leaves one that is not finished, or one that was never used.
#[test]
fn files_that_were_only_begun_are_removed() {
    let dir = tempfile::tempdir().unwrap();
    let log = DiskLog::<Blob>::open(dir.path(), small_segments()).unwrap();
    append(&log, vec![entry(1, 1)]);
    drop(log);
    let second = dir.path().join("0000000000000002.seg");
    let unfinished = dir.path().join("0000000000000003.seg.new");
    fs::write(&second, [0; 4096]).unwrap();
    fs::write(&unfinished, [0; 100]).unwrap();
    let log = DiskLog::<Blob>::open(dir.path(), small_segments()).unwrap();
    assert_eq!(all(&log), [entry(1, 1)]);
    assert!(!second.exists() && !unfinished.exists());
    append(&log, (2..=40).map(|index| entry(1, index)).collect());
    drop(log);
    assert_eq!(all(&open(dir.path())).len(), 40);
}

/// Every operation is answered once, in the order of the calls, and with success.
#[test]
fn answers_come_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let log = DiskLog::<Blob>::open(dir.path(), LogOptions { segment_bytes: 8192, ..LogOptions::default() })
        .unwrap();
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
    let log = DiskLog::<Blob>::open(dir.path(), small_segments()).unwrap();
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
