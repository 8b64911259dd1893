//! Property: entries are read back right from wherever they are, while others are appended, truncated and purged.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

const ENTRIES: u64 = 3_000;

/// Readers see each entry as it was appended, in a row without a hole, while the writer goes on and files go away.
#[test]
fn reads_beside_appends_and_purges() {
    let disk = SimDisk::default();
    let options = LogOptions { segment_bytes: 16 << 10, cache_bytes: 2_000, ..options() };
    let log = DiskLog::<Blob>::open_on(Arc::new(disk), options).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for reader in 0..2u64 {
            let (log, done) = (&log, &done);
            scope.spawn(move || {
                let mut random = reader + 1;
                while !done.load(Ordering::Relaxed) {
                    random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                    let last = log.bounds().last.map_or(0, |last| last.index);
                    let from = (random >> 33) % (last + 1);
                    let found = log.read(from..from + 100, 4_000).unwrap();
                    for pair in found.windows(2) {
                        assert_eq!(pair[0].0.index + 1, pair[1].0.index);
                    }
                    for (id, payload) in found {
                        assert_eq!(payload, entry(id.term, id.index).1);
                    }
                }
            });
        }
        let mut term = 1;
        for index in 1..=ENTRIES {
            append(&log, vec![entry(term, index)]);
            if index % 50 == 0 && index > 200 {
                log.purge(log.read(index - 200..index - 199, 1).unwrap()[0].0).unwrap();
            }
            if index % 70 == 0 {
                // Replaces the last entries by those of a new leader.
                term += 1;
                let keep = log.read(index - 5..index - 4, 1).unwrap()[0].0;
                log.truncate_after(Some(keep)).unwrap();
                append(&log, entries(term, index - 4..=index));
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    assert_eq!(log.bounds().last.map(|last| last.index), Some(ENTRIES));
}

/// Entries larger than a segment, and more in one append than a batch holds.
#[test]
fn large_entries_and_appends() {
    let disk = SimDisk::default();
    let log = open(&disk).unwrap();
    let sizes = [10, 5_000, 20, 9 << 20, 30, 3 << 20, 3 << 20, 40];
    let expected: Vec<_> =
        sizes.iter().enumerate().map(|(i, size)| (id(1, i as u64 + 1), Blob(vec![i as u8; *size]))).collect();
    append(&log, expected.clone());
    append(&log, vec![entry(1, 9)]);
    assert!(disk.calls(super::super::sim_disk::Call::Sync) > 3, "more than one batch");
    assert_eq!(all(&log)[..8], expected);
    drop(log);
    assert_eq!(recovered(&disk.image()).map(|found| found.len()), Some(9));
    let log = open(&disk).unwrap();
    assert_eq!(all(&log)[..8], expected);
    assert_eq!(log.read(3..9, 1 << 20).unwrap(), expected[2..4]);
}

/// The cache keeps to its limit, but never drops what is not durable; what it dropped is read from the disk.
#[test]
fn cache_is_bounded() {
    let disk = SimDisk::default();
    let options = LogOptions { cache_bytes: 2_000, ..options() };
    let log = DiskLog::<Blob>::open_on(Arc::new(disk.clone()), options.clone()).unwrap();
    let cached = |log: &DiskLog<Blob>| {
        let state = log.shared.state.lock();
        state.tail.bounds().last.map_or(0, |last| last.index + 1) - state.tail.cached_from().unwrap_or(0)
    };
    disk.pause(true);
    let (done, durable) = waiter();
    log.append(entries(1, 1..=200), done).unwrap();
    assert_eq!(cached(&log), 200);
    disk.pause(false);
    durable.recv().unwrap().unwrap();
    append(&log, entries(1, 201..=201));
    append(&log, entries(1, 202..=202));
    assert!((1..=60).contains(&cached(&log)), "{}", cached(&log));
    assert_eq!(all(&log), entries(1, 1..=202));
    drop(log);
    let log = DiskLog::<Blob>::open_on(Arc::new(disk), options).unwrap();
    assert!((1..=60).contains(&cached(&log)), "{}", cached(&log));
    assert_eq!(all(&log), entries(1, 1..=202));
}

/// A record that changed on the disk after the log was opened is an error, not an answer.
#[test]
fn damage_found_by_a_read() {
    let disk = SimDisk::default();
    let log = open(&disk).unwrap();
    append(&log, entries(1, 1..=3));
    append(&log, entries(1, 4..=4));
    append(&log, entries(1, 5..=5));
    let file = super::super::disk::Disk::open(&disk, &super::super::segment::name(1)).unwrap();
    let mut byte = [0; 1];
    file.read_at(&mut byte, 180).unwrap();
    file.write_at(&[byte[0] ^ 1], 180).unwrap();
    let error = log.read(1..4, usize::MAX).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
    drop(log);
}
