//! What can be tuned, with the defaults and why they are what they are.

use std::time::Duration;

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

/// Options of the Raft log on disk.
#[derive(Debug, Clone)]
pub struct LogOptions {
    /// A chunk file is closed once it is this large, in bytes.
    ///
    /// Entries of the open chunk stay decoded in memory, and closing one evicts them all at once
    /// inside an append, so a large chunk stalls the caller.
    pub chunk_bytes: usize,
    /// How long a flush waits for more appends to share its fdatasync.
    ///
    /// Not below some 20 µs: the deadline is checked before the queue is drained, so a tiny one gives
    /// every append an fdatasync of its own.
    pub flush_batch_wait: Duration,
    /// Decoded entries of closed chunks that are kept in memory, in bytes.
    pub cache_bytes: usize,
    /// Bytes of appends that may wait for the disk before an append waits itself.
    pub queue_bytes_max: usize,
    /// Longest wait of an append for a full queue; then the log fails for good.
    pub queue_wait_max: Duration,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            chunk_bytes: 8 << 20,
            flush_batch_wait: Duration::from_micros(30),
            cache_bytes: 8 << 20,
            queue_bytes_max: 48 << 20,
            queue_wait_max: Duration::from_secs(10),
        }
    }
}
