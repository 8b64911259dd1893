//! Property: what was acknowledged and is damaged is refused, never repaired and never silently left out.

use proptest::prelude::*;

use super::super::{sector, segment};
use super::*;

/// One of each record, in several batches of one segment.
fn small_log() -> (Image, Vec<(LogId, Blob)>) {
    let disk = SimDisk::default();
    let log = open(&disk).unwrap();
    let (done, durable) = waiter();
    log.save_vote(vote(1), done).unwrap();
    durable.recv().unwrap().unwrap();
    append(&log, entries(1, 1..=3));
    log.save_committed(Some(id(1, 2))).unwrap();
    log.truncate_after(Some(id(1, 2))).unwrap();
    log.purge(id(1, 1)).unwrap();
    append(&log, vec![entry(2, 3), (id(2, 4), Blob(vec![4; 600]))]);
    let image = disk.image();
    let whole = all(&log);
    drop(log);
    let first = image.into_iter().next().expect("a segment");
    (Image::from([first]), whole)
}

/// Also of the last batch, which nothing follows; and of the zeros behind it, where a bit is either told from an
/// unfinished write or taken for one, of which nobody was told.
#[test]
fn every_flipped_bit() {
    let (image, whole) = small_log();
    let (name, content) = image.iter().next().unwrap();
    let used = content.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    assert_eq!((used % 512, recovered(&image).as_ref()), (0, Some(&whole)));
    for bit in 0..content.len() * 8 {
        let mut changed = image.clone();
        changed.get_mut(name).unwrap()[bit / 8] ^= 1 << (bit % 8);
        let found = recovered(&changed);
        if bit / 8 < used || bit / 8 % 512 == 511 {
            assert_eq!(found, None, "bit {bit}");
        } else {
            assert_eq!(found.as_ref(), Some(&whole), "bit {bit}");
        }
    }
}

/// A log of several segments with one batch in each sector.
fn long_log() -> (Image, Vec<(LogId, Blob)>) {
    let disk = SimDisk::default();
    let log = open(&disk).unwrap();
    for index in 1..=30 {
        append(&log, vec![entry(1, index)]);
    }
    let image = disk.image();
    let whole = all(&log);
    drop(log);
    (image, whole)
}

/// Sectors that are gone, which alone would look like a write that never happened, are noticed by what follows,
/// also in the next segment.
#[test]
fn lost_sectors_before_the_last_batch() {
    let (image, whole) = long_log();
    let used: Vec<(String, usize)> = image
        .iter()
        .flat_map(|(name, content)| {
            let sectors =
                content.chunks(512).enumerate().filter(|(_, sector)| sector.iter().any(|byte| *byte != 0));
            sectors.map(|(i, _)| (name.clone(), i)).collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(used.len(), 30);
    let zero = |image: &mut Image, (name, i): &(String, usize), from: usize| {
        image.get_mut(name).unwrap()[i * 512 + from..(i + 1) * 512].fill(0);
    };
    for sector in &used[..29] {
        for from in [0, 1, 100, 511] {
            let mut damaged = image.clone();
            zero(&mut damaged, sector, from);
            assert_eq!(recovered(&damaged), None, "{sector:?} from {from}");
        }
    }
    let mut torn = image.clone();
    zero(&mut torn, &used[29], 0);
    assert_eq!(recovered(&torn).as_deref(), Some(&whole[..29]));
    // Several in a row, up to the last one.
    for from in 0..28 {
        let mut damaged = image.clone();
        used[from..29].iter().for_each(|sector| zero(&mut damaged, sector, 0));
        assert_eq!(recovered(&damaged), None, "from {from}");
    }
}

/// Sectors are bound to their places: none passes for another one, also not a whole file.
#[test]
fn sectors_in_the_wrong_place() {
    let (image, _) = long_log();
    let names: Vec<&String> = image.keys().collect();
    let first = &image[names[0]];
    for (a, b) in [(1, 2), (0, 1), (3, 6)] {
        let mut swapped = image.clone();
        let content = swapped.get_mut(names[0]).unwrap();
        content[a * 512..(a + 1) * 512].copy_from_slice(&first[b * 512..(b + 1) * 512]);
        assert_eq!(recovered(&swapped), None, "{b} instead of {a}");
    }
    let mut swapped = image.clone();
    swapped.insert(names[1].clone(), first.clone());
    assert_eq!(recovered(&swapped), None);
}

#[test]
fn missing_segments() {
    let (image, _) = long_log();
    let names: Vec<String> = image.keys().cloned().collect();
    assert!(names.len() >= 4, "{names:?}");
    for missing in &names[..names.len() - 2] {
        let mut damaged = image.clone();
        damaged.remove(missing);
        assert_eq!(recovered(&damaged), None, "{missing}");
    }
}

/// A segment that was never used may be lost: nothing was in it.
#[test]
fn unused_segment_may_be_lost_or_there() {
    let (image, whole) = long_log();
    let mut spare = image.clone();
    spare.retain(|_, content| content.iter().any(|byte| *byte != 0));
    assert_eq!(recovered(&spare).as_ref(), Some(&whole));
    let next = spare.len() as u64 + 1;
    spare.insert(segment::name(next), vec![0; SEGMENT_BYTES]);
    assert_eq!(recovered(&spare).as_ref(), Some(&whole));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// No content of the files makes recovery panic: neither any bytes, nor any bytes in sectors that are whole. The
    /// fuzzer of storage/fuzz looks for longer, and at more than this.
    #[test]
    fn any_bytes(
        raw in proptest::collection::vec(any::<u8>(), 0..2_000),
        payload in proptest::collection::vec(any::<u8>(), 1..1_500),
        change in any::<(usize, u8)>(),
    ) {
        drop(recovered(&Image::from([(segment::name(1), raw)])));
        let mut framed = Vec::new();
        sector::frame(&mut framed, 1, 0, 1, &payload);
        drop(recovered(&Image::from([(segment::name(1), framed.clone())])));
        // Records that are whole, up to a byte of one of them.
        let (image, _) = small_log();
        let content = image.values().next().expect("a segment");
        let mut records: Vec<u8> = content[10..507].to_vec();
        let at = change.0 % records.len();
        records[at] = change.1;
        sector::frame(&mut framed, 1, 0, 1, &records);
        drop(recovered(&Image::from([(segment::name(1), framed)])));
    }
}
