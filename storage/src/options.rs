//! What can be tuned of the state machine, with the defaults and why they are what they are.

use crate::attempts::AttemptLimits;

/// Options of the state machine.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// Bytes that the LRU cache may hold, keys, values and overhead together; 0 switches it off.
    pub cache_bytes: usize,
    /// Bytes of RocksDB's own cache of uncompressed blocks.
    pub block_cache_bytes: usize,
    /// Bytes of one memtable. What is in memtables is replayed from the Raft log after a crash.
    pub write_buffer_bytes: usize,
    /// RocksDB's threads for flushes and compactions.
    pub background_jobs: i32,
    /// How long answers to named writes are kept. Not for tuning: a node with other limits than its peers
    /// would hold another state.
    pub attempts: AttemptLimits,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            cache_bytes: 64 << 20,
            block_cache_bytes: 64 << 20,
            write_buffer_bytes: 32 << 20,
            // One flush and one compaction at a time: enough for one node, and five share a host.
            background_jobs: 2,
            attempts: AttemptLimits::default(),
        }
    }
}
