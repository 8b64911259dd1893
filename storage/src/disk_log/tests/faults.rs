//! Property: whatever call of the operating system fails, callbacks tell the truth, nothing is tried again, and what
//! was acknowledged is found again.

use std::time::Duration;

use parking_lot::Mutex;
use vaultdb_kv::FaultKind;

use super::super::sim_disk::Call;
use super::*;

type Answers = Arc<Mutex<Vec<(u64, bool)>>>;

fn record(answers: &Answers, number: u64) -> OnDurable {
    let answers = answers.clone();
    Box::new(move |result| answers.lock().push((number, result.is_ok())))
}

/// Fills several segments and purges some, waiting for each answer. How many entries were acknowledged, and the
/// last one that was purged.
fn work(disk: &SimDisk) -> Result<(u64, u64), StorageError> {
    let log = open(disk)?;
    let answers = Answers::default();
    let (mut number, mut purged) = (0, 0);
    for index in 1..=30 {
        number += 1;
        let (done, durable) = waiter();
        let first = record(&answers, number);
        let both: OnDurable = Box::new(move |result| {
            let copy = result.as_ref().copied().map_err(|error| error.kind().into());
            first(copy);
            done(result);
        });
        // Refused or accepted, it is answered.
        drop(log.append(vec![(id(1, index), Blob(vec![index as u8; 400]))], both));
        if durable.recv().expect("an answer").is_err() {
            break;
        }
        if index % 10 == 0 && log.purge(id(1, index - 5)).is_ok() {
            purged = index - 5;
        }
    }
    if disk.has_failed() {
        refuses_all(&log, &answers, &mut number);
    }
    drop(log);
    let answers = answers.lock();
    assert_eq!(
        answers.iter().map(|(number, _)| *number).collect::<Vec<_>>(),
        (1..=number).collect::<Vec<_>>()
    );
    let durable = answers.iter().take_while(|(_, durable)| *durable).count();
    assert!(answers[durable..].iter().all(|(_, durable)| !durable), "{answers:?}");
    Ok((durable as u64, purged))
}

/// Once something failed that the log cannot do without, it is of no use any more. Not at once: it may have failed
/// on the thread that makes segments.
fn refuses_all(log: &DiskLog<Blob>, answers: &Answers, number: &mut u64) {
    if log.read(1..2, 1).is_ok() {
        return;
    }
    *number += 2;
    assert!(log.save_vote(vote(9), record(answers, *number - 1)).is_err());
    assert!(log.append(Vec::new(), record(answers, *number)).is_err());
    assert!(log.truncate_after(None).is_err());
    assert!(log.purge(id(1, 1)).is_err());
    assert!(log.save_committed(Some(id(1, 1))).is_err());
}

fn check(image: &Image, durable: u64, purged: u64, what: &str) {
    let found = recovered(image).unwrap_or_else(|| panic!("{what}: corrupt"));
    let last = found.last().map_or(purged, |(id, _)| id.index);
    assert!(last >= durable, "{what}: {last} < {durable}");
    let first = found.first().map_or(last + 1, |(id, _)| id.index);
    assert!(first <= purged + 1, "{what}: {first} is the first of {found:?}");
    for (offset, (found, payload)) in found.iter().enumerate() {
        assert_eq!((*found, payload.0[0]), (id(1, first + offset as u64), found.index as u8), "{what}");
    }
}

/// Each call of each kind in its turn, the whole way from an empty directory.
#[test]
fn nth_call_fails() {
    for call in [Call::Sync, Call::Write, Call::SyncNames, Call::Create, Call::Rename, Call::Remove] {
        let clean = SimDisk::default();
        assert_eq!(work(&clean).unwrap().0, 30);
        let calls = clean.calls(call);
        assert!(calls > 0, "{call:?}");
        for nth in 0..calls {
            let what = format!("{call:?} {nth} of {calls}");
            let disk = SimDisk::default();
            disk.fail(call, nth, io::ErrorKind::Other);
            let (durable, purged) = match work(&disk) {
                Ok(found) => found,
                Err(StorageError::Io { .. }) => (0, 0),
                Err(other) => panic!("{what}: {other:?}"),
            };
            check(&disk.image(), durable, purged, &what);
            check(&disk.crash(|_, _| false), durable, purged, &what);
            check(&disk.crash(|_, i| i % 2 == 0), durable, purged, &what);
        }
    }
}

