//! Property: after a crash the log holds all that was acknowledged, and of what was not a part that ends where an
//! operation does. Whatever was written of the last batch, and in whatever order the disk wrote it.

use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;

use super::*;

/// A log of whole batches, and the next one, of several sectors, which is not durable yet: the image before
/// and after.
fn before_and_after() -> (Image, Image, Vec<(LogId, Blob)>) {
    let disk = SimDisk::default();
    let log = open(&disk).unwrap();
    append(&log, entries(1, 1..=3));
    append(&log, entries(1, 4..=5));
    let before = disk.image();
    append(&log, vec![(id(2, 6), Blob(vec![7; 900])), entry(2, 7), (id(2, 8), Blob(vec![9; 700]))]);
    let after = disk.image();
    let whole = all(&log);
    drop(log);
    (before, after, whole)
}

/// Where the images differ: the sectors of the last batch, all in one file.
fn last_batch(before: &Image, after: &Image) -> (String, std::ops::Range<usize>) {
    let (name, content) = after.iter().next().expect("a segment");
    let differs = |at: &usize| before[name][*at] != content[*at];
    let first = (0..content.len()).find(differs).unwrap() / 512;
    let last = (0..content.len()).rfind(differs).unwrap() / 512;
    (name.clone(), first..last + 1)
}

#[test]
fn cut_at_every_byte_of_the_last_batch() {
    let (before, after, whole) = before_and_after();
    let (name, sectors) = last_batch(&before, &after);
    assert_eq!(sectors.len(), 4);
    for at in sectors.start * 512..=sectors.end * 512 {
        let expected = if at == sectors.end * 512 { 8 } else { 5 };
        let mut zeroed = after.clone();
        zeroed.get_mut(&name).unwrap()[at..].fill(0);
        let mut shortened = after.clone();
        shortened.get_mut(&name).unwrap().truncate(at);
        for image in [zeroed, shortened] {
            assert_eq!(recovered(&image).as_deref(), Some(&whole[..expected]), "cut at {at}");
        }
    }
}

/// A disk may write the sectors of a batch in any order.
#[test]
fn any_sectors_of_the_last_batch_lost() {
    let (before, after, whole) = before_and_after();
    let (name, sectors) = last_batch(&before, &after);
    for kept in 0..1u32 << sectors.len() {
        let mut image = after.clone();
        for (i, sector) in sectors.clone().enumerate() {
            if kept & 1 << i == 0 {
                image.get_mut(&name).unwrap()[sector * 512..(sector + 1) * 512].fill(0);
            }
        }
        let expected = if kept + 1 == 1 << sectors.len() { 8 } else { 5 };
        assert_eq!(recovered(&image).as_deref(), Some(&whole[..expected]), "sectors {kept:b}");
    }
}

/// The first batch of a segment, which a crash left unfinished, is no damage, and its segment is used again.
#[test]
fn new_segment_cut_at_every_byte() {
    let disk = SimDisk::default();
    let log = open(&disk).unwrap();
    append(&log, vec![(id(1, 1), Blob(vec![1; 3000]))]);
    append(&log, vec![(id(1, 2), Blob(vec![2; 900]))]);
    let image = disk.image();
    drop(log);
    let last = "0000000000000002.seg";
    assert!(image[last][..512] != [0; 512]);
    for at in 0..1024 {
        let mut cut = image.clone();
        cut.get_mut(last).unwrap()[at..].fill(0);
        assert_eq!(recovered(&cut).map(|found| found.len()), Some(1), "cut at {at}");
        cut.get_mut(last).unwrap().truncate(at);
        assert_eq!(recovered(&cut).map(|found| found.len()), Some(1), "cut at {at}");
    }
    let mut cut = image.clone();
    cut.get_mut(last).unwrap()[700..].fill(0);
    let log = open(&SimDisk::with(&cut)).unwrap();
    append(&log, vec![entry(1, 2)]);
    append(&log, vec![(id(1, 3), Blob(vec![3; 3000]))]);
    assert_eq!(all(&log).len(), 3);
}

