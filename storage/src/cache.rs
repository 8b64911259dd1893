//! The cache of keys that are present: a segmented LRU in shards, bounded by bytes.
//!
//! Invariant: no entry is older than the last write of its key that was published. The danger is the
//! stale fill: a reader fetches the old value, a write replaces it, the reader stores the old one.
//! Therefore a miss hands out the epoch of its shard, every write to the shard raises the epoch, and a
//! fill whose epoch has passed is dropped.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use vaultdb_kv::{Revision, Versioned};

use crate::segments::{entry_bytes, Segments};
use crate::stats::CacheStats;

const SHARDS_MAX: usize = 16;
/// Below this a shard would hold too few entries to be worth its lock.
const SHARD_BYTES_MIN: usize = 16 << 10;
/// An entry may take up to this part of its shard, so that one value never sweeps out all the others.
const ENTRY_SHARE: usize = 8;
/// Part of a shard that only what was read again may take, in percent: docs/adr/0009-cache-policy.md.
const PROTECTED_PERCENT: usize = 80;

/// Permission to store what was read after a miss, valid while nothing was written to the shard.
#[derive(Debug)]
#[must_use]
pub(crate) struct FillToken {
    shard: usize,
    epoch: u64,
}

#[derive(Debug)]
pub(crate) enum Found {
    Hit(Versioned),
    Miss(FillToken),
}

struct Shard {
    entries: Segments,
    epoch: u64,
}

pub(crate) struct Cache {
    shards: Box<[Mutex<Shard>]>,
    hasher: RandomState,
    shard_bytes_max: usize,
    hits: AtomicU64,
    misses: AtomicU64,
}

impl Cache {
    /// A cache of at most `bytes_max` bytes; with 0 it holds nothing.
    pub(crate) fn new(bytes_max: usize) -> Self {
        let wanted = (bytes_max / SHARD_BYTES_MIN).clamp(1, SHARDS_MAX);
        // The power of two at or below, so that a shard is chosen by a mask.
        let count = 1 << wanted.ilog2();
        let shard_bytes_max = bytes_max / count;
        let shard =
            || Mutex::new(Shard { entries: Segments::new(shard_bytes_max, PROTECTED_PERCENT), epoch: 0 });
        Self {
            shards: (0..count).map(|_| shard()).collect(),
            hasher: RandomState::new(),
            shard_bytes_max,
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        }
    }

    /// Looks a key up. On a miss read the engine *after* this call, then call [`Cache::complete_fill`].
    pub(crate) fn begin_fill(&self, key: &[u8]) -> Found {
        let index = self.shard_of(key);
        let mut shard = self.shards[index].lock();
        if let Some(found) = shard.entries.get(key) {
            drop(shard);
            self.hits.fetch_add(1, Ordering::Relaxed);
            return Found::Hit(found);
        }
        let epoch = shard.epoch;
        drop(shard);
        self.misses.fetch_add(1, Ordering::Relaxed);
        Found::Miss(FillToken { shard: index, epoch })
    }

    /// Stores what was read, unless the shard was written to since the miss. Tells whether it did.
    pub(crate) fn complete_fill(&self, token: FillToken, key: &[u8], read: &Versioned) -> bool {
        let mut shard = self.shards[token.shard].lock();
        shard.epoch == token.epoch && self.put(&mut shard, key, &read.value, read.revision)
    }

    /// What a write does for each key after the engine has it and before its revision is published. A key
    /// that is not here stays out.
    pub(crate) fn update(&self, key: &[u8], change: Option<(Revision, &Bytes)>) {
        let mut shard = self.shards[self.shard_of(key)].lock();
        shard.epoch += 1;
        match change {
            // Only what was read is worth its place; what was just written is found in the engine's memory.
            Some((revision, value)) if shard.entries.peek(key).is_some() => {
                self.put(&mut shard, key, value, revision);
            }
            Some(_) => {}
            None => shard.entries.remove(key),
        }
    }

    /// Forgets everything, and every fill that is under way.
    pub(crate) fn clear(&self) {
        for shard in &self.shards {
            let mut shard = shard.lock();
            shard.epoch += 1;
            shard.entries.clear();
        }
    }

    /// The revision of a key that is known to be present; says nothing about absence.
    pub(crate) fn revision_of(&self, key: &[u8]) -> Option<Revision> {
        self.shards[self.shard_of(key)].lock().entries.peek(key).map(|found| found.revision)
    }

    pub(crate) fn stats(&self) -> CacheStats {
        let mut stats = CacheStats {
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            ..CacheStats::default()
        };
        for shard in &self.shards {
            let shard = shard.lock();
            stats.entries += shard.entries.len() as u64;
            stats.bytes += shard.entries.bytes() as u64;
        }
        stats
    }