/// A sync or a write that failed is not tried again, nor does any other follow it.
#[test]
fn nothing_is_written_after_a_failure() {
    for call in [Call::Sync, Call::Write] {
        let disk = SimDisk::default();
        let log = open(&disk).unwrap();
        append(&log, entries(1, 1..=2));
        disk.fail(call, 0, io::ErrorKind::Other);
        let before = (disk.calls(Call::Sync), disk.calls(Call::Write));
        let (done, durable) = waiter();
        log.append(entries(1, 3..=4), done).unwrap();
        assert!(durable.recv().unwrap().is_err());
        let (done, durable) = waiter();
        assert!(log.append(entries(1, 5..=5), done).is_err());
        assert!(durable.recv().unwrap().is_err());
        drop(log);
        let after = (disk.calls(Call::Sync), disk.calls(Call::Write));
        assert_eq!(after, (before.0 + u64::from(call == Call::Sync), before.1 + 1));
    }
}

/// Room that is missing when a segment is made ahead of time may be there when it is needed.
#[test]
fn full_disk_may_have_room_later() {
    let clean = SimDisk::default();
    work(&clean).unwrap();
    let made_ahead = 1..clean.calls(Call::Create);
    for nth in made_ahead {
        let disk = SimDisk::default();
        disk.fail(Call::Create, nth, io::ErrorKind::StorageFull);
        work(&disk).unwrap();
        assert!(disk.has_failed());
        assert!(recovered(&disk.image()).is_some());
    }
}

/// A disk that hangs ends the log after the longest wait that was set: the append that finds the queue full answers
/// all that wait, although the writer cannot.
#[test]
fn hanging_disk_fails_the_log() {
    let disk = SimDisk::default();
    let options =
        LogOptions { queue_bytes_max: 4096, queue_wait_max: Duration::from_millis(20), ..options() };
    let log = DiskLog::<Blob>::open_on(Arc::new(disk.clone()), options).unwrap();
    disk.pause(true);
    let answers = Answers::default();
    let mut number = 0;
    loop {
        number += 1;
        assert!(number < 100, "the limit has no effect");
        let payload = Blob(vec![0; 1000]);
        if log.append(vec![(id(1, number), payload)], record(&answers, number)).is_err() {
            break;
        }
    }
    assert_eq!(*answers.lock(), (1..=number).map(|number| (number, false)).collect::<Vec<_>>());
    disk.pause(false);
    drop(log);
    assert_eq!(answers.lock().len() as u64, number, "once each");
}

/// A sync that is made slow holds up what waits for it, until the fault is cleared and not until its time is over.
#[test]
fn delayed_sync_ends_with_its_fault() {
    let long = Duration::from_secs(600);
    let log = open(&SimDisk::default()).unwrap();
    let faults = &log.shared.options.faults;
    let id = faults.inject(FaultKind::FsyncDelay { delay: long }, long);
    let (done, durable) = waiter();
    log.append(entries(1, 1..=1), done).unwrap();
    let early = durable.recv_timeout(Duration::from_millis(100));
    assert!(matches!(early, Err(mpsc::RecvTimeoutError::Timeout)), "{early:?}");
    assert_eq!(faults.clear(id), 1);
    durable.recv_timeout(Duration::from_secs(60)).expect("an answer").expect("durable");

    // Nor does it hold up the end of the log.
    faults.inject(FaultKind::FsyncDelay { delay: long }, long);
    let (done, durable) = waiter();
    log.append(entries(1, 2..=2), done).unwrap();
    drop(log);
    durable.recv_timeout(Duration::from_secs(60)).expect("an answer").expect("durable");
}

/// A sync that is made to fail is told as failed, nothing of its batch as durable, and the log is of no use any more,
/// also once the fault is over.
#[test]
fn failed_sync_is_final() {
    let disk = SimDisk::default();
    let log = open(&disk).unwrap();
    append(&log, entries(1, 1..=1));
    let syncs = disk.calls(Call::Sync);
    log.shared.options.faults.inject(FaultKind::FsyncFail, Duration::from_secs(600));
    let (done, durable) = waiter();
    log.append(entries(1, 2..=2), done).unwrap();
    let error = durable.recv().unwrap().unwrap_err();
    assert!(error.to_string().contains("injected"), "{error}");
    log.shared.options.faults.clear(None);
    let (done, durable) = waiter();
    assert!(log.append(entries(1, 3..=3), done).is_err());
    assert!(durable.recv().unwrap().is_err());
    assert_eq!(disk.calls(Call::Sync), syncs, "the real sync is left out");
}