#[derive(Debug, Clone)]
enum Step {
    Append { count: u64, term_up: u64, bytes: usize },
    Truncate { back: u64 },
    Purge { back: u64 },
    Vote,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1..6u64, 0..2u64, 0..900usize)
            .prop_map(|(count, term_up, bytes)| Step::Append { count, term_up, bytes }),
        1 => (0..8u64).prop_map(|back| Step::Truncate { back }),
        1 => (0..8u64).prop_map(|back| Step::Purge { back }),
        1 => Just(Step::Vote),
    ]
}

type Snapshot = (crate::log::LogBounds, Option<Vote>, Vec<(LogId, Blob)>);

fn snapshot(log: &impl LogStore<Blob>) -> Snapshot {
    (log.bounds(), log.vote(), all(log))
}

/// Does the same to any log, when `model` is what it holds before.
fn apply(log: &impl LogStore<Blob>, step: &Step, model: &Snapshot, done: OnDurable) {
    let (bounds, saved, _) = model;
    let (term, last) = bounds.last.map_or((1, 0), |last| (last.term, last.index));
    let id_at = |index: u64| {
        let held = model.2.iter().map(|(id, _)| *id).find(|id| id.index == index);
        held.or(bounds.purged.filter(|purged| purged.index == index))
    };
    match *step {
        Step::Append { count, term_up, bytes } => {
            let from = last + 1;
            let entries =
                (from..from + count).map(|index| (id(term + term_up, index), Blob(vec![index as u8; bytes])));
            return log.append(entries.collect(), done).expect("append");
        }
        Step::Vote => return log.save_vote(vote(saved.map_or(1, |vote| vote.term + 1)), done).expect("vote"),
        Step::Truncate { back } => {
            if let Some(keep) = id_at(last.saturating_sub(back)) {
                log.truncate_after(Some(keep)).expect("truncate");
            }
        }
        Step::Purge { back } => {
            if let Some(upto) = id_at(last.saturating_sub(back)) {
                log.purge(upto).expect("purge");
            }
        }
    }
    log.append(Vec::new(), done).expect("nothing is always accepted");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Power is lost at a random moment of random operations, and again after the log was opened and used.
    #[test]
    fn power_loss_at_any_moment(
        rounds in proptest::collection::vec((proptest::collection::vec(step(), 1..25), any::<u64>()), 1..4),
    ) {
        let mut disk = SimDisk::default();
        let mut model = snapshot(&MemLog::<Blob>::new());
        for (steps, random) in rounds {
            let log = open(&disk).unwrap();
            prop_assert_eq!(&snapshot(&log), &model);
            // What the log may hold after each step.
            let mut states = vec![model.clone()];
            let memory = replica(&model);
            let acknowledged = Arc::new(AtomicU64::new(0));
            let crash_at = random as usize % steps.len();
            let mut image = None;
            for (i, step) in steps.iter().enumerate() {
                let counter = acknowledged.clone();
                let before = states.last().expect("one at least").clone();
                apply(&memory, step, &before, Box::new(|_| {}));
                states.push(snapshot(&memory));
                apply(&log, step, &before, Box::new(move |result| {
                    result.expect("this disk does not fail");
                    counter.fetch_add(1, Ordering::SeqCst);
                }));
                if i == crash_at {
                    let durable = acknowledged.load(Ordering::SeqCst);
                    let mut bits = random;
                    image = Some((durable, states.len(), disk.crash(|_, _| {
                        bits = bits.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                        bits >> 63 == 1
                    })));
                }
            }
            drop(log);
            let (durable, issued, image) = image.expect("taken at one of the steps");
            disk = SimDisk::with(&image);
            let found = snapshot(&open(&disk).unwrap());
            let place = states[durable as usize..issued].iter().position(|state| *state == found);
            prop_assert!(place.is_some(), "{:?} is none of {:?}", found, &states[durable as usize..issued]);
            model = found;
        }
    }
}

/// A log in memory that holds the same.
fn replica((bounds, vote, entries): &Snapshot) -> MemLog<Blob> {
    let memory = MemLog::new();
    if let Some(purged) = bounds.purged {
        memory.purge(purged).unwrap();
    }
    if let Some(vote) = vote {
        memory.save_vote(*vote, Box::new(|_| {})).unwrap();
    }
    memory.append(entries.clone(), Box::new(|_| {})).unwrap();
    memory
}
