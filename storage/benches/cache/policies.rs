//! The cache of a node and two other ways of choosing what to keep, behind one face. All are bounded by the same
//! bytes, counted alike.

use std::hash::{BuildHasher, RandomState};

use bytes::Bytes;
use lru::LruCache;
use parking_lot::Mutex;
use quick_cache::{unsync, Weighter};
use vaultdb_kv::Versioned;

use crate::cache::{Cache, Found, ENTRY_OVERHEAD_BYTES};

pub trait Policy: Send + Sync {
    /// Looks the key up and, where it is missing, stores the value as one that was read. Whether it was there.
    fn read(&self, key: &[u8], value: &Bytes) -> bool;
}

pub type Make = fn(usize) -> Box<dyn Policy>;

/// Each makes a cache of at most so many bytes.
pub const POLICIES: [(&str, Make); 3] = [
    ("LRU, sharded (a node's)", |bytes| Box::new(Cache::new(bytes))),
    ("segmented LRU, sharded", |bytes| Box::new(Segmented::new(bytes))),
    ("quick_cache, sharded", |bytes| Box::new(Quick::new(bytes))),
];

fn entry_bytes(key: usize, value: usize) -> usize {
    key + value + ENTRY_OVERHEAD_BYTES
}

impl Policy for Cache {
    fn read(&self, key: &[u8], value: &Bytes) -> bool {
        match self.begin_fill(key) {
            Found::Hit(_) => true,
            Found::Miss(token) => {
                self.complete_fill(token, key, &Versioned { value: value.clone(), revision: 1 });
                false
            }
        }
    }
}

/// As the cache of a node has them.
const SHARDS: usize = 16;
/// Part of a shard that only what was read twice may take, in percent.
const PROTECTED_PERCENT: usize = 80;

/// Two LRU lists for each shard: what was read once leaves before what was read again (Karedla, Love and Wherry
/// 1994, "Caching strategies to improve disk system performance").
struct Segmented {
    shards: Vec<Mutex<Shard>>,
    hasher: RandomState,
    shard_bytes_max: usize,
}

struct Shard {
    once: LruCache<Box<[u8]>, Versioned>,
    again: LruCache<Box<[u8]>, Versioned>,
    once_bytes: usize,
    again_bytes: usize,
}

impl Segmented {
    fn new(bytes: usize) -> Self {
        let (once, again) = (LruCache::unbounded, LruCache::unbounded);
        let shard = || Mutex::new(Shard { once: once(), again: again(), once_bytes: 0, again_bytes: 0 });
        let shards = (0..SHARDS).map(|_| shard()).collect();
        Self { shards, hasher: RandomState::new(), shard_bytes_max: bytes / SHARDS }
    }
}

impl Policy for Segmented {
    fn read(&self, key: &[u8], value: &Bytes) -> bool {
        let index = self.hasher.hash_one(key) as usize & (SHARDS - 1);
        let mut shard = self.shards[index].lock();
        let shard = &mut *shard;
        if let Some(found) = shard.again.get(key) {
            drop(found.clone());
            return true;
        }
        let hit = shard.once.pop_entry(key);
        let was_there = hit.is_some();
        if let Some((key, found)) = hit {
            let bytes = entry_bytes(key.len(), found.value.len());
            drop(found.clone());
            shard.once_bytes -= bytes;
            shard.again_bytes += bytes;
            shard.again.put(key, found);
            while shard.again_bytes > self.shard_bytes_max * PROTECTED_PERCENT / 100 {
                let Some((key, back)) = shard.again.pop_lru() else { break };
                let bytes = entry_bytes(key.len(), back.value.len());
                shard.again_bytes -= bytes;
                shard.once_bytes += bytes;
                shard.once.put(key, back);
            }
        } else {
            let value = Versioned { value: Bytes::copy_from_slice(value), revision: 1 };
            shard.once_bytes += entry_bytes(key.len(), value.value.len());
            shard.once.put(key.into(), value);
        }
        while shard.once_bytes + shard.again_bytes > self.shard_bytes_max {
            let Some((key, gone)) = shard.once.pop_lru() else { break };
            shard.once_bytes -= entry_bytes(key.len(), gone.value.len());
        }
        was_there
    }
}

#[derive(Clone)]
struct ByBytes;

impl Weighter<Box<[u8]>, Versioned> for ByBytes {
    fn weight(&self, key: &Box<[u8]>, value: &Versioned) -> u64 {
        entry_bytes(key.len(), value.value.len()) as u64
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
        let entries = bytes / entry_bytes(16, 100);
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
        let value = Versioned { value: Bytes::copy_from_slice(value), revision: 1 };
        shard.lock().insert(key.into(), value);
        false
    }
}
