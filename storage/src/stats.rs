//! Figures of the store for status and metrics.

use vaultdb_kv::Revision;

/// Figures of the LRU cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CacheStats {
    pub entries: u64,
    pub bytes: u64,
    pub hits: u64,
    pub misses: u64,
}

/// Figures of the store, read from memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StoreStats {
    pub revision: Revision,
    /// About how many keys there are; at most a second old.
    pub keys_estimate: u64,
    /// What the data takes on disk, in bytes, snapshots apart; at most a second old.
    pub disk_bytes: u64,
    pub cache: CacheStats,
}
