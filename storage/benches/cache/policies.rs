//! The cache of a node and other ways of choosing what to keep, behind one face. All are bounded by the same
//! bytes, counted alike.

use std::hash::{BuildHasher, RandomState};

use bytes::Bytes;
use lru::LruCache;
use parking_lot::Mutex;
use quick_cache::{unsync, Weighter};
use vaultdb_kv::Versioned;

use crate::cache::{Cache, Found};
use crate::segments::{entry_bytes, Segments};

pub trait Policy: Send + Sync {
    /// Looks the key up and, where it is missing, stores the value as one that was read. Whether it was there.
    fn read(&self, key: &[u8], value: &Bytes) -> bool;
}

pub type Make = fn(usize) -> Box<dyn Policy>;

/// Each makes a cache of at most so many bytes.
pub const POLICIES: [(&str, Make); 3] = [
    ("LRU, sharded", |bytes| Box::new(Lru::new(bytes))),
    ("segmented LRU, sharded (a node's)", |bytes| Box::new(Cache::new(bytes))),
    ("quick_cache, sharded", |bytes| Box::new(Quick::new(bytes))),
];

impl Policy for Cache {
    fn read(&self, key: &[u8], value: &Bytes) -> bool {
        match self.begin_fill(key) {
            Found::Hit(_) => true,
            Found::Miss(token) => {
                self.complete_fill(token, key, &versioned(value));
                false
            }
        }
    }
}

/// A copy, as a node makes one.
fn versioned(value: &Bytes) -> Versioned {
    Versioned { value: Bytes::copy_from_slice(value), revision: 1 }
}

/// A node's lists, in one shard, with another share of them protected.
pub struct Share(Mutex<Segments>);

impl Share {
    pub fn new(bytes: usize, protected_percent: usize) -> Self {
        Self(Mutex::new(Segments::new(bytes, protected_percent)))
    }
}

impl Policy for Share {
    fn read(&self, key: &[u8], value: &Bytes) -> bool {
        let mut segments = self.0.lock();
        let was_there = segments.get(key).is_some();
        if !was_there {
            segments.put(key, versioned(value));
        }
        was_there
    }
}

/// As the cache of a node has them.
const SHARDS: usize = 16;

struct Lru {
    shards: Vec<Mutex<LruShard>>,
    hasher: RandomState,
    shard_bytes_max: usize,
}

struct LruShard {
    entries: LruCache<Box<[u8]>, Versioned>,
    bytes: usize,
}

impl Lru {
    fn new(bytes: usize) -> Self {
        let shard = || Mutex::new(LruShard { entries: LruCache::unbounded(), bytes: 0 });
        let shards = (0..SHARDS).map(|_| shard()).collect();
        Self { shards, hasher: RandomState::new(), shard_bytes_max: bytes / SHARDS }
    }
}

impl Policy for Lru {
    fn read(&self, key: &[u8], value: &Bytes) -> bool {
        let shard = &self.shards[self.hasher.hash_one(key) as usize & (SHARDS - 1)];
        let found = shard.lock().entries.get(key).cloned();
        if found.is_some() {
            return true;
        }
        // As a node does: the lock is free while the engine is asked.
        let mut shard = shard.lock();
        shard.bytes += entry_bytes(key, value);
        if let Some(old) = shard.entries.put(key.into(), versioned(value)) {
            shard.bytes -= entry_bytes(key, &old.value);
        }
        while shard.bytes > self.shard_bytes_max {
            let Some((key, gone)) = shard.entries.pop_lru() else { break };
            shard.bytes -= entry_bytes(&key, &gone.value);
        }
        false
    }
}

#[derive(Clone)]
struct ByBytes;

impl Weighter<Box<[u8]>, Versioned> for ByBytes {
    fn weight(&self, key: &Box<[u8]>, value: &Versioned) -> u64 {
        entry_bytes(key, &value.value) as u64
    }
}

/// A clock with a list of what left lately, close to S3-FIFO (Yang et al. 2023, "FIFO queues are all you need for
/// cache eviction"), in shards as a node's.
struct Quick {
    shards: Vec<Mutex<QuickShard>>,
    hasher: RandomState,
}

type QuickShard = unsync::Cache<Box<[u8]>, Versioned, ByBytes>;

impl Quick {
    fn new(bytes: usize) -> Self {
        let bytes = bytes / SHARDS;
        // The crate sizes its list of what left by this.
        let entries = bytes / entry_bytes(&[0; 16], &[0; 100]);
        let shard = |_| Mutex::new(unsync::Cache::with_weighter(entries, bytes as u64, ByBytes));
        Self { shards: (0..SHARDS).map(shard).collect(), hasher: RandomState::new() }
    }
}

impl Policy for Quick {
    fn read(&self, key: &[u8], value: &Bytes) -> bool {
        let shard = &self.shards[self.hasher.hash_one(key) as usize & (SHARDS - 1)];
        let found = shard.lock().get(key).cloned();
        if found.is_some() {
            return true;
        }
        // As a node does: the lock is free while the engine is asked.
        shard.lock().insert(key.into(), versioned(value));
        false
    }
}
