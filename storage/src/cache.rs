//! The LRU cache of keys that are present, bounded by bytes.
//!
//! Invariant: no entry is older than the last write of its key that was published. The danger is the
//! stale fill: a reader fetches the old value, a write replaces it, the reader stores the old one.
//! Therefore a miss hands out the epoch of its shard, every write to the shard raises the epoch, and a
//! fill whose epoch has passed is dropped.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use lru::LruCache;
use parking_lot::Mutex;
use vaultdb_kv::{Revision, Versioned};

use crate::stats::CacheStats;

const SHARDS_MAX: usize = 16;
/// Below this a shard would hold too few entries to be worth its lock.
const SHARD_BYTES_MIN: usize = 16 << 10;
/// An entry may take up to this part of its shard, so that one value never sweeps out all the others.
const ENTRY_SHARE: usize = 8;
/// What an entry takes besides its key and value: list node, slot of the table, two allocations.
pub(crate) const ENTRY_OVERHEAD_BYTES: usize = 160;

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
    entries: LruCache<Box<[u8]>, Versioned>,
    bytes: usize,
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
        let shard = || Mutex::new(Shard { entries: LruCache::unbounded(), bytes: 0, epoch: 0 });
        Self {
            shards: (0..count).map(|_| shard()).collect(),
            hasher: RandomState::new(),
            shard_bytes_max: bytes_max / count,
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        }
    }

    /// Looks a key up. On a miss read the engine *after* this call, then call [`Cache::complete_fill`].
    pub(crate) fn begin_fill(&self, key: &[u8]) -> Found {
        let index = self.shard_of(key);
        let mut shard = self.shards[index].lock();
        if let Some(found) = shard.entries.get(key) {
            let found = found.clone();
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
            Some((revision, value)) if shard.entries.contains(key) => {
                self.put(&mut shard, key, value, revision);
            }
            Some(_) => {}
            None => shard.remove(key),
        }
    }

    /// Forgets everything, and every fill that is under way.
    pub(crate) fn clear(&self) {
        for shard in &self.shards {
            let mut shard = shard.lock();
            shard.epoch += 1;
            shard.entries.clear();
            shard.bytes = 0;
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
            stats.bytes += shard.bytes as u64;
        }
        stats
    }

    fn shard_of(&self, key: &[u8]) -> usize {
        // The count is a power of two; the cast keeps the low bits, which is what the mask needs.
        self.hasher.hash_one(key) as usize & (self.shards.len() - 1)
    }

    fn put(&self, shard: &mut Shard, key: &[u8], value: &Bytes, revision: Revision) -> bool {
        shard.remove(key);
        let bytes = entry_bytes(key.len(), value.len());
        if bytes > self.shard_bytes_max / ENTRY_SHARE {
            return false;
        }
        // A copy: the bytes given may be a slice of a much larger buffer, which would be kept alive
        // and counted by nobody.
        let value = Bytes::copy_from_slice(value);
        shard.entries.put(key.into(), Versioned { value, revision });
        shard.bytes += bytes;
        while shard.bytes > self.shard_bytes_max {
            let Some((key, evicted)) = shard.entries.pop_lru() else { break };
            shard.bytes -= entry_bytes(key.len(), evicted.value.len());
        }
        true
    }
}

impl Shard {
    fn remove(&mut self, key: &[u8]) {
        if let Some(removed) = self.entries.pop(key) {
            self.bytes -= entry_bytes(key.len(), removed.value.len());
        }
    }
}

fn entry_bytes(key: usize, value: usize) -> usize {
    key + value + ENTRY_OVERHEAD_BYTES
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

    /// The bound holds whatever is stored, the least recently used goes first, and the count is exact.
    #[test]
    fn bytes_are_bounded() {
        let cache = Cache::new(SHARD_BYTES_MIN);
        for i in 0u32..10_000 {
            let value = Bytes::from(vec![0; (i % 700) as usize]);
            let key = (i % 997).to_be_bytes();
            cache.update(&key, Some((u64::from(i), &value)));
            read(&cache, &key, u64::from(i), value);
            assert!(cache.stats().bytes <= SHARD_BYTES_MIN as u64);
        }
        assert!(hit(&cache, &(9_999u32 % 997).to_be_bytes()).is_some());
        for i in 0u32..997 {
            cache.update(&i.to_be_bytes(), None);
        }
        assert_eq!((cache.stats().entries, cache.stats().bytes), (0, 0));
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