    fn shard_of(&self, key: &[u8]) -> usize {
        // The count is a power of two; the cast keeps the low bits, which is what the mask needs.
        self.hasher.hash_one(key) as usize & (self.shards.len() - 1)
    }

    fn put(&self, shard: &mut Shard, key: &[u8], value: &Bytes, revision: Revision) -> bool {
        if entry_bytes(key, value) > self.shard_bytes_max / ENTRY_SHARE {
            // What may be there is older.
            shard.entries.remove(key);
            return false;
        }
        // A copy: the bytes given may be a slice of a much larger buffer, which would be kept alive
        // and counted by nobody.
        let value = Bytes::copy_from_slice(value);
        shard.entries.put(key, Versioned { value, revision });
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn versioned(value: &'static [u8], revision: Revision) -> Versioned {
        Versioned { value: Bytes::from_static(value), revision }
    }

    fn miss(cache: &Cache, key: &[u8]) -> FillToken {
        match cache.begin_fill(key) {
            Found::Miss(token) => token,
            Found::Hit(found) => panic!("unexpected hit: {found:?}"),
        }
    }

    /// Reads a key of the engine that holds `value`.
    fn read(cache: &Cache, key: &[u8], revision: Revision, value: Bytes) {
        if let Found::Miss(token) = cache.begin_fill(key) {
            cache.complete_fill(token, key, &Versioned { value, revision });
        }
    }

    fn hit(cache: &Cache, key: &[u8]) -> Option<Versioned> {
        match cache.begin_fill(key) {
            Found::Hit(found) => Some(found),
            Found::Miss(_) => None,
        }
    }

    /// A value read before a write of its key never enters the cache after that write.
    #[test]
    fn stale_fill_is_dropped() {
        let cache = Cache::new(1 << 20);
        let token = miss(&cache, b"k");
        cache.update(b"k", Some((2, &Bytes::from_static(b"new"))));
        assert!(!cache.complete_fill(token, b"k", &versioned(b"old", 1)));
        assert_eq!(hit(&cache, b"k"), None);
        read(&cache, b"k", 2, Bytes::from_static(b"new"));
        cache.update(b"k", Some((3, &Bytes::from_static(b"newer"))));
        assert_eq!(hit(&cache, b"k"), Some(versioned(b"newer", 3)));
    }

    /// The same when the write was a delete, or the value too large to be cached.
    #[test]
    fn stale_fill_is_dropped_after_removal() {
        let cache = Cache::new(1 << 20);
        let token = miss(&cache, b"k");
        cache.update(b"k", None);
        assert!(!cache.complete_fill(token, b"k", &versioned(b"old", 1)));
        let token = miss(&cache, b"k");
        cache.update(b"k", Some((2, &Bytes::from(vec![0; 1 << 20]))));
        assert!(!cache.complete_fill(token, b"k", &versioned(b"old", 1)));
        assert_eq!(hit(&cache, b"k"), None);
    }

    /// Clearing ends the fills that are under way in every shard.
    #[test]
    fn clear_ends_fills_in_every_shard() {
        let cache = Cache::new(1 << 20);
        let keys: Vec<Vec<u8>> = (0u16..200).map(|i| i.to_be_bytes().to_vec()).collect();
        let tokens: Vec<FillToken> = keys.iter().map(|key| miss(&cache, key)).collect();
        cache.clear();
        for (key, token) in keys.iter().zip(tokens) {
            assert!(!cache.complete_fill(token, key, &versioned(b"old", 1)));
        }
        assert_eq!(cache.stats().entries, 0);
    }

    /// The bound holds for both lists together whatever is stored, what was read last stays, and the count
    /// is exact.
    #[test]
    fn bytes_are_bounded() {
        let cache = Cache::new(SHARD_BYTES_MIN);
        for i in 0u32..10_000 {
            let value = Bytes::from(vec![0; (i % 700) as usize]);
            let key = (i % 997).to_be_bytes();
            cache.update(&key, Some((u64::from(i), &value)));
            read(&cache, &key, u64::from(i), value);
            // Some are read again, and grow while they are protected.
            if i % 3 == 0 {
                assert!(hit(&cache, &key).is_some());
                let value = Bytes::from(vec![1; (i % 900) as usize]);
                cache.update(&key, Some((u64::from(i), &value)));
            }
            assert!(cache.stats().bytes <= SHARD_BYTES_MIN as u64);
        }
        assert!(hit(&cache, &(9_999u32 % 997).to_be_bytes()).is_some());
        for i in 0u32..997 {
            cache.update(&i.to_be_bytes(), None);
        }
        assert_eq!((cache.stats().entries, cache.stats().bytes), (0, 0));
    }

    /// An overwritten value is not seen again: neither while its key is protected, nor once it is on probation
    /// again, nor after it has left and was read anew.
    #[test]
    fn overwritten_values_do_not_come_back() {
        let cache = Cache::new(SHARD_BYTES_MIN);
        let (old, new) = (Bytes::from_static(b"old"), Bytes::from_static(b"new"));
        read(&cache, b"k", 1, old);
        assert!(hit(&cache, b"k").is_some());
        cache.update(b"k", Some((2, &new)));
        assert_eq!(hit(&cache, b"k"), Some(versioned(b"new", 2)));
        // Others are read twice until they push it out of its place, then out of the cache.
        let mut was_on_probation = false;
        for other in 0u32..1_000 {
            for _ in 0..2 {
                read(&cache, &other.to_be_bytes(), 3, Bytes::new());
            }
            let shard = cache.shards[0].lock();
            match shard.entries.peek(b"k") {
                Some(found) => assert_eq!(*found, versioned(b"new", 2)),
                None => break,
            }
            was_on_probation |= shard.entries.is_on_probation(b"k");
        }
        assert!(was_on_probation);
        let token = miss(&cache, b"k");
        assert!(cache.complete_fill(token, b"k", &versioned(b"new", 2)));
        assert_eq!(hit(&cache, b"k"), Some(versioned(b"new", 2)));
    }

    proptest::proptest! {
        /// Whatever was read twice survives one pass over any number of other keys, of any size.
        #[test]
        fn one_pass_leaves_what_is_read_often(
            hot in 1u32..60,
            scanned in proptest::collection::vec(0usize..3_000, 0..2_000),
        ) {
            let cache = Cache::new(SHARD_BYTES_MIN);
            let key = |i: u32| i.to_be_bytes();
            for _ in 0..2 {
                (0..hot).for_each(|i| read(&cache, &key(i), 1, Bytes::from_static(b"hot")));
            }
            for (i, bytes) in (hot..).zip(&scanned) {
                read(&cache, &key(i), 1, Bytes::from(vec![0; *bytes]));
            }
            for i in 0..hot {
                proptest::prop_assert_eq!(hit(&cache, &key(i)), Some(versioned(b"hot", 1)));
            }
        }

        /// A hit is the value that was written last, whatever is read, written and removed in whatever order,
        /// by fills that a write overtakes, too.
        #[test]
        fn hits_are_what_was_written_last(steps in proptest::collection::vec((0u8..5, 0u8..40, 0usize..700), 0..2_000)) {
            let cache = Cache::new(SHARD_BYTES_MIN);
            let mut engine = std::collections::BTreeMap::new();
            let mut under_way: Option<(FillToken, u8, Option<Versioned>)> = None;
            for (revision, (step, key, bytes)) in (1u64..).zip(steps) {
                match step {
                    0 => {
                        let value = Bytes::from(vec![key; bytes]);
                        cache.update(&[key], Some((revision, &value)));
                        engine.insert(key, Versioned { value, revision });
                    }
                    1 => {
                        cache.update(&[key], None);
                        engine.remove(&key);
                    }
                    2 => if let Some((token, key, Some(found))) = under_way.take() {
                        cache.complete_fill(token, &[key], &found);
                    },
                    3.. => match cache.begin_fill(&[key]) {
                        Found::Hit(found) => proptest::prop_assert_eq!(Some(&found), engine.get(&key)),
                        Found::Miss(token) => under_way = Some((token, key, engine.get(&key).cloned())),
                    },
                }
                proptest::prop_assert!(cache.stats().bytes <= SHARD_BYTES_MIN as u64);
            }
        }
    }

    /// A value that takes too large a part of its shard replaces nothing, and its old entry goes.
    #[test]
    fn large_values_stay_out() {
        let cache = Cache::new(SHARD_BYTES_MIN);
        read(&cache, b"k", 1, Bytes::from_static(b"small"));
        cache.update(b"k", Some((2, &Bytes::from(vec![0; SHARD_BYTES_MIN / ENTRY_SHARE]))));
        assert_eq!(hit(&cache, b"k"), None);
        assert_eq!(cache.stats().bytes, 0);
    }

    /// With no bytes it is switched off.
    #[test]
    fn zero_bytes_hold_nothing() {
        let cache = Cache::new(0);
        read(&cache, b"k", 1, Bytes::new());
        assert_eq!(hit(&cache, b"k"), None);
    }
}
